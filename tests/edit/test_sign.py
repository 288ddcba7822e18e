"""DKIM signatures: verified by dkimpy, read tag by tag, and who signs for whom."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.address import Address
from relay.author import parse_author
from relay.config.models import Algorithm, Domain
from relay.edit.key import SigningKey
from relay.edit.sign import Signer, sign
from relay.edit.signature import OVERSIGNED
from relay.errors import CannotSign, ConfigError, MalformedAddress, MalformedMessage
from relay.fact import Fact
from relay.message import Message
from relay.publish.keys import dns_name, dns_record, new_key
from tests.support.clock import JumpingClock
from tests.support.dkim_verifiers import dkimpy

PLAIN = (
    b"Received: from a by b; c\r\nFrom: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: a word\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nhello\r\n"
)
TABLES = {
    "org": {"name": "Example.ORG", "key": ("rsa", "ed25519")},
    "sub": {"name": "sub.example.org", "key": ("ed25519",)},
    "idn": {"name": "bücher.example", "key": ("ed25519",)},
    "strict": {"name": "strict.example", "key": ()},
    "lax": {"name": "lax.example", "key": (), "on_missing_key": "pass"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for algorithm in Algorithm:
        new_key("example.org", algorithm[0], algorithm, folder / algorithm)
    return {"rsa": folder / Algorithm.RSA, "ed25519": folder / Algorithm.ED25519}


@pytest.fixture(scope="module")
def keys(files: Mapping[str, Path]) -> list[SigningKey]:
    return [
        SigningKey.load("example.org", "r", Algorithm.RSA, files["rsa"]),
        SigningKey.load("example.org", "e", Algorithm.ED25519, files["ed25519"]),
    ]


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
def signer(files: Mapping[str, Path], facts: list[Fact]) -> Signer:
    algorithms = {"rsa": "rsa-sha256", "ed25519": "ed25519-sha256"}
    domains = {
        name: Domain.model_validate(
            {
                **table,
                "key": {
                    key: {"selector": key, "file": files[key], "algorithm": algorithms[key]} for key in table["key"]
                },
            }
        )
        for name, table in TABLES.items()
    }
    return Signer(domains, JumpingClock(1_795_262_400.5), facts.append)


def records(keys: list[SigningKey]) -> dict[str, str]:
    return {dns_name(key): dns_record(key) for key in keys}


def tags(raw: bytes) -> dict[str, str]:
    """The tags of a DKIM-Signature field, white space removed (RFC 6376 §3.2)."""
    text = re.sub(r"\s", "", raw.partition(b":")[2].decode())
    return dict(tag.split("=", 1) for tag in text.split(";"))


FIELD = st.sampled_from(
    [b"Subject: a", b"subject:  b \r\n\t c", b"X-Other: d", b"Reply-To: e@example.org", b"References: <1@a>\r\n <2@b>",
     b"List-Id: <l.example>", b"Received: f", b"Authentication-Results: g; none", b"MIME-Version: 1.0", b"To: h@i",
     "Comments: Grüße".encode(), b"Resent-From: eve@example.net", b"Content-Type: text/plain;\r\n\tcharset=x", b"Cc:"]
)  # fmt: skip
LINE = st.lists(st.sampled_from([b" ", b"\t", b"a", b".", b"\r\n", b"\xff"]), max_size=12).map(b"".join)


@settings(max_examples=60)
@given(st.lists(FIELD, max_size=8), st.lists(FIELD, max_size=8), st.lists(LINE, max_size=8))
def test_dkimpy_verifies_what_is_signed(
    keys: list[SigningKey], above: list[bytes], below: list[bytes], lines: list[bytes]
) -> None:
    header = b"\r\n".join([*above, b"From: ann@example.org", *below])
    message = header + b"\r\n\r\n" + b"\r\n".join(lines) + b"\r\n"
    signed = sign(message, keys)
    assert signed.endswith(message), "what was signed is not changed"
    assert dkimpy(signed, records(keys)) == [True, True]


@settings(max_examples=60)
@given(st.sampled_from([name.encode() for name in OVERSIGNED]), st.booleans())
def test_no_oversigned_field_can_be_added(keys: list[SigningKey], name: bytes, on_top: bool) -> None:
    signed = sign(PLAIN, keys)
    header, _, body = signed.partition(b"\r\n\r\n")
    added = name + b": eve@example.net"
    changed = added + b"\r\n" + signed if on_top else header + b"\r\n" + added + b"\r\n\r\n" + body
    assert dkimpy(changed, records(keys)) == [False, False]


# Behind Received, which is not signed; letters and digits, for relaxed forms overlook white space.
SIGNED = [at for at in range(PLAIN.index(b"From"), len(PLAIN)) if PLAIN[at : at + 1].isalnum()]


@settings(max_examples=60)
@given(st.sampled_from(SIGNED))
def test_a_changed_octet_of_what_is_signed_is_seen(keys: list[SigningKey], at: int) -> None:
    changed = PLAIN[:at] + (b"x" if PLAIN[at : at + 1] != b"x" else b"y") + PLAIN[at + 1 :]
    signatures = sign(PLAIN, keys).removesuffix(PLAIN)
    assert dkimpy(signatures + changed, records(keys)) == [False, False]


def test_the_tags(keys: list[SigningKey]) -> None:
    message = Message.parse(sign(PLAIN, keys, time=1_795_262_400.9))
    first, second = (tags(field.raw) for field in message.all(b"dkim-signature"))
    assert sorted(first) == ["a", "b", "bh", "c", "d", "h", "s", "t", "v"], "no l=, i=, x=, q=, z="
    assert (first["v"], first["c"], first["d"], first["t"]) == ("1", "relaxed/relaxed", "example.org", "1795262400")
    assert (first["a"], first["s"]) == ("rsa-sha256", "r")
    assert (second["a"], second["s"]) == ("ed25519-sha256", "e")
    assert base64.b64decode(first["bh"]) == hashlib.sha256(b"hello\r\n").digest()  # RFC 6376 §3.7
    assert first["bh"] == second["bh"]
    assert len(base64.b64decode(first["b"])) == 256  # RSA-2048
    assert len(base64.b64decode(second["b"])) == 64  # RFC 8463 §3


@pytest.mark.parametrize(
    ("fields", "name", "times"),
    [
        # RFC 6376 §8.15: once more than they are there
        (b"", "From", 2),
        (b"", "Cc", 1),
        (b"", "Reply-To", 1),
        (b"", "Content-Transfer-Encoding", 1),
        (b"Cc: a@b\r\nCC : c@d\r\n", "Cc", 3),
        # when they are there
        (b"", "References", 0),
        (b"References: <1@a>\r\n", "References", 1),
        (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", "List-Unsubscribe-Post", 1),
        (b"Resent-From: a@b\r\nResent-From: c@d\r\n", "Resent-From", 2),
        # RFC 6376 §5.4: what others add, change or remove
        (b"Return-Path: <>\r\n", "Return-Path", 0),
        (b"", "Received", 0),
        (b"DKIM-Signature: v=1\r\n", "DKIM-Signature", 0),
        (b"Authentication-Results: a; none\r\n", "Authentication-Results", 0),
        (b"ARC-Seal: i=1\r\nARC-Message-Signature: i=1\r\n", "ARC-Seal", 0),
        (b"X-Spam: no\r\n", "X-Spam", 0),
    ],
)
def test_how_often_a_field_is_named(keys: list[SigningKey], fields: bytes, name: str, times: int) -> None:
    named = tags(Message.parse(sign(fields + PLAIN, keys[1:])).fields[0].raw)["h"].lower().split(":")
    assert named.count(name.lower()) == times


def test_lines_of_a_signature_are_at_most_78_octets(keys: list[SigningKey]) -> None:
    many = b"".join(
        b"Resent-Message-ID: <%d@a>\r\nContent-Transfer-Encoding: 8bit\r\n" % number for number in range(200)
    )
    for field in Message.parse(sign(many + PLAIN, keys)).all(b"dkim-signature"):
        assert max(map(len, field.raw.split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    ("message", "error"),
    [
        # nothing that others may read as another message (RFC 6376 §8.15, reliability: bare line ends)
        (PLAIN + b"bare\n", MalformedMessage),
        (PLAIN + b"bare\r", MalformedMessage),
        (PLAIN + b"\r\r\n", MalformedMessage),
        (PLAIN + b"\x00\r\n", MalformedMessage),
        (b" " + PLAIN, MalformedMessage),
        (b"From: ann@example.org\r\njunk\r\n\r\n", MalformedMessage),
        (b"From: eve@example.net\r\n" + PLAIN, MalformedAddress),
        (b"To: bob@example.com\r\n\r\nhello\r\n", MalformedAddress),
        (b"", MalformedAddress),
    ],
)
def test_what_is_not_signed(keys: list[SigningKey], message: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        sign(message, keys)


def by(sender: str, body: bytes = b"hello\r\n") -> Message:
    return Message.parse(f"From: {sender}\r\nSubject: a\r\n\r\n".encode() + body)


@pytest.mark.parametrize(
    ("sender", "signed_by"),
    [
        ("ann@example.org", [("example.org", "rsa"), ("example.org", "ed25519")]),
        ("ann@EXAMPLE.org", [("example.org", "rsa"), ("example.org", "ed25519")]),
        ("ann@other.example.org", [("example.org", "rsa"), ("example.org", "ed25519")]),
        ("ann@sub.example.org", [("sub.example.org", "ed25519")]),
        ("ann@deep.sub.example.org", [("sub.example.org", "ed25519")]),
        # RFC 6376 §3.5: d= has A-labels
        ("ann@bücher.example", [("xn--bcher-kva.example", "ed25519")]),
        ("ann@xn--bcher-kva.example", [("xn--bcher-kva.example", "ed25519")]),
        # not ours
        ("ann@example.net", []),
        ("ann@xexample.org", []),
        ("ann@org", []),
        ("ann@example.org.example.net", []),
        ("ann@[192.0.2.1]", []),
    ],
)
async def test_the_closest_domain_signs(
    signer: Signer, facts: list[Fact], sender: str, signed_by: list[tuple[str, str]]
) -> None:
    message = by(sender)
    signed = await signer.sign(message, parse_author(message), "id1")
    made = [tags(field.raw) for field in signed.all(b"dkim-signature")]
    assert [(one["d"], one["s"]) for one in made] == signed_by
    assert bytes(signed).endswith(bytes(message))
    if signed_by:
        values = {"domain": signed_by[0][0], "selectors": [selector for _, selector in signed_by]}
        assert facts == [Fact("edit.signed", "id1", values)]
    else:
        assert signed is message
        assert [(fact.event, fact.level) for fact in facts] == [("edit.not_ours", "debug")]


async def test_the_time_is_the_clocks(signer: Signer) -> None:
    signed = await signer.sign(by("ann@sub.example.org"), Address("ann", "sub.example.org"), "id1")
    assert tags(signed.fields[0].raw)["t"] == "1795262400"


@pytest.mark.parametrize("octets", [0, 70_000, 600_000])  # in the loop, in a thread, in several chunks
async def test_what_the_signer_signs_verifies(signer: Signer, octets: int) -> None:
    message = by("ann@example.org", b"a \t b\r\n" * (octets // 7))
    signed = await signer.sign(message, Address("ann", "example.org"), "id1")
    assert dkimpy(bytes(signed), records(list(signer.keys("example.org")))) == [True, True]


async def test_without_an_author_nothing_is_signed(signer: Signer, facts: list[Fact]) -> None:
    message = Message.parse(b"Subject: a\r\n\r\n")
    assert await signer.sign(message, None, "id1") is message
    assert [fact.event for fact in facts] == ["edit.not_ours"]


async def test_a_domain_without_a_key_is_refused(signer: Signer, facts: list[Fact]) -> None:
    with pytest.raises(CannotSign, match=r"strict\.example"):
        await signer.sign(by("ann@strict.example"), Address("ann", "strict.example"), "id1")
    [fact] = facts
    assert (fact.event, fact.id, fact.level, fact.values["domain"]) == (
        "edit.unsigned",
        "id1",
        "error",
        "strict.example",
    )


async def test_a_domain_without_a_key_is_passed_where_the_configuration_says_so(
    signer: Signer, facts: list[Fact]
) -> None:
    message = by("ann@sub.lax.example")
    assert await signer.sign(message, Address("ann", "sub.lax.example"), "id1") is message
    [fact] = facts
    assert (fact.event, fact.id, fact.level, fact.values["domain"]) == (
        "edit.unsigned",
        "id1",
        "warning",
        "lax.example",
    )


def test_keys_that_cannot_be_used_are_all_named_at_start(tmp_path: Path) -> None:
    key = {name: {"selector": name, "file": tmp_path / name} for name in ("a", "b")}
    domain = Domain.model_validate({"name": "example.org", "key": key})
    with pytest.raises(ConfigError) as caught:
        Signer({"org": domain}, JumpingClock(), lambda fact: None)
    assert [problem.key for problem in caught.value.problems] == ["domain.org.key.a.file", "domain.org.key.b.file"]
