"""Authentication-Results that claim to be ours, in every spelling; and those of others, which stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.edit.results import MAX_NAME, claims
from relay.message import Field, Message


def field(raw: bytes) -> Field:
    [found] = Message.parse(raw + b"\r\n\r\n").fields
    return found


@pytest.mark.parametrize(
    "raw",
    [
        b"Authentication-Results: mx.example; spf=pass",
        b"Authentication-Results:mx.example;spf=pass",
        b"Authentication-Results: mx.example",
        b"Authentication-Results: mx.example; none",
        # names in any case, white space before the colon (RFC 5322 §4.5)
        b"AUTHENTICATION-RESULTS: MX.Example; spf=pass",
        b"authentication-results : mx.example; spf=pass",
        b"Authentication-Results\t: mx.example; spf=pass",
        # a version, RFC 8601 §2.2
        b"Authentication-Results: mx.example 1; spf=pass",
        b"Authentication-Results: mx.example (c) 1 (c); spf=pass",
        # folds and comments
        b"Authentication-Results:\r\n\tmx.example; spf=pass",
        b"Authentication-Results:\r\n \r\n mx.example\r\n ; spf=pass",
        b"Authentication-Results: (c) mx.example (c); spf=pass",
        b"Authentication-Results: (other.example; (deep)) mx.example; spf=pass",
        b"Authentication-Results: (\\))mx.example; spf=pass",
        b"Authentication-Results: mx(c).example; spf=pass",
        b"Authentication-Results: mx . example; spf=pass",
        b"Authentication-Results: mx .(c) example 1; spf=pass",
        # quoted strings, RFC 2045 §5.1
        b'Authentication-Results: "mx.example"; spf=pass',
        b'Authentication-Results: "MX.\\e\\xample" 1; spf=pass',
        b'Authentication-Results: "mx".example; spf=pass',
        # a final dot
        b"Authentication-Results: mx.example.; spf=pass",
        # what cannot be read for certain
        b"Authentication-Results:",
        b"Authentication-Results: ;",
        b"Authentication-Results: (mx.example; spf=pass",
        b'Authentication-Results: "mx.example; spf=pass',
        b"Authentication-Results: mx.example\x00; spf=pass",
        b"Authentication-Results: \x00mx.example; spf=pass",
        b"Authentication-Results: mx.\xff.example; spf=pass",
        b"Authentication-Results: =?us-ascii?Q?mx=2Eexample?=; spf=pass",
        b'Authentication-Results: "=?us-ascii?Q?mx.example?="; spf=pass',
        b"Authentication-Results: mx.example)x; spf=pass",
        "Authentication-Results: mx.exam\u200bple; spf=pass".encode(),
        "Authentication-Results: ｍx.example; spf=pass".encode(),
        b"Authentication-Results: " + b"(" * 5000 + b")" * 5000 + b"mx.example; spf=pass",
        b"Authentication-Results: " + b"(c)" * MAX_NAME + b"mx.example; spf=pass",
        b"Authentication-Results:" + b"\r\n " * MAX_NAME + b"mx.example; spf=pass",
        b"Authentication-Results: " + b"x" * MAX_NAME,
    ],
)
def test_claimed(raw: bytes) -> None:
    assert claims(field(raw), "mx.example")


@pytest.mark.parametrize(
    "spelled", ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "XN--BCHER-KVA.example"]
)
@pytest.mark.parametrize("ours", ["bücher.example", "xn--bcher-kva.example"])
def test_claimed_in_a_labels_or_u_labels(spelled: str, ours: str) -> None:
    assert claims(field(f"Authentication-Results: {spelled}; spf=pass".encode()), ours)


@pytest.mark.parametrize(
    "raw",
    [
        b"Authentication-Results: other.example; spf=pass",
        b"Authentication-Results: mx.example.org; spf=pass",
        b"Authentication-Results: xmx.example; spf=pass",
        b"Authentication-Results: other.example; spf=pass smtp.helo=mx.example",
        b"Authentication-Results: other.example (mx.example); spf=pass",
        b'Authentication-Results: other.example; spf=pass reason="; mx.example;"',
        b'Authentication-Results: "mx.example other"; spf=pass',
        b"Authentication-Results: other.example; " + b"(" * 5000,
        b"Authentication-Results: other.example; " + b"x" * 5000,
        b"Authentication-Results: other.example; \xff",
        # decisions: ARC fields are never removed, only not believed
        b"ARC-Authentication-Results: i=1; mx.example; spf=pass",
        b"X-Authentication-Results: mx.example; spf=pass",
        b"Authentication-Results-Original: mx.example; spf=pass",
        b"Received-SPF: pass (mx.example)",
    ],
)
def test_not_claimed(raw: bytes) -> None:
    assert not claims(field(raw), "mx.example")


SPACE = st.sampled_from([b"", b" ", b"\r\n ", b"\t", b"(c)", b" (a;(b)) ", b"(\\()"])


@given(st.lists(st.booleans(), min_size=10, max_size=10), SPACE, SPACE, st.sampled_from([b"", b" 1", b" (c) 1"]))
def test_every_spelling_of_the_grammar_is_found(
    cases: list[bool], before: bytes, behind: bytes, version: bytes
) -> None:
    name = "".join(
        letter.upper() if upper else letter for letter, upper in zip("mx.example", cases, strict=True)
    ).encode()
    for spelled in (name, b'"' + name + b'"', b'"' + b"".join(b"\\%c" % octet for octet in name) + b'"'):
        raw = b"Authentication-Results:" + before + spelled + version + behind + b"; dkim=pass header.d=a.example"
        assert claims(field(raw), "mx.example")


@given(st.binary(max_size=80).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"")))
def test_no_octets_raise(value: bytes) -> None:
    assert claims(field(b"Authentication-Results: " + value), "mx.example") in (True, False)
