"""ARC seals: read tag by tag, and verified by dkimpy and by us."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

import dkim
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from relay.authenticate import arc
from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.results import results_value
from relay.edit.sign import seal, sign
from relay.errors import MalformedMessage
from relay.resolver import Resolver
from relay.verdict import ArcResult, ArcVerdict, Verdicts
from tests.support.dkim_signer import arc_sealed, ed25519_key, fields, record, rsa_key
from tests.support.dns import dns_server
from tests.support.verdicts import signed, verdicts

NOW = 1_790_000_000
KEY = SigningKey("example.org", "r", Algorithm.RSA, rsa_key())
ED = SigningKey("example.org", "e", Algorithm.ED25519, ed25519_key())
RECORDS = {"r._domainkey.example.org": record(rsa_key()), "e._domainkey.example.org": record(ed25519_key())}
MAIL = (
    b"Authentication-Results: other.example; spf=pass\r\nReceived: from a by b; c\r\n"
    b"From: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject: a word\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nhello\r\n"
)
FOUND = verdicts(spf="pass", dkim=[signed("example.org")])


def tags(raw: bytes) -> dict[str, str]:
    text = re.sub(r"\s", "", raw.partition(b":")[2].decode())
    return dict(tag.split("=", 1) for tag in text.split(";"))


def with_arc(word: str) -> Verdicts:
    return verdicts(spf="pass", arc=ArcVerdict(ArcResult(word)))


def dkimpy(message: bytes, records: Mapping[str, str] = RECORDS) -> str:
    result, _, _ = dkim.arc_verify(message, dnsfunc=lambda name, timeout=0: records[name.decode().rstrip(".")].encode())
    return str(result.decode())


async def ours(message: bytes) -> ArcVerdict:
    async with dns_server({name: [{"TXT": text}] for name, text in RECORDS.items()}) as server:
        resolver = Resolver([server.nameserver], timeout=5.0)
        try:
            return await arc.verify(message, resolver, time=NOW)
        finally:
            await resolver.close()


async def test_the_first_set_verifies() -> None:
    sealed = seal(MAIL, KEY, FOUND, "mx.example.org", time=NOW)
    assert sealed.endswith(MAIL)
    assert dkimpy(sealed) == "pass"
    assert await ours(sealed) == ArcVerdict(ArcResult.PASS, ("example.org",), 0)
    changed = sealed.replace(b"Subject: a word", b"Subject: another")
    assert dkimpy(changed) == "fail"


async def test_each_further_set_verifies() -> None:
    message = MAIL
    for count in range(1, 6):
        message = seal(message, KEY, FOUND if count == 1 else with_arc("pass"), "mx.example.org", time=NOW)
        assert dkimpy(message) == "pass"
        assert (await ours(message)).sealers == ("example.org",) * count


async def test_ed25519_seals() -> None:
    sealed = seal(MAIL, ED, FOUND, "mx.example.org", time=NOW)
    assert (await ours(sealed)).result == "pass"  # dkimpy has rsa-sha256 only for ARC


async def test_a_seal_on_a_foreign_chain_verifies() -> None:
    sealed = seal(arc_sealed(MAIL), KEY, with_arc("pass"), "mx.example.org", time=NOW)
    assert dkimpy(sealed) == "pass"
    assert (await ours(sealed)).result == "pass"


def test_a_set_stands_on_top_with_the_tags_of_the_rfc() -> None:
    sealed = seal(sign(MAIL, [KEY], time=NOW), KEY, FOUND, "mx.example.org", time=NOW)
    names = [line.partition(b":")[0] for line in sealed.splitlines() if not line.startswith(b"\t")]
    # RFC 8617 §5.1 step 4: AAR, AMS, AS, each on top of those before it
    assert names[:4] == [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"DKIM-Signature"]
    [seal_field], [signature] = fields(sealed, "ARC-Seal"), fields(sealed, "ARC-Message-Signature")
    found = tags(seal_field)
    assert {name: found[name] for name in found if name != "b"} == {
        "i": "1",
        "a": "rsa-sha256",
        "cv": "none",
        "d": "example.org",
        "s": "r",
        "t": str(NOW),
    }
    found = tags(signature)
    assert set(found) == {"i", "a", "c", "d", "s", "t", "h", "bh", "b"}  # RFC 8617 §4.1.2: no v=
    signed_names = found["h"].lower().split(":")
    # RFC 8617 §4.1.2: the DKIM-Signature, but no ARC field and no Authentication-Results
    assert "dkim-signature" in signed_names
    assert "from" in signed_names
    assert not [name for name in signed_names if name.startswith("arc-") or name == "authentication-results"]


def test_the_results_are_ours_to_the_letter() -> None:
    # RFC 8617 §4.1.1; those of others in the message are not sealed
    [raw] = fields(seal(MAIL, KEY, FOUND, "mx.example.org", time=NOW), "ARC-Authentication-Results")
    assert raw == b"ARC-Authentication-Results: i=1; " + results_value(FOUND, "mx.example.org") + b"\r\n"
    assert b"other.example" not in raw


@pytest.mark.parametrize(
    ("message", "word", "status"),
    [
        (MAIL, "none", "none"),
        (MAIL, "pass", "none"),  # a verdict that is not this message's
        (arc_sealed(MAIL), "pass", "pass"),
        (arc_sealed(MAIL), "fail", "fail"),
        (arc_sealed(MAIL), "none", "fail"),
        (arc_sealed(MAIL, 2), "fail", "fail"),
        (arc_sealed(MAIL, 2), "pass", "fail"),  # no chain at all: the first set is missing
    ],
)
def test_cv_is_what_we_found(message: bytes, word: str, status: str) -> None:
    newest = fields(seal(message, KEY, with_arc(word), "mx.example.org", time=NOW), "ARC-Seal")[0]
    assert tags(newest)["cv"] == status


def test_a_seal_on_a_chain_that_fails_is_on_its_own_set_alone() -> None:
    # RFC 8617 §5.1.2: "as if this newest ARC Set was the only set present"
    sealed = seal(arc_sealed(MAIL), KEY, with_arc("fail"), "mx.example.org", time=NOW)
    alone = [fields(sealed, name)[0] for name in ("ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal")]
    assert tags(alone[2])["i"] == "2"
    unsigned = re.sub(rb"\tb=[^;]*\Z", b"\tb=", alone[2])
    covered = b"\r\n".join(
        name.lower() + b":" + value.strip()
        for name, _, value in (re.sub(rb"\s+", b" ", raw).partition(b":") for raw in [*alone[:2], unsigned])
    )
    value = base64.b64decode(tags(alone[2])["b"])
    rsa_key().public_key().verify(value, covered, padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize(
    "message",
    [arc_sealed(MAIL, 1, cv="fail"), arc_sealed(arc_sealed(MAIL), 2, cv="fail"), arc_sealed(MAIL, 50)],
    ids=["cv=fail", "cv=fail on top", "50 sets"],
)
def test_nothing_is_put_on_a_chain_that_has_ended(message: bytes) -> None:
    # RFC 8617 §5.1 step 2, §5.2 step 1
    assert seal(message, KEY, with_arc("fail"), "mx.example.org", time=NOW) == message


@pytest.mark.parametrize("message", [MAIL.replace(b"hello", b"hel\nlo"), b" a\r\n" + MAIL])
def test_what_is_no_message_is_not_sealed(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        seal(message, KEY, FOUND, "mx.example.org", time=NOW)
