"""Any octets may be published as SPF: the parser and the macros answer with a record, a text or MalformedSpf."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.authenticate.spf_macro import (
    MAX_NAME,
    NAME_LETTERS,
    Macro,
    expand,
    expand_name,
    parse_domain_spec,
    parse_macros,
)
from relay.authenticate.spf_record import Record, parse_record, records_among
from relay.errors import MalformedSpf

_PIECES = [
    "v=spf1", " ", "  ", "a", "mx", "ptr", "include", "exists", "ip4", "ip6", "all", "redirect=", "exp=", "x=", ":",
    "/",
    "//", "24", "128", "192.0.2.1", "2001:db8::1", "%{", "%{d}", "%{l1r-}", "%{SR+.}", "}", "%%", "%_", "%-", "%", ".",
    "example.org", "-", "~", "?", "+", "=", "\x00", "\xff", "0", "x" * 70,
]  # fmt: skip
_NASTY = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(_PIECES), max_size=25).map("".join))


@settings(max_examples=1500)
@given(st.one_of(st.binary(max_size=80), _NASTY.map(lambda text: text.encode("utf-8", "replace"))))
def test_a_record_is_read_or_refused(octets: bytes) -> None:
    assert set(records_among([octets, b"v=spf1 " + octets])) >= {b"v=spf1 " + octets}
    try:
        record = parse_record(b"v=spf1 " + octets)
    except MalformedSpf as error:
        assert str(error)
        assert len(str(error)) < 1000
    else:
        assert isinstance(record, Record)
        assert octets.isascii()
        # Every term is in the record, in its order, and reading it alone gives it again.
        for mechanism in record.mechanisms:
            assert mechanism.text.encode() in octets
            assert parse_record(b"v=spf1 " + mechanism.text.encode()).mechanisms == (mechanism,)
            assert 0 <= mechanism.prefix4 <= 32
            assert 0 <= mechanism.prefix6 <= 128


@settings(max_examples=1500)
@given(_NASTY, st.text(max_size=300), st.text(max_size=60))
def test_macros_expand_to_names_that_fit(text: str, long: str, short: str) -> None:
    try:
        string = parse_macros(text, spaces=True)
    except MalformedSpf:
        return
    values = dict.fromkeys("slodiphvcrt", short) | {"d": long}
    assert isinstance(expand(string, values), str)
    assert len(expand_name(string, values)) <= MAX_NAME
    if not any(isinstance(part, Macro) for part in string):
        assert expand(string, values) == "".join(map(str, string))


@settings(max_examples=800)
@given(_NASTY)
def test_a_domain_spec_is_a_macro_string_that_ends_well(text: str) -> None:
    try:
        parts = parse_domain_spec(text)
    except MalformedSpf:
        return
    assert parts == parse_macros(text, NAME_LETTERS)
    assert "." in text or "%" in text


@settings(max_examples=300)
@given(
    st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=9),
    st.sampled_from(".-+,/_="),
    st.integers(0, 12),
    st.booleans(),
)
def test_the_transformers_keep_and_turn_parts(parts: list[str], delimiter: str, keep: int, reverse: bool) -> None:
    """RFC 7208 §7.3: split, then reverse, then keep the right-hand parts, joined by dots."""
    text = f"%{{l{keep or ''}{'r' if reverse else ''}{delimiter}}}"
    turned = parts[::-1] if reverse else parts
    assert expand(parse_macros(text), {"l": delimiter.join(parts)}) == ".".join(
        turned[len(turned) - keep :] if 0 < keep < len(turned) else turned
    )


@pytest.mark.parametrize(
    "piece",
    ["a ", "ip4:192.0.2.1 ", "ip6:2001:db8::1 ", "x=y ", "%", "%{", "%{d", "%{d}",
     "/", "/1", "a:/1", "//", "1", ".", "a.",
     "-", "x", ":", "=", "exists:%{l1r-}.x ", " "],
)  # fmt: skip
@pytest.mark.parametrize("opening", ["", "a:", "exists:", "exp=", "redirect=", "x=", "ip4:", "ip6:", "a/", "-"])
def test_the_cost_is_linear(opening: str, piece: str) -> None:
    """Ten times what the resolver hands on. Were any of it quadratic, it would run into the timeout of the tests."""
    octets = f"v=spf1 {opening}{piece * (400_000 // len(piece))}".encode()
    with suppress(MalformedSpf):
        assert isinstance(parse_record(octets), Record)
