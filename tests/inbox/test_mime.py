"""What people read of a message: decoded where it can be, shown as it stands where not, never a fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.inbox.mime import MAX_TEXT, display, preview


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b" plain words", "plain words"),
        (b" folded\r\n\tover lines", "folded over lines"),
        (b" =?ISO-8859-1?Q?a?= b", "a b"),  # RFC 2047 §8
        (b" =?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),  # RFC 2047 §8
        (b" =?ISO-8859-1?Q?a?=  \r\n   =?ISO-8859-1?Q?b?=", "ab"),  # RFC 2047 §8
        (b" =?ISO-8859-1?Q?a_b?=", "a b"),  # RFC 2047 §8
        (b" =?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>", "Keith Moore <moore@cs.utk.edu>"),  # RFC 2047 §8
        (b" =?utf-8?b?w4Q=?=", "\u00c4"),
        ("Grüße".encode(), "Grüße"),  # RFC 6532
        (b"\xff", "\ufffd"),
        (b" =?no-such?q?x?=", "=?no-such?q?x?="),
        (b" =?utf-8?q?a=0D=0Ab?=", "a b"),  # a line break smuggled in stays within the line
    ],
)
def test_a_field_is_one_decoded_line(value: bytes, shown: str) -> None:
    assert display(value) == shown


FIELD = st.one_of(
    st.binary(max_size=400),
    st.lists(
        st.sampled_from(
            [b"=?utf-8?q?", b"=?utf-7?b?", b"=?punycode?q?", b"?=", b"=?", b"\r\n ", b"(", b"+2AA-", b"\x00"]
        )
        | st.binary(max_size=4),
        max_size=60,
    ).map(b"".join),
)


@given(FIELD)
def test_any_octets_can_be_shown(value: bytes) -> None:
    shown = display(value)
    shown.encode("utf-8")  # no lone surrogates
    assert "\n" not in shown
    assert "\r" not in shown


PLAIN_PART = (
    b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe\r\n"
)
HTML_PART = b"Content-Type: text/html\r\n\r\n<p>hi</p>\r\n"


def multipart(*parts: bytes) -> bytes:
    body = b"".join(b"--x\r\n" + part for part in parts)
    return b"Content-Type: multipart/alternative; boundary=x\r\n\r\n" + body + b"--x--\r\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"Subject: x\r\n\r\nhello\r\n", "hello\r\n"),
        (PLAIN_PART, "Grüße\r\n"),
        (multipart(HTML_PART, PLAIN_PART), "Grüße\r"),
        (multipart(HTML_PART), "<p>hi</p>\r"),
        (b"Content-Type: image/png\r\n\r\n\x89PNG", ""),
        (b"Content-Type: text/plain; charset=no-such\r\n\r\n\xc3\xa9", "é"),
        (b"Content-Type: text/plain; charset=hex\r\n\r\nab", "ab"),
        (b"", ""),
    ],
)
def test_the_text_is_the_plain_part_else_another(source: bytes, text: str) -> None:
    assert preview(source).strip() == text.strip()


@pytest.mark.parametrize(
    "source",
    [
        b"".join(
            b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (level, level) for level in range(3000)
        ),
        b"Content-Type: " + b"(" * 100_000 + b"\r\n\r\nx",
        b"Content-Type: text/plain; " + b"a*0*=x; " * 10_000 + b"\r\n\r\nx",
        b"Content-Type: message/rfc822\r\n\r\n" * 3000,
    ],
    ids=["nested parts", "parentheses", "parameters", "nested messages"],
)
def test_hostile_mime_is_no_fault(source: bytes) -> None:
    assert isinstance(preview(source), str)


def test_a_long_text_is_cut() -> None:
    assert len(preview(b"\r\n" + b"word " * 1_000_000)) == MAX_TEXT


@given(st.binary(max_size=600))
def test_any_octets_have_a_preview(source: bytes) -> None:
    preview(source).encode("utf-8")
    preview(multipart(source)).encode("utf-8")
