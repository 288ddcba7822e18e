"""Senders rewritten: which, to what, and that nothing else of the message changes."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.address import Address, parse_mailbox
from relay.author import parse_author
from relay.config.models import Masquerade
from relay.edit.rewrite import MAX_LINE, masquerade
from relay.envelope import Client, Envelope
from relay.fact import Fact
from relay.message import Message

INSIDE = {"inside": {"match": ["@inside.ours.org"], "address": "@ours.org"}}
ANN = "ann@inside.ours.org"


def tables(given: dict[str, Any]) -> dict[str, Masquerade]:
    return {name: Masquerade.model_validate(table) for name, table in given.items()}


def rewritten(
    field: bytes, given: dict[str, Any] = INSIDE, *, more: bytes = b"", reverse_path: str = ANN
) -> tuple[str, bytes, Address]:
    """The reverse-path, the header and the author after rewriting."""
    message = Message.parse(field + b"\r\n" + more + b"Subject: x\r\n\r\nbody\r\n")
    sender = parse_mailbox(reverse_path.encode(), utf8=True) if reverse_path else None
    envelope = Envelope("m1", Client("submission", "submission", ip_address("192.0.2.1"), 1), sender)
    facts: list[Fact] = []
    sent, made, author = masquerade(tables(given), envelope, message, parse_author(message), facts.append)
    assert made.body is message.body
    assert made.separator == message.separator
    assert parse_author(made) == author
    changed = (sent.reverse_path, made.fields) != (envelope.reverse_path, message.fields)
    assert [fact.event for fact in facts] == ["edit.rewritten"] * changed
    assert envelope.reverse_path == sender  # the transaction's own is what the client said
    return str(sent.reverse_path or "<>"), made.header.removesuffix(b"Subject: x\r\n"), author


FIELDS = [
    # only the octets of the address change: RFC 5322 §3.4
    (b"From: ann@inside.ours.org", b"From: ann@ours.org"),
    (b"FROM:ann@Inside.OURS.org", b"FROM:ann@ours.org"),
    (b"From: Ann <ann@inside.ours.org>", b"From: Ann <ann@ours.org>"),
    (b'From: "Ann, of <x>" <ann@inside.ours.org>', b'From: "Ann, of <x>" <ann@ours.org>'),
    (b"From: Ann < ann@inside.ours.org\t> ", b"From: Ann < ann@ours.org\t> "),
    (b"From: =?utf-8?Q?J=C3=B6rg?= <ann@inside.ours.org>", b"From: =?utf-8?Q?J=C3=B6rg?= <ann@ours.org>"),
    ("From: Jörg Müller <ann@inside.ours.org> (Büro)".encode(), "From: Jörg Müller <ann@ours.org> (Büro)".encode()),
    (b"From: (<) ann@inside.ours.org (who)", b"From: (<) ann@ours.org (who)"),
    # the address stands in the name and in a comment too: they are not it
    (
        b'From: "ann@inside.ours.org" <ann@inside.ours.org> (ann@inside.ours.org)',
        b'From: "ann@inside.ours.org" <ann@ours.org> (ann@inside.ours.org)',
    ),
    # RFC 5322 §2.2.3: folds stay
    (b"From: Ann\r\n\tof X\r\n  <ann@inside.ours.org>\r\n (x)", b"From: Ann\r\n\tof X\r\n  <ann@ours.org>\r\n (x)"),
    (b"From:\r\n ann@inside.ours.org", b"From:\r\n ann@ours.org"),
    (b"From: Ann <\r\n ann@inside.ours.org\r\n >", b"From: Ann <\r\n ann@ours.org\r\n >"),
    # a quoted local part keeps its quotes; a fold in it goes with the old address
    (b'From: Ann <"a b"@inside.ours.org>', b'From: Ann <"a b"@ours.org>'),
    (b'From: x\r\n <"a\r\n b"@inside.ours.org>\r\n (y)', b'From: x\r\n <"a b"@ours.org>\r\n (y)'),
    ("From: jörg@inside.ours.org".encode(), "From: jörg@ours.org".encode()),
    # no table matches
    (b"From: Ann <ann@ours.org>", b"From: Ann <ann@ours.org>"),
    (b"From: ann@deep.inside.ours.org", b"From: ann@deep.inside.ours.org"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "expected"), FIELDS)
def test_of_the_field_only_the_address_changes(field: bytes, expected: bytes) -> None:
    assert rewritten(field)[1] == expected + b"\r\n"


TABLES = [
    # tables, address, expected
    (INSIDE, ANN, "ann@ours.org"),
    ({"a": {"match": ["*"], "address": "noreply@ours.org"}}, ANN, "noreply@ours.org"),
    ({"a": {"match": ["bob@x.org", ANN.upper()], "address": "noreply@ours.org"}}, ANN, "noreply@ours.org"),
    ({"a": {"match": ["@x.org"], "address": "@b.org"}, "b": {"match": ["*"], "address": "@c.org"}}, ANN, "ann@c.org"),
    ({"a": {"match": ["*"], "address": "@b.org"}, "b": {"match": ["*"], "address": "@c.org"}}, ANN, "ann@b.org"),
    # the first that matches counts, and what it makes is not matched again
    ({"a": {"match": [ANN], "address": "@b.org"}, "b": {"match": ["@b.org"], "address": "@c.org"}}, ANN, "ann@b.org"),
    ({"a": {"match": ["*"], "address": "@b.org", "listener": ["other"]}}, ANN, ANN),
    ({"a": {"match": ["*"], "address": "@b.org", "listener": ["other", "submission"]}}, ANN, "ann@b.org"),
    # without SMTPUTF8 an A-label is what can be carried (RFC 5890)
    ({"a": {"match": ["*"], "address": "@bücher.example"}}, ANN, "ann@xn--bcher-kva.example"),
    ({}, ANN, ANN),
]  # fmt: skip


@pytest.mark.parametrize(("given", "address", "expected"), TABLES)
def test_the_first_table_that_matches_counts(given: dict[str, Any], address: str, expected: str) -> None:
    reverse_path, header, author = rewritten(f"From: <{address}>".encode(), given, reverse_path=address)
    assert (reverse_path, str(author)) == (expected, expected)
    assert header == f"From: <{expected}>\r\n".encode()


def test_the_null_reverse_path_is_never_rewritten() -> None:
    everybody = {"a": {"match": ["*"], "address": "noreply@ours.org"}}
    assert rewritten(b"From: ann@x.org", everybody, reverse_path="")[0] == "<>"


def test_envelope_and_field_are_matched_each_for_itself() -> None:
    reverse_path, _, author = rewritten(b"From: ann@inside.ours.org", reverse_path="bounce@ours.org")
    assert (reverse_path, str(author)) == ("bounce@ours.org", "ann@ours.org")


@pytest.mark.parametrize("role", ["gateway", "capture"])
def test_only_submissions_are_rewritten(role: str) -> None:
    message = Message.parse(b"From: ann@inside.ours.org\r\n\r\n")
    envelope = Envelope("m1", Client("submission", role, ip_address("192.0.2.1"), 1), Address("ann", "inside.ours.org"))
    author = parse_author(message)
    made = masquerade(tables(INSIDE), envelope, message, author, lambda fact: pytest.fail(str(fact)))
    assert made == (envelope, message, author)


SENDERS = [
    (b"Sender: The Office <office@inside.ours.org>", b"Sender: The Office <office@ours.org>"),
    (b"Sender: office@ours.org", b"Sender: office@ours.org"),
    # not one address: left as it is
    (b"Sender: a@inside.ours.org, b@inside.ours.org", b"Sender: a@inside.ours.org, b@inside.ours.org"),
    (b"Sender: <a@inside.ours.org> <b@inside.ours.org>", b"Sender: <a@inside.ours.org> <b@inside.ours.org>"),
    (b"Sender: a (x) @inside.ours.org", b"Sender: a (x) @inside.ours.org"),
    (b"Sender: (left open a@inside.ours.org", b"Sender: (left open a@inside.ours.org"),
    (b"Sender: \xff <a@inside.ours.org>", b"Sender: \xff <a@inside.ours.org>"),
    (b"Sender:", b"Sender:"),
    # others are not touched
    (b"Reply-To: ann@inside.ours.org", b"Reply-To: ann@inside.ours.org"),
    (b"To: ann@inside.ours.org", b"To: ann@inside.ours.org"),
    (b"Resent-From: ann@inside.ours.org", b"Resent-From: ann@inside.ours.org"),
]


@pytest.mark.parametrize(("field", "expected"), SENDERS)
def test_sender_is_rewritten_like_from_and_nothing_else_is(field: bytes, expected: bytes) -> None:
    header = rewritten(b"From: ann@inside.ours.org", more=field + b"\r\n")[1]
    assert header == b"From: ann@ours.org\r\n" + expected + b"\r\n"


LONG = {"a": {"match": ["*"], "address": f"noreply@{'a' * 60}.{'b' * 60}.example"}}
NAME = b"N" * 980
LINES = [
    (b"From: " + NAME + b" <a@b.org>", [b"From: " + NAME, b" <%s>"]),
    (b"From: <a@b.org> (" + NAME + b")", [b"From:", b" <%s>", b"  (" + NAME + b")"]),
    (b"From: a@b.org (" + NAME + b")", [b"From:", b" %s", b"  (" + NAME + b")"]),
    (b"From: x\r\n <a@b.org> (" + NAME + b")", [b"From: x", b" <%s>", b"  (" + NAME + b")"]),
    (b"From: " + NAME + b" <a@b.org>\r\n (x)", [b"From: " + NAME, b" <%s>", b" (x)"]),
]


@pytest.mark.parametrize(("field", "lines"), LINES)
def test_no_line_becomes_longer_than_998_octets(field: bytes, lines: list[bytes]) -> None:
    """RFC 5322 §2.1.1. White space around the folds is the fold's own affair."""
    header = rewritten(field, LONG)[1]
    assert all(len(line) <= MAX_LINE for line in header.split(b"\r\n"))
    address = LONG["a"]["address"].encode()
    wanted = b"\r\n".join(lines).replace(b"%s", address)
    assert header.split() == wanted.split()


@pytest.mark.parametrize(("octets", "folds"), [(MAX_LINE, 0), (MAX_LINE + 1, 1)])
def test_a_line_of_998_octets_is_not_folded(octets: int, folds: int) -> None:
    address = LONG["a"]["address"].encode()
    name = b"N" * (octets - len(b"From:  <>") - len(address))
    assert rewritten(b"From: " + name + b" <a@b.org>", LONG)[1].count(b"\r\n ") == folds


# RFC 5322 §3.2.2: CFWS without lines of white space only; §3.2.5: what a name is made of
CFWS = st.sampled_from([b"(c (d) \\))", b" ", b"\t", b"\r\n (ann@inside.ours.org)", b"(<\r\n >)"])
NAMES = CFWS | st.sampled_from([b"Ann", b"\r\n Ann", b'"x <y@z>"', b"=?utf-8?Q?a?=", b"\xc3\xb6", b' "a\r\n b"'])
LOCALS = st.sampled_from([b"ann", b"a.b", b'"a b"', b'"a\r\n b"', b'"<@>"', b"j\xc3\xb6rg"])
OTHERS = st.sampled_from(["@ours.org", "noreply@ours.org", f"@{'o' * 60}.example"])


@given(st.data(), LOCALS, OTHERS, st.booleans())
def test_whatever_the_field_it_has_the_new_address_after(
    data: st.DataObject, local: bytes, to: str, angled: bool
) -> None:
    before = b"From: " + b"".join(data.draw(st.lists(NAMES if angled else CFWS)))
    after = b"".join(data.draw(st.lists(CFWS)))
    opens, closes = (b"<", b">") if angled else (b"", b"")
    field = before + opens + local + b"@inside.ours.org" + closes + after
    old = parse_author(Message.parse(field + b"\r\n\r\n"))
    _, header, author = rewritten(field, {"a": {"match": ["@inside.ours.org"], "address": to}})
    assert author == parse_mailbox((old.local + to if to.startswith("@") else to).encode(), utf8=True)
    # All else stays as it was, octet for octet.
    assert header == before + opens + str(author).encode() + closes + after + b"\r\n"
