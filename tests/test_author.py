"""Who wrote the message: every lawful spelling of one author, and every trick that makes two of him."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.address import Address
from relay.author import MAX_VALUE, parse_author
from relay.errors import MalformedAddress
from relay.message import Message

ANN = Address("ann", "example.org")


def author(*fields: bytes) -> Address:
    return parse_author(Message.parse(b"".join(field + b"\r\n" for field in fields) + b"\r\nbody\r\n"))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        # RFC 5322 §3.4: addr-spec, name-addr
        (b"From: ann@example.org", ANN),
        (b"From:ann@example.org", ANN),
        (b"From:\t <ann@example.org> \t", ANN),
        (b"FROM: Ann <ann@example.org>", ANN),
        (b"From: Ann of Example <ann@example.org>", ANN),
        (b'From: "Ann, of \\"Example\\" <eve@example.net>" <ann@example.org>', ANN),
        (b'From: "" <ann@example.org>', ANN),
        (b"From: =?utf-8?Q?J=C3=B6rg?= <ann@example.org>", ANN),
        # RFC 6532 §3.2
        ("From: Jörg Müller <ann@example.org>".encode(), ANN),
        ("From: Jörg <jörg@bücher.example>".encode(), Address("jörg", "bücher.example")),
        # RFC 5322 §3.2.2: comments and folds
        (b"From: ann@example.org (Ann)", ANN),
        (b"From: (c) Ann (of (deep) \\) example) <ann@example.org> (eve@example.net, <x>)", ANN),
        (b"From: (a) (b) ann@example.org", ANN),
        (b"From: Ann\r\n <ann@example.org>", ANN),
        (b"From:\r\n\tAnn <ann@example.org>", ANN),
        (b"From: Ann <\r\n ann@example.org>", ANN),
        # §4.1: a full stop in a name
        (b"From: John Q. Public <ann@example.org>", ANN),
        # §3.4.1: quoted local parts, literals
        (b'From: "a b"@example.org', Address('"a b"', "example.org")),
        (b'From: <"eve@example.net"@example.org>', Address('"eve@example.net"', "example.org")),
        (b"From: ann@[192.0.2.1]", Address("ann", "[192.0.2.1]")),
    ],
)
def test_one_author(field: bytes, expected: Address) -> None:
    assert author(b"To: bob@example.com", field, b"Sender: eve@example.net") == expected


@pytest.mark.parametrize(
    "fields",
    [
        # RFC 5322 §3.6: exactly one From field
        (),
        (b"Sender: ann@example.org", b"Resent-From: ann@example.org"),
        (b"From: ann@example.org", b"From: ann@example.org"),
        (b"From: ann@example.org", b"FROM : eve@example.net"),
        # a field that some programs do not take for From
        (b"From : ann@example.org",),
        (b"From\t: ann@example.org",),
    ],
)
def test_not_one_from_field(fields: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedAddress):
        author(b"To: bob@example.com", *fields)


@pytest.mark.parametrize(
    "value",
    [
        # nothing
        b"",
        b" ",
        b"<>",
        b"Ann <>",
        b"Ann",
        b"(ann@example.org)",
        b'"ann@example.org"',
        b"undisclosed-recipients:;",
        # several
        b"ann@example.org, eve@example.net",
        b"<ann@example.org>, <eve@example.net>",
        b"<ann@example.org><eve@example.net>",
        b"<ann@example.org> <eve@example.net>",
        b"ann@example.org eve@example.net",
        b"ann@example.org <eve@example.net>",
        b"<ann@example.org> eve@example.net",
        b",ann@example.org",
        b"ann@example.org,",
        b"ann@example.org;",
        # groups: RFC 6854 allows them, no DMARC does
        b"Team: ann@example.org;",
        b"Team: ann@example.org, eve@example.net;",
        # source routes, RFC 5322 §4.4
        b"<@example.net:ann@example.org>",
        b"<@example.net,@example.com:ann@example.org>",
        # two "@"
        b"ann@example.org@example.net",
        b"<ann@example.org@example.net>",
        b"ann@@example.org",
        # junk before or behind
        b"<ann@example.org> junk",
        b"<ann@example.org>.",
        b"<ann@example.org>>",
        b"<<ann@example.org>",
        b"<<ann@example.org>>",
        b"[x] <ann@example.org>",
        b". <ann@example.org>",
        b"mailto:ann@example.org",
        b"ann@example.org/x",
        # left open
        b"<ann@example.org",
        b"ann@example.org>",
        b'"Ann <ann@example.org>',
        b'Ann" <ann@example.org>',
        b"(Ann <ann@example.org>",
        b"Ann) <ann@example.org>",
        b"ann@[192.0.2.1",
        b"ann@example.org \\",
        b'"Ann\\" <ann@example.org>',
        # comments and spaces inside the address
        b"ann(x)@example.org",
        b"ann@(x)example.org",
        b"ann@example.org(x).example.net",
        b"ann@example(x).org",
        b"<ann@example.org(x)>",
        b"<(x)ann@example.org>",
        b"ann @example.org",
        b"ann@ example.org",
        b"ann@example .org",
        b"<ann@example.\r\n org>",
        # folds that only some programs undo
        b"\r\n \r\n ann@example.org",
        b" ann@example.org\r\n ",
        b"Ann\r\n\t\r\n <ann@example.org>",
        # controls and what is not UTF-8
        b"ann@example.org\x00.example.net",
        b"ann\x00@example.org",
        b"Ann\x00 <ann@example.org>",
        b"(\x00) <ann@example.org>",
        b'"\x01" <ann@example.org>',
        b"Ann\x7f <ann@example.org>",
        b"J\xf6rg <ann@example.org>",
        b'\x95\\" <ann@example.org>',
        # encoded words have no place in an address, RFC 2047 §5
        b"=?utf-8?Q?ann=40example.org?=",
        b"=?utf-8?Q?ann?=@example.org",
        b"<=?utf-8?B?YW5uQGV4YW1wbGUub3Jn?=@example.net>",
        b'"=?utf-8?Q?ann?="@example.org',
        b"ann@=?utf-8?Q?example.org?=",
        # domains
        b"ann",
        b"<ann>",
        b"postmaster",
        b"<postmaster>",
        b"ann@",
        b"@example.org",
        b"ann@example.org.",
        b"ann@example..org",
        b"ann@.example.org",
        b"ann@example_.org",
        b"ann@-example.org",
        b"ann@example.org:25",
        b"ann@[192.0.2.999]",
        b"ann@192.0.2.1]",
        b'ann@"example.org"',
        # local parts
        b".ann@example.org",
        b"ann.@example.org",
        b"a..nn@example.org",
        b'"a"b@example.org',
        b'"a"."b"@example.org',
        b"ann" * 30 + b"@example.org",
        # characters that look like others or like nothing, RFC 5891 §5.4
        "ann@exam\u200bple.org".encode(),
        "ann@example\u3002org".encode(),
        "ann@ｅxample.org".encode(),
        "ann@bu\u0308cher.example".encode(),
        "a\u202enn@example.org".encode(),
        "ann\uff20example.org".encode(),
        "ann@example.org\u2028".encode(),
        "ann@example.org\u00a0".encode(),
        # size and depth
        b"(" * 5000 + b")" * 5000 + b"ann@example.org",
        b"(" * 5000,
        b"Ann " * (MAX_VALUE // 4) + b"<ann@example.org>",
    ],
)
def test_not_one_author(value: bytes) -> None:
    with pytest.raises(MalformedAddress):
        author(b"From:" + value)


def test_the_error_never_quotes_the_field() -> None:
    with pytest.raises(MalformedAddress) as caught:
        author(b"From: Secret Name <secret@example.org")
    assert "ecret" not in str(caught.value)


# Pieces that make most strings nearly an address.
PIECES = st.sampled_from(
    [b"ann", b"@", b".", b"example.org", b"<", b">", b"(", b")", b'"', b"\\", b",", b":", b";", b"[", b"]", b" ", b"\t",
     b"\r\n ", b"\r\n\t", b"\x00", b"\x7f", b"\xff", b"\xc3\xa9", b"=?utf-8?Q?a?=", "\u200b".encode(), b"xn--a"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=24).map(b"".join))
def test_nothing_but_malformed_address_is_raised(value: bytes) -> None:
    try:
        found = author(b"From:" + value)
    except MalformedAddress:
        return
    # What was accepted stands in the field in one piece, as it was spelled.
    assert str(found).encode() in value
    assert found.domain


@given(st.binary(max_size=200).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"")))
def test_no_octets_raise_anything_else(value: bytes) -> None:
    try:
        author(b"From:" + value)
    except MalformedAddress:
        return


@given(st.lists(PIECES, max_size=24).map(b"".join), st.sampled_from([b",", b" eve@example.net", b"\x00", b"<", b"("]))
def test_trailing_junk_is_never_passed_over(value: bytes, junk: bytes) -> None:
    try:
        author(b"From:" + value)
    except MalformedAddress:
        return
    with pytest.raises(MalformedAddress):
        author(b"From:" + value + junk)
