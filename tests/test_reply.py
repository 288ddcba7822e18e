"""Replies on the wire, and what is left of a next hop's text."""

import pytest

from relay import reply
from relay.reply import Reply, from_hop

WIRE = [
    # RFC 5321 §4.2.1: code, separator, text; RFC 2034 §4: the enhanced code on every line
    (Reply(250, "1.0", "OK"), b"250 2.1.0 OK\r\n"),
    (Reply(550, "7.1", "one\ntwo"), b"550-5.7.1 one\r\n550 5.7.1 two\r\n"),
    (Reply(354, "", "go"), b"354 go\r\n"),
    (Reply(220, "", "host ESMTP\nsecond"), b"220-host ESMTP\r\n220 second\r\n"),
    (Reply(250, "0.0", ""), b"250 2.0.0\r\n"),
]


@pytest.mark.parametrize(("given", "wire"), WIRE)
def test_a_reply_is_written_as_rfc_5321_has_it(given: Reply, wire: bytes) -> None:
    assert given.wire() == wire


FROM_HOP = [
    (550, [b"5.1.1 no such user"], "550 5.1.1 no such user"),
    (550, [b"no such user"], "550 5.0.0 no such user"),
    # The enhanced code of another class is text, not ours to repeat as a code.
    (450, [b"5.1.1 odd"], "450 4.0.0 5.1.1 odd"),
    (250, [b"2.0.0 a", b"2.0.0 b"], "250 2.0.0 a b"),
    # reliability I4: CR, LF, escapes and 8-bit octets never come back out
    (554, [b"5.7.1 a\r\n250 injected"], "554 5.7.1 a??250 injected"),
    (554, [b"5.7.1 \x1b[31m\xffred\x00"], "554 5.7.1 ?[31m?red?"),
]


@pytest.mark.parametrize(("code", "lines", "text"), FROM_HOP)
def test_a_next_hops_reply_is_made_fit_to_repeat(code: int, lines: list[bytes], text: str) -> None:
    assert str(from_hop(code, lines)) == text


def test_a_next_hops_reply_is_capped() -> None:
    huge = from_hop(550, [b"5.1.1 " + b"x" * 4000, b"5.1.1 more"])
    assert len(huge.text) <= reply.MAX_HOP_TEXT


def test_every_reply_of_ours_is_one_printable_line_of_its_class() -> None:
    ours = [value for value in vars(reply).values() if isinstance(value, Reply)]
    assert len(ours) > 50
    for one in ours:
        assert one.text.isascii(), one
        assert one.text.isprintable(), one
        assert len(one.wire()) <= 512, one  # RFC 5321 §4.5.3.1.5
        assert one.detail or one.code in {220, 354}, one
