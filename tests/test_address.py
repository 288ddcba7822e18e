"""What may be called an address in an SMTP command (R22, R23): one strict grammar, nothing repaired."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import address as addresses
from relay.address import Address, parse_domain, parse_mailbox, parse_path
from relay.errors import MalformedAddress

GOOD = [
    ("ann@example.org", ("ann", "example.org")),
    ("a.b.c@example.org", ("a.b.c", "example.org")),
    ("!#$%&'*+-/=?^_`{|}~@example.org", ("!#$%&'*+-/=?^_`{|}~", "example.org")),
    ("user%other.test@example.org", ("user%other.test", "example.org")),  # a local part like any other
    ("host!user@example.org", ("host!user", "example.org")),
    ('"a b"@example.org', ('"a b"', "example.org")),
    ('"a@b"@example.org', ('"a@b"', "example.org")),
    (r'"a\"b\\"@example.org', (r'"a\"b\\"', "example.org")),
    ('">"@example.org', ('">"', "example.org")),
    ("ann@[192.0.2.1]", ("ann", "[192.0.2.1]")),
    ("ann@[IPv6:2001:db8::1]", ("ann", "[IPv6:2001:db8::1]")),
    ("ann@localhost", ("ann", "localhost")),
    ("x" * 64 + "@example.org", ("x" * 64, "example.org")),
    ("PostMaster", ("PostMaster", "")),  # RFC 5321 §4.5.1
    ("änn@exämple.org", ("änn", "exämple.org")),  # RFC 6531 §3.3
]

BAD = [
    b"",
    b"ann",
    b"@example.org",
    b"ann@",
    b"ann@@example.org",
    b"ann@b@example.org",  # two addresses in one
    b"ann@example.org,bob@example.net",
    b"ann@example.org bob@example.net",
    b"@hop.test:ann@example.org",  # a source route
    b"@a.test,@b.test:ann@example.org",
    b"a b@example.org",
    b".ann@example.org",
    b"ann.@example.org",
    b"a..b@example.org",
    b"ann(comment)@example.org",
    b"ann@example.org(comment)",
    b"ann@example.org.",  # a trailing dot
    b"ann@.example.org",
    b"ann@example..org",
    b"ann@-example.org",
    b"ann@example-.org",
    b"ann@exa_mple.org",
    b"ann@" + b"a" * 64 + b".org",
    b"ann@" + b".".join([b"a" * 60] * 5),
    b"x" * 65 + b"@example.org",
    b'"ann@example.org',
    b'"a"b@example.org',
    b'a"b"@example.org',
    b'"a\\"@example.org',
    b"ann@[192.0.2.256]",
    b"ann@[192.0.2.1",
    b"ann@[2001:db8::1]",
    b"ann@[IPv6:fe80::1%eth0]",
    b"ann@[IPv6:]",
    b"ann@[]",
    b"a\0b@example.org",
    b"a\rb@example.org",
    b"a\nb@example.org",
    b"a\tb@example.org",
    b"a\x7fb@example.org",
    b"\xff@example.org",
    "a\u200bb@example.org".encode(),  # zero width
    "a\u202eb@example.org".encode(),  # bidi
    "a\u2028b@example.org".encode(),
    "ann@exam\u00adple.org".encode(),
    "ann@example\u3002\u3002org".encode(),
]


@pytest.mark.parametrize(("text", "parts"), GOOD)
def test_good_addresses_are_taken_as_they_are_spelled(text: str, parts: tuple[str, str]) -> None:
    address = parse_mailbox(text.encode(), utf8=True)
    assert (address.local, address.domain) == parts
    assert str(address) == text


@pytest.mark.parametrize("octets", BAD)
def test_everything_else_is_refused(octets: bytes) -> None:
    with pytest.raises(MalformedAddress):
        parse_mailbox(octets, utf8=True)
    with pytest.raises(MalformedAddress):
        parse_path(b"<" + (octets or b"@") + b">", utf8=True)


@pytest.mark.parametrize("octets", BAD)
def test_the_reason_never_repeats_what_was_sent(octets: bytes) -> None:
    with pytest.raises(MalformedAddress) as caught:
        parse_mailbox(octets, utf8=True)
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert "example" not in text


@pytest.mark.parametrize("text", [text for text, _ in GOOD if not text.isascii()])
def test_non_ascii_needs_utf8(text: str) -> None:
    with pytest.raises(MalformedAddress):
        parse_mailbox(text.encode(), utf8=False)


@pytest.mark.parametrize(
    ("argument", "address", "rest"),
    [
        (b"<>", None, b""),
        (b"<> SIZE=1", None, b" SIZE=1"),
        (b"<ann@example.org> SIZE=1 BODY=7BIT", Address("ann", "example.org"), b" SIZE=1 BODY=7BIT"),
        (b'<"> SIZE=1"@example.org>', Address('"> SIZE=1"', "example.org"), b""),
        (b"<" + b"x" * 64 + b"@" + b"a" * 58 + b".org>", Address("x" * 64, "a" * 58 + ".org"), b""),
    ],
)
def test_a_path_ends_at_its_bracket(argument: bytes, address: Address | None, rest: bytes) -> None:
    assert parse_path(argument, utf8=False) == (address, rest)


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b"ann@example.org",
        b" <ann@example.org>",
        b"<ann@example.org",
        b"<ann@example.org>SIZE=1",
        b"<ann@example.org>>",
        b"<<ann@example.org>>",
        b"Ann <ann@example.org>",
        b"< >",
        b"<ann@" + b".".join([b"a" * 50] * 5) + b">",  # a path of more than 256 octets
    ],
)
def test_what_is_no_path(argument: bytes) -> None:
    with pytest.raises(MalformedAddress):
        parse_path(argument, utf8=True)


def test_spaces_before_the_path_only_where_they_are_allowed() -> None:
    assert parse_path(b"  <ann@example.org>", utf8=False, spaces=True) == (Address("ann", "example.org"), b"")


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_only_the_typed_error_comes_out(octets: bytes) -> None:
    for argument in (octets, b"<" + octets + b">", b"<a@" + octets + b">", b"<" + octets + b"@example.org> X=1"):
        try:
            address, rest = parse_path(argument, utf8=True, spaces=True)
        except MalformedAddress:
            continue
        # What is taken stands in the argument octet by octet.
        spelled = str(address).encode() if address else b""
        assert argument.lstrip(b" ") == b"<" + spelled + b">" + rest


_ATEXT = st.text("abcXYZ019!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=20)
_LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,10}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda label: not label.lower().startswith("xn--")
)


PIECES = st.sampled_from([b"<", b">", b'"', b"\\", b"ann", b"@", b"example.org", b" ", b"\0", b"\x7f", b"x" * 300])


def outcome(argument: bytes) -> object:
    try:
        return parse_path(argument, utf8=True)
    except MalformedAddress as error:
        return str(error)


@given(st.lists(PIECES, max_size=12).map(b"".join) | st.binary(max_size=80))
def test_a_path_without_quotes_ends_where_reading_it_octet_by_octet_says(argument: bytes) -> None:
    argument = b"<" + argument
    found = outcome(argument)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses, "_PLAIN_PATH", re.compile(rb"(?!)"))  # matches nothing
        assert outcome(argument) == found


@given(
    st.lists(_ATEXT, min_size=1, max_size=3).map(".".join).filter(lambda local: len(local) <= 64),
    st.lists(_LABEL, min_size=1, max_size=5).map(".".join),
)
def test_whatever_the_grammar_makes_is_taken(local: str, domain: str) -> None:
    text = f"{local}@{domain}"
    assert parse_mailbox(text.encode(), utf8=False) == Address(local, domain)
    assert parse_mailbox(text.encode(), utf8=False).domain_key == domain.lower()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_any_printable_text_can_be_quoted(text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if len(quoted) > 64:
        return
    address = parse_mailbox(f"{quoted}@example.org".encode(), utf8=False)
    assert address.key == f"{text.casefold()}@example.org"


def test_octet_by_octet_no_beginning_of_a_path_is_one() -> None:
    whole = b'<"a b".c@example.org>'.replace(b'"a b".c', b'"a b"')
    for length in range(len(whole)):
        with pytest.raises(MalformedAddress):
            parse_path(whole[:length], utf8=False)


def test_domains() -> None:
    assert parse_domain("example.org") == "example.org"
    for bad in ("", "[192.0.2.1]", "a b", "example.org.", "exa\nmple"):
        with pytest.raises(MalformedAddress):
            parse_domain(bad)
