"""The Received field we add, and the loops that those of others show."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.address import Address
from relay.edit.trace import hops, own_hops, own_id, received_field
from relay.envelope import Client, Envelope, Tls
from relay.lexical import Kind, tokens, unfold
from relay.message import Message

TLS = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC, a Saturday
BOB = Address("bob", "example.com")


def received(recipients: tuple[Address, ...] = (BOB,), smtputf8: bool = False, **client: Any) -> str:
    """The field, unfolded, without name and CRLF."""
    given: dict[str, Any] = {"listener": "s", "role": "submission", "ip": ip_address("192.0.2.1"), "port": 1, **client}
    envelope = Envelope("id1", Client(**given), None, smtputf8=smtputf8, recipients=list(recipients))
    raw = received_field(envelope, "relay.example.net", NOON)
    message = Message.parse(raw + b"\r\n")
    assert [field.name for field in message.fields] == [b"received"], "one field and no more (RFC 5322 §2.2)"
    return unfold(message.fields[0].value).decode().replace("\t", " ").strip()


def test_the_clauses_of_rfc_5321_section_4_4_in_their_order() -> None:
    assert received(helo="client.example.org") == (
        "from client.example.org ([192.0.2.1]) by relay.example.net with ESMTP id id1 for <bob@example.com>; "
        "Sat, 21 Nov 2026 12:00:00 +0000"
    )


def test_tls_is_told_in_a_comment() -> None:
    assert "with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits) id id1" in received(helo="a.example", tls=TLS)


@pytest.mark.parametrize(
    ("word", "client", "smtputf8"),
    [
        ("SMTP", {"extended": False}, False),
        # RFC 3848
        ("ESMTP", {}, False),
        ("ESMTPS", {"tls": TLS}, False),
        ("ESMTPA", {"login": "ann"}, False),
        ("ESMTPSA", {"tls": TLS, "login": "ann"}, False),
        # RFC 6531 §4.3
        ("UTF8SMTP", {}, True),
        ("UTF8SMTPS", {"tls": TLS}, True),
        ("UTF8SMTPA", {"login": "ann"}, True),
        ("UTF8SMTPSA", {"tls": TLS, "login": "ann"}, True),
    ],
)
def test_the_word_behind_with(word: str, client: dict[str, Any], smtputf8: bool) -> None:
    assert f" with {word} " in received(helo="a.example", smtputf8=smtputf8, **client)


def test_the_login_is_not_told() -> None:
    assert "secretname" not in received(helo="a.example", login="secretname")


def test_ipv6_is_a_literal_of_rfc_5321_section_4_1_3() -> None:
    assert received(helo="[IPv6:2001:db8::1]", ip=ip_address("2001:db8::1")).startswith(
        "from [IPv6:2001:db8::1] ([IPv6:2001:db8::1]) by "
    )


@pytest.mark.parametrize("count", [0, 2, 3])
def test_several_recipients_are_not_told_to_each_other(count: int) -> None:
    recipients = tuple(Address(f"bcc{number}", "example.com") for number in range(count))
    assert "example.com" not in received(recipients, helo="a.example")


@pytest.mark.parametrize(
    "helo",
    [
        "",
        "a b",
        "a;b",
        "a(b",
        "a)b",
        'a"b',
        "a\\b",
        "a\r\nBcc: eve@example.net",
        "a\nb",
        "a\x00b",
        "by relay.example.net",
        "x by relay.example.net; (",
        "a,b",
        "<a>",
        "-a",
        "a" * 256,
        "[192.0.2.1",
        "[192.0.2.1] by x",
        "é.example",
        "${run{id}}",
        "%(x)s",
        "{{7*7}}",
        "\x1b[31m",
    ],
)
def test_what_is_no_name_is_not_written(helo: str) -> None:
    assert received(helo=helo).startswith("from invalid ([192.0.2.1]) by relay.example.net ")


@pytest.mark.parametrize("helo", ["a", "a.example", "DESKTOP_1", "a-b.c", "[192.0.2.1]", "a" * 255])
def test_a_name_is_written_as_it_was_said(helo: str) -> None:
    assert received(helo=helo).startswith(f"from {helo} ([192.0.2.1]) by ")


@pytest.mark.parametrize("local", ['"; by x; "', '"a) (b"', '"\\">"', '" by relay.example.net "', "a;b"[:1], '"@"'])
def test_a_quoted_recipient_stays_inside_its_path(local: str) -> None:
    field = received((Address(local, "example.com"),), helo="a.example")
    found = list(tokens(field))
    assert all(token.kind is not Kind.BROKEN for token in found)
    assert [token.text for token in found].count(";") == 1, "the date has the only semicolon"
    assert f"for <{local}@example.com>;" in field


@given(st.text(max_size=300), st.text(max_size=40), st.text(max_size=40))
def test_no_text_of_a_stranger_makes_a_line_a_clause_or_a_hop_of_ours(helo: str, version: str, cipher: str) -> None:
    field = received(helo=helo, tls=Tls(version, cipher, 1))
    found = list(tokens(field))
    assert all(token.kind is not Kind.BROKEN for token in found)
    assert [token.text for token in found].count(";") == 1
    raw = f"Received: {field}\r\n\r\n".encode()
    assert own_hops(Message.parse(raw), "relay.example.net") == 1


@pytest.mark.parametrize("helo", ["a.example", "a" * 255])
def test_lines_are_at_most_78_octets_but_for_one_long_word(helo: str) -> None:
    client = Client("s", "submission", ip_address("192.0.2.1"), 1, helo=helo, tls=TLS, login="ann")
    raw = received_field(Envelope("id1", client, None, recipients=[BOB]), "relay.example.net", NOON)
    assert raw.endswith(b"\r\n")
    lines = raw[:-2].split(b"\r\n")
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert not [line for line in lines if len(line) > 78 and b"a" * 60 not in line]
    assert max(map(len, lines)) <= 998  # RFC 5322 §2.1.1


def test_the_date_is_rfc_5322_and_the_time_given() -> None:
    assert parsedate_to_datetime(received(helo="a.example").rpartition(";")[2].strip()).timestamp() == NOON


def message(*values: str) -> Message:
    return Message.parse("".join(f"Received: {value}\r\n" for value in values).encode() + b"From: a@b.example\r\n\r\n")


def test_hops_are_counted() -> None:
    assert hops(message()) == 0
    assert hops(message("from a by b; date", "junk", "")) == 3
    assert hops(Message.parse(b"RECEIVED : x\r\nX-Received: y\r\n\r\nReceived: z\r\n")) == 1


@pytest.mark.parametrize(
    "value",
    [
        "from a by relay.example.net with SMTP; date",
        "from a BY Relay.EXAMPLE.net; date",
        "by relay.example.net; date",
        "by relay.example.net",
        "from a (b [1.2.3.4])\r\n\tby relay.example.net\r\n\twith SMTP; date",
        "from a (by x) by (c) relay.example.net(d) with SMTP; date",
        "from by by relay.example.net; date",
        "from a by relay.example.net. with SMTP; date",
    ],
)
def test_by_us(value: str) -> None:
    assert own_hops(message("from x by y; date", value), "relay.example.net") == 1


@pytest.mark.parametrize(
    "value",
    [
        "from relay.example.net by other.example; date",
        "from a (by relay.example.net) by other.example; date",
        "from a by relay.example.net.evil.example; date",
        "from a by xrelay.example.net; date",
        "from a by other.example for <by@relay.example.net>; date",
        'from a by other.example for <"by relay.example.net"@b>; date',
        "from by relay.example.net other.example; date",
        "from a by other.example; by relay.example.net",
        "from a by (relay.example.net) other.example; date",
        "from a (by relay.example.net; date",
        "relay.example.net",
        "",
        "by",
        "x" * 5000 + " by relay.example.net",
    ],
)
def test_not_by_us(value: str) -> None:
    assert own_hops(message(value), "relay.example.net") == 0


def test_our_own_fields_are_by_us() -> None:
    client = Client("s", "submission", ip_address("2001:db8::1"), 1, helo="x" * 255, tls=TLS, login="ann")
    raw = received_field(Envelope("id1", client, None, recipients=[BOB]), "relay.example.net", NOON)
    assert own_hops(Message.parse(raw * 3 + b"\r\n"), "RELAY.example.net") == 3


@given(
    st.lists(st.sampled_from(["by", " ", "(", ")", '"', "relay.example.net", ";", "\x00", "é", "xn--"]), max_size=20)
)
def test_any_field_is_counted_without_fault(pieces: list[str]) -> None:
    assert own_hops(message("".join(pieces)), "relay.example.net") in (0, 1)


def test_the_id_stands_in_the_field() -> None:
    assert re.search(r"\bid id1\b", received(helo="a.example"))


@pytest.mark.parametrize("said", ["a.example", "x" * 255])
def test_our_id_is_read_from_the_field_we_wrote(said: str) -> None:
    name = f"{'h' * 63}." * 3 + "example.net"
    client = Client("s", "submission", ip_address("2001:db8::1"), 1, helo=said, tls=TLS, login="ann")
    raw = received_field(Envelope("0d2x4c6v8b0n2m4k", client, None, recipients=[BOB]), name, NOON)
    assert own_id(Message.parse(raw + b"\r\n"), name.upper()) == "0d2x4c6v8b0n2m4k"


@pytest.mark.parametrize(
    ("values", "id"),
    [
        (["from a by other.example id theirs; date", "from b by relay.example.net with SMTP id ours; date"], "ours"),
        (["by relay.example.net id newest; date", "by relay.example.net id older; date"], "newest"),
        (["from a by relay.example.net (id x) with SMTP (id y)\r\n\tID ours for <b@c>; id z"], "ours"),
        (["from id by relay.example.net id ours; date"], "ours"),
        (["from a by relay.example.net with id; id no"], None),
        (["from a by relay.example.net id; date"], None),
        (["by relay.example.net; date", "by relay.example.net id older; date"], None),
        (["from relay.example.net by other.example id theirs; date"], None),
        ([], None),
    ],
)
def test_our_id_is_that_of_the_topmost_field_by_us(values: list[str], id: str | None) -> None:
    assert own_id(message(*values), "relay.example.net") == id
