"""ARC: chains that hold and chains that do not, keys from a DNS server; dkimpy seals and verifies beside us."""

from __future__ import annotations

import re
from collections.abc import Callable

import dkim
import pytest
from cryptography.hazmat.primitives import serialization

from relay.authenticate.arc import MAX_KEYS, verify
from relay.authenticate.arc_chain import read_chain
from relay.message import Message
from relay.resolver import Resolver
from relay.verdict import ArcResult, ArcVerdict
from tests.support.dkim_signer import arc_sealed, dkim_signed, ed25519_key, record, rsa_key
from tests.support.dns import DnsServer

NOW = 1_790_000_000
MAIL = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: a word\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nhello\r\n"
)
RSA = record(rsa_key())
ZONE = {
    "r._domainkey.example.org": [{"TXT": RSA}],
    "r._domainkey.list.example": [{"TXT": RSA}],
    "e._domainkey.example.org": [{"TXT": record(ed25519_key())}],
    "revoked._domainkey.example.org": [{"TXT": "p="}],
    "broken._domainkey.example.org": ["SERVFAIL"],
    "weak._domainkey.example.org": [{"TXT": record(rsa_key(1024))}],
    **{f"s{n}._domainkey.example.org": [{"TXT": RSA}] for n in range(60)},
}


async def chain(message: bytes, resolver: Resolver) -> ArcVerdict:
    return await verify(message, resolver, time=NOW)


def sealed(count: int, message: bytes = MAIL) -> bytes:
    for instance in range(1, count + 1):
        message = arc_sealed(message, instance)
    return message


def dkimpy(message: bytes) -> str:
    """dkimpy's word for the chain."""

    def txt(name: bytes, timeout: float = 0) -> bytes:
        [found] = ZONE[name.decode().rstrip(".")]
        return str(found["TXT"]).encode()  # type: ignore[index]

    result, _, _ = dkim.arc_verify(message, dnsfunc=txt)
    return str(result.decode())


@pytest.mark.parametrize("count", [1, 2, 3, 50])
async def test_a_chain_that_holds(resolver: Resolver, count: int) -> None:
    found = await chain(sealed(count), resolver)
    assert found == ArcVerdict(ArcResult.PASS, ("example.org",) * count, 0)
    assert dkimpy(sealed(count)) == "pass"


async def test_no_chain(server: DnsServer, resolver: Resolver) -> None:
    assert await chain(dkim_signed(MAIL), resolver) == ArcVerdict(ArcResult.NONE)
    assert server.questions == []


Change = Callable[[bytes], bytes]
FIRST, SECOND = sealed(1), sealed(2)


def without(name: str, instance: int) -> Change:
    return lambda message: re.sub(rf"(?m)^{name}: (?:[^\r]*[; ])?i={instance};[^\r]*\r\n".encode(), b"", message)


# (what, message, a word of the problem)
FAIL = [
    # RFC 8617 §5.2 step 3: structure
    ("no AAR", without("ARC-Authentication-Results", 1)(FIRST), "missing"),
    ("no AMS", without("ARC-Message-Signature", 1)(FIRST), "missing"),
    ("no seal", without("ARC-Seal", 1)(FIRST), "missing"),
    ("no AMS below", without("ARC-Message-Signature", 1)(SECOND), "missing"),
    ("a gap", arc_sealed(FIRST, 3), "missing"),
    ("the first is i=2", arc_sealed(MAIL, 2), "missing"),
    ("two AARs", b"ARC-Authentication-Results: i=1; mx.example.org; none\r\n" + FIRST, "two"),
    ("two sets with one number", arc_sealed(FIRST, 1), "two"),
    ("i=0", arc_sealed(MAIL, 0), "i="),
    ("i=51", sealed(50).replace(b"i=50;", b"i=51;"), "i="),
    ("i= is huge", FIRST.replace(b"i=1;", b"i=1" + b"0" * 5000 + b";"), "i="),
    ("i= is a word", FIRST.replace(b"ARC-Seal: i=1;", b"ARC-Seal: i=one;"), "i="),
    ("no i= in the AAR", FIRST.replace(b"Results: i=1; ", b"Results: "), "i="),
    ("i= is not first in the AAR", FIRST.replace(b"i=1; mx.example.org; none", b"mx.example.org; i=1; none"), "i="),
    ("a doubled tag", FIRST.replace(b"ARC-Seal: i=1;", b"ARC-Seal: i=1; i=1;"), "twice"),
    ("a broken tag list", FIRST.replace(b"ARC-Seal: i=1;", b"ARC-Seal: i=1; ;"), "name=value"),
    ("cv=pass on the first", arc_sealed(MAIL, 1, cv="pass"), "cv=none"),
    ("cv=none on the second", arc_sealed(FIRST, 2, cv="none"), "cv=pass"),
    ("cv=fail", arc_sealed(FIRST, 2, cv="fail"), "cv=pass"),
    ("cv=fail on the first", arc_sealed(MAIL, 1, cv="fail"), "cv=none"),
    ("cv=junk", arc_sealed(MAIL, 1, cv="maybe"), "cv="),
    ("h= in a seal", arc_sealed(MAIL, seal={"h": "from"}), "h="),  # §4.1.3
    # step 4: the newest message signature
    ("the body was changed", FIRST + b"more\r\n", "body"),
    ("a signed field was changed", FIRST.replace(b"a word", b"a sword"), "message signature with i=1"),
    ("the AMS was changed", FIRST.replace(b"h=from:to:subject:date", b"h=from:to:subject"), "i=1"),
    ("the AMS covers a seal", arc_sealed(FIRST, 2, signature={"h": "from:arc-seal"}), "ARC-Seal"),
    ("the AMS covers no From", arc_sealed(MAIL, signature={"h": "to"}), "From"),
    ("the AMS covers a part of the body", arc_sealed(MAIL, signature={"l": "3"}), "body"),
    ("the AMS has expired", arc_sealed(MAIL, signature={"x": "1000000000"}), "expired"),
    ("the AMS is of rsa-sha1", arc_sealed(MAIL, signature={"a": "rsa-sha1"}), "sha1"),
    ("the AMS has no such key", arc_sealed(MAIL, signature={"s": "none"}), "no key"),
    ("the AMS has no bh=", arc_sealed(MAIL, signature={"bh": None}), "bh="),
    # step 6: each seal
    ("an AAR was changed", FIRST.replace(b"mx.example.org; none", b"mx.example.org; dmarc=pass"), "seal with i=1"),
    ("an AAR below was changed", re.sub(rb"i=1; mx.example.org; none", b"i=1; x; none", SECOND), "seal with i=2"),
    ("a seal below was changed", re.sub(rb"(ARC-Seal: i=1; [^\r]* b=)..", rb"\1AA", SECOND), "seal with i=2"),
    ("a seal has no such key", arc_sealed(MAIL, seal={"s": "none"}), "no key"),
    ("a seal has a revoked key", arc_sealed(MAIL, seal={"s": "revoked"}), "revoked"),
    ("a seal has the wrong key", arc_sealed(MAIL, seal={"s": "weak"}), "seal with i=1"),
    ("a seal is of rsa-sha1", arc_sealed(MAIL, seal={"a": "rsa-sha1"}), "sha1"),
    ("a seal has no d=", arc_sealed(MAIL, seal={"d": None}), "d="),
    ("a seal has junk in d=", arc_sealed(MAIL, seal={"d": "example.org(.evil.example"}), "domain"),
    ("a seal is of tomorrow", arc_sealed(MAIL, seal={"t": str(NOW + 86400)}), "future"),
    ("the DNS is broken", arc_sealed(MAIL, seal={"s": "broken"}), "asked for"),  # §5.2.1: failures are permanent
    ("a bare LF", FIRST.replace(b"hello", b"hel\nlo"), "LF"),
]


@pytest.mark.parametrize(("message", "word"), [row[1:] for row in FAIL], ids=[row[0] for row in FAIL])
async def test_a_chain_that_fails(resolver: Resolver, message: bytes, word: str) -> None:
    found = await chain(message, resolver)
    assert (found.result, word in found.problem) == ("fail", True), found.problem
    assert not found.trusted
    assert found.authentication_results == ""


PASS = [
    ("an unknown tag", arc_sealed(MAIL, seal={"zz": "1"}, signature={"zz": "1"})),
    ("Ed25519", arc_sealed(MAIL, seal={"a": "ed25519-sha256", "s": "e"},
        signature={"a": "ed25519-sha256", "s": "e"}, key=ed25519_key())),
    ("simple/simple", arc_sealed(MAIL, signature={"c": "simple/simple"})),
    ("l= is the whole body", arc_sealed(MAIL, signature={"l": "7"})),
    ("folded AAR", arc_sealed(MAIL, results="mx.example.org;\r\n\tspf=pass smtp.mailfrom=a@b;\r\n\tdkim=none")),
    ("fields that were refolded", FIRST.replace(b"; d=", b";\r\n\t d=")),
    ("fields in another order", b"".join(sorted(FIRST.partition(b"From:")[0].splitlines(True)))
        + b"From:" + FIRST.partition(b"From:")[2]),
    ("a field on top", b"Received: from a by b; c\r\n" + SECOND),
]  # fmt: skip


@pytest.mark.parametrize("message", [row[1] for row in PASS], ids=[row[0] for row in PASS])
async def test_what_does_not_break_a_chain(resolver: Resolver, message: bytes) -> None:
    found = await chain(message, resolver)
    assert (found.result, found.problem) == ("pass", "")


@pytest.mark.parametrize("spelled", [" i = 1 ; ", " (i=2; (3)) i=1 (b);", "\r\n\ti=1; ", " i=01; "])
def test_an_instance_in_all_its_spellings(spelled: str) -> None:
    # RFC 8617 §4.2.1: white space and comments around it, one or two digits
    message = FIRST.replace(b"Results: i=1; ", b"Results:" + spelled.encode())
    found = read_chain(Message.parse(message))
    assert (found.problem, found.highest, len(found.sets)) == ("", 1, 1)


async def test_how_far_back_the_content_was_the_same(resolver: Resolver) -> None:
    # RFC 8617 §5.2 step 5
    listed = FIRST.replace(b"Subject: a word", b"Subject: [list] a word")
    changed = arc_sealed(arc_sealed(listed, 2), 3)
    found = await chain(changed, resolver)
    assert (found.result, found.oldest_pass) == ("pass", 2)
    assert (await chain(arc_sealed(sealed(2) + b"footer\r\n", 3), resolver)).oldest_pass == 3


async def test_the_newest_sealer_is_trusted_or_not(resolver: Resolver) -> None:
    message = arc_sealed(
        arc_sealed(MAIL, results="mx.example.org; spf=pass smtp.mailfrom=ann@example.org"),
        2,
        results="mx.list.example;\r\n\tdmarc=pass (p=none) header.from=example.org",
        seal={"d": "list.example"},
    )
    trusting = await verify(message, resolver, trusted_sealers=["LIST.example"], time=NOW)
    assert trusting.sealers == ("example.org", "list.example")
    assert trusting.trusted
    assert trusting.authentication_results == "mx.list.example;\tdmarc=pass (p=none) header.from=example.org"
    # A trusted sealer further down does not vouch for what was put on top of him.
    below = await verify(message, resolver, trusted_sealers=["example.org"], time=NOW)
    assert (below.result, below.trusted, below.authentication_results) == ("pass", False, "")


async def test_a_chain_asks_for_so_many_keys_only(server: DnsServer, resolver: Resolver) -> None:
    message = MAIL
    for n in range(1, MAX_KEYS + 1):
        message = arc_sealed(message, n, seal={"s": f"s{n}"}, signature={"s": f"s{n}"})
    assert (await chain(message, resolver)).result == "pass"
    assert len(server.questions) == MAX_KEYS
    server.questions.clear()
    message = arc_sealed(message, MAX_KEYS + 1, seal={"s": "s50"}, signature={"s": "s50"})
    found = await chain(message, resolver)
    assert (found.result, "keys" in found.problem, server.questions) == ("fail", True, [])


async def test_what_dkimpy_seals_holds(resolver: Resolver) -> None:
    pem = rsa_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    message = MAIL
    for count in (1, 2, 3):
        # It takes cv= out of our results, and wants to find them in the message.
        results = b"Authentication-Results: mx.example.org; arc=%s\r\n" % (b"none" if count == 1 else b"pass")
        added = dkim.arc_sign(results + message, b"r", b"example.org", pem, b"mx.example.org", timestamp=NOW - 5)
        message = b"".join(added) + message
        found = await chain(message, resolver)
        assert (found.result, len(found.sealers), found.oldest_pass) == ("pass", count, 0), found.problem


# What dkimpy passes and we do not.
DKIMPY_PASSES = {
    "the AMS covers no From",  # RFC 6376 §5.4: "The From header field MUST be signed"
    "the AMS covers a part of the body",  # decisions.md: l= that leaves an end unsigned is no pass
    "a seal is of tomorrow",  # RFC 6376 §3.5: "MAY ignore signatures that have a timestamp in the future"
}


def test_dkimpy_passes_no_other_chain() -> None:
    passed = set()
    for what, message, _ in FAIL:
        try:
            if dkimpy(message) == "pass":
                passed.add(what)
        except Exception:  # it has errors of many kinds for what it cannot read
            continue
    assert passed == DKIMPY_PASSES


def test_dkimpy_passes_what_we_pass() -> None:
    assert [what for what, message in PASS if dkimpy(message) != "pass"] == ["Ed25519"]  # it has rsa-sha256 only
