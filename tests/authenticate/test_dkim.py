"""DKIM: each rule of RFC 6376, 8301, 8463 and 8616 as a mail that keeps or breaks it, keys from a DNS server."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization

from relay.authenticate.dkim import MAX_SIGNATURES, verify
from relay.resolver import Resolver
from relay.verdict import DkimVerdict
from tests.support.dkim_signer import dkim_signed, ed25519_key, public_record, record, rsa_key
from tests.support.dns import DnsServer

NOW = 1_790_000_000
MAIL = (
    b"Received: from a by b; c\r\nFrom: Ann <ann@example.org>\r\nTo: bob@example.com\r\nSubject:  a \t word\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\n hello \t there\r\n\r\nbye\r\n\r\n\r\n"
)
CANONICAL = len(b" hello there\r\n\r\nbye\r\n")  # MAIL's body in its relaxed form
RSA, ED = record(rsa_key()), record(ed25519_key())
PKCS1 = base64.b64encode(
    rsa_key().public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
).decode()
P = RSA.partition("p=")[2]


def key(**selectors: str) -> dict[str, list[dict[str, str]]]:
    return {f"{name}._domainkey.example.org": [{"TXT": text}] for name, text in selectors.items()}


ZONE = {
    **key(
        r=RSA,
        e=ED,
        bare=f"p={P}",  # RFC 6376 §3.6.1: only p= must be there
        pkcs1=f"v=DKIM1; p={PKCS1}",
        spaced=f"v=DKIM1 ; k = rsa ;\tp= {P[:40]} {P[40:]} ; n=a note; ",
        unknown=record(rsa_key(), "v=DKIM1; g=*; q=a; "),
        revoked="v=DKIM1; p=",
        testing=record(rsa_key(), "v=DKIM1; t=y; "),
        strict=record(rsa_key(), "v=DKIM1; t=s; "),
        web=record(rsa_key(), "v=DKIM1; s=web; "),
        email=record(rsa_key(), "v=DKIM1; s=web : email; "),
        sha1=record(rsa_key(), "v=DKIM1; h=sha1; "),
        both=record(rsa_key(), "v=DKIM1; h=sha1 : sha256; "),
        last=f"k=rsa; v=DKIM1; p={P}",
        two=f"v=DKIM2; p={P}",
        other=f"v=DKIM1; k=dsa; p={P}",
        double=f"v=DKIM1; p={P}; p={P}",
        nop="v=DKIM1; k=rsa",
        notbase64="v=DKIM1; p=@@@@",
        notkey="v=DKIM1; p=AAAA",
        short="v=DKIM1; k=ed25519; p=AAAA",
        notag="v=DKIM1; hello",
        long=record(rsa_key(), f"v=DKIM1; n={'x' * 5000}; "),
        b1024=record(rsa_key(1024)),
        b768=public_record(768),
        b4097=public_record(4097),
        b16k=public_record(16384),
        huge=public_record(2048, 2**64 + 13),
        e3=record(rsa_key(2048, 3)),
    ),
    "broken._domainkey.example.org": ["SERVFAIL"],
    "slow._domainkey.example.org": ["TIMEOUT"],
    "nodata._domainkey.example.org": [{"A": "192.0.2.1"}],
    "alias._domainkey.example.org": [{"CNAME": "r._domainkey.example.org"}],
    "r._domainkey.sub.example.org": [{"TXT": RSA}],
    "split._domainkey.example.org": [{"TXT": [RSA[:200], RSA[200:]]}],
    # RFC 8616 §4: bücher.example and a selector of ü
    "xn--tda._domainkey.xn--bcher-kva.example": [{"TXT": RSA}],
}


async def verdict(message: bytes, resolver: Resolver) -> DkimVerdict:
    [one] = await verify(message, resolver, time=NOW)
    return one


# (what, its tags, the result and a word of the reason)
ROWS = [
    ("as it should be", {}, "pass", ""),
    ("simple/simple", {"c": "simple/simple"}, "pass", ""),
    ("simple/relaxed", {"c": "simple/relaxed"}, "pass", ""),
    ("relaxed/simple", {"c": "relaxed/simple"}, "pass", ""),
    ("one form is the header's, simple the body's", {"c": "relaxed"}, "pass", ""),  # RFC 6376 §3.5
    ("no c= is simple/simple", {"c": None}, "pass", ""),
    ("white space in h=", {"h": "From : To\r\n\t:Subject :Date"}, "pass", ""),
    ("names that are not there", {"h": "from:from:to:reply-to:subject"}, "pass", ""),  # §5.4
    ("an unknown tag", {"zz": "what ever"}, "pass", ""),  # §3.2
    ("z= and q=", {"z": "From:a=40b|To:c", "q": "dns/txt : http"}, "pass", ""),
    ("i= in d=", {"i": "ann@example.org"}, "pass", ""),
    ("i= below d=", {"i": "ann@sub.example.org"}, "pass", ""),
    ("i= without a local part", {"i": "@EXAMPLE.org"}, "pass", ""),
    ("d= in capitals", {"d": "Example.ORG"}, "pass", ""),
    ("t= in the past, x= in the future", {"t": str(NOW - 9), "x": str(NOW + 9)}, "pass", ""),
    ("x= past by less than clocks differ", {"x": str(NOW - 200)}, "pass", ""),
    ("t= ahead by less than clocks differ", {"t": str(NOW + 200)}, "pass", ""),
    ("l= is the whole body", {"l": str(CANONICAL)}, "pass", ""),
    ("a key with p= alone", {"s": "bare"}, "pass", ""),
    ("a key in PKCS#1", {"s": "pkcs1"}, "pass", ""),
    ("white space in the key", {"s": "spaced"}, "pass", ""),
    ("unknown tags in the key", {"s": "unknown"}, "pass", ""),
    ("a key for mail among others", {"s": "email"}, "pass", ""),
    ("a key for SHA-256 among others", {"s": "both"}, "pass", ""),
    ("a key for no subdomains, and none", {"s": "strict", "i": "@example.org"}, "pass", ""),
    ("a key in two strings", {"s": "split"}, "pass", ""),
    ("a key behind a CNAME", {"s": "alias"}, "pass", ""),
    ("U-labels", {"d": "bücher.example", "s": "ü", "i": "é@bücher.example"}, "pass", ""),  # RFC 8616 §4
    ("d= in U-labels, i= in A-labels", {"d": "bücher.example", "s": "ü", "i": "@xn--bcher-kva.example"}, "pass", ""),
    # The signature field: RFC 6376 §6.1.1
    ("no v=", {"v": None}, "permerror", "v="),
    ("v=2", {"v": "2"}, "permerror", "v="),
    ("no a=", {"a": None}, "permerror", "a="),
    ("no d=", {"d": None}, "permerror", "d="),
    ("no s=", {"s": None}, "permerror", "s="),
    ("no h=", {"h": None}, "permerror", "h="),
    ("an empty h=", {"h": ""}, "permerror", "h="),
    ("no bh=", {"bh": None}, "permerror", "bh="),
    ("h= without From", {"h": "to:subject:date"}, "permerror", "From"),
    ("h= of junk", {"h": "from::to"}, "permerror", "h="),
    ("bh= is no base64", {"bh": "@@@"}, "permerror", "base64"),
    ("bh= of another length", {"bh": "AAAA"}, "permerror", "bh="),
    ("an unknown algorithm", {"a": "rsa-sha512"}, "permerror", "a="),
    ("an unknown form", {"c": "nofws"}, "permerror", "c="),
    ("an unknown form of the body", {"c": "relaxed/nofws"}, "permerror", "c="),
    ("i= elsewhere", {"i": "ann@example.com"}, "permerror", "i="),
    ("i= above d=", {"d": "sub.example.org", "i": "ann@example.org"}, "permerror", "i="),
    ("i= that only ends like d=", {"i": "ann@badexample.org"}, "permerror", "i="),
    ("i= without @", {"i": "example.org"}, "permerror", "i="),
    ("q= of something else", {"q": "http"}, "permerror", "q="),
    ("t= is no number", {"t": "soon"}, "permerror", "t="),
    ("x= is no number", {"x": "-1"}, "permerror", "x="),
    ("x= before t=", {"t": str(NOW), "x": str(NOW - 1)}, "permerror", "x="),  # §3.5
    ("l= is no number", {"l": "many"}, "permerror", "l="),
    ("an empty l=", {"l": ""}, "permerror", "l="),
    ("d= is a single label", {"d": "org"}, "permerror", "d="),
    ("d= with a comment", {"d": "example.org(.evil.example"}, "permerror", "d="),
    ("d= with a quote", {"d": '"example.org"'}, "permerror", "d="),
    ("d= with a final dot", {"d": "example.org."}, "permerror", "d="),
    ("d= with an empty label", {"d": "example..org"}, "permerror", "d="),
    ("d= in full-width letters", {"d": "ｅxample.org"}, "permerror", "d="),
    ("s= with a space", {"s": "r r"}, "permerror", "s="),
    ("s= too long for the DNS", {"s": ".".join(["a" * 60] * 4)}, "permerror", "too long"),
    ("it has expired", {"x": str(NOW - 3600)}, "fail", "expired"),
    ("it is of tomorrow", {"t": str(NOW + 86400)}, "fail", "future"),
    # What we do not take: decisions.md
    ("l= leaves an end unsigned", {"l": "5"}, "policy", "l="),
    ("l=0", {"l": "0"}, "policy", "l="),
    ("l= is larger than the body", {"l": str(CANONICAL + 1)}, "permerror", "l="),  # §3.5
    ("l= of 76 digits", {"l": "9" * 76}, "permerror", "l="),
    # The key: §6.1.2
    ("no such key", {"s": "none"}, "permerror", "no key"),
    ("no TXT there", {"s": "nodata"}, "permerror", "no key"),
    ("the DNS is broken", {"s": "broken"}, "temperror", "key"),
    ("the DNS does not answer", {"s": "slow"}, "temperror", "key"),
    ("a revoked key", {"s": "revoked"}, "permerror", "revoked"),
    ("a key for something else", {"s": "web"}, "permerror", "s="),
    ("a key for SHA-1 only", {"s": "sha1"}, "permerror", "h="),
    ("a key for no subdomains, and one", {"s": "strict", "i": "@sub.example.org"}, "permerror", "t=s"),
    ("a key for Ed25519", {"s": "e"}, "permerror", "k="),
    ("v= is not first in the key", {"s": "last"}, "permerror", "v="),
    ("a key of another version", {"s": "two"}, "permerror", "v="),
    ("a key of an unknown kind", {"s": "other"}, "permerror", "k="),
    ("a doubled tag in the key", {"s": "double"}, "permerror", "twice"),
    ("no p= in the key", {"s": "nop"}, "permerror", "p="),
    ("p= is no base64", {"s": "notbase64"}, "permerror", "base64"),
    ("p= is no key", {"s": "notkey"}, "permerror", "RSA"),
    ("p= is no Ed25519 key", {"s": "short", "a": "ed25519-sha256"}, "permerror", "32"),
    ("a key without tags", {"s": "notag"}, "permerror", "name=value"),
    ("a key of 5 kB", {"s": "long"}, "permerror", "octets"),
    ("a key of 768 bits", {"s": "b768"}, "policy", "768 bits"),  # RFC 8301 §3.2
    ("a key of 4097 bits", {"s": "b4097"}, "policy", "4097 bits"),
    ("a key of 16384 bits", {"s": "b16k"}, "policy", "16384 bits"),
    ("an exponent of 65 bits", {"s": "huge"}, "policy", "exponent"),
    ("the key is another", {"s": "b1024"}, "fail", "match"),
]


@pytest.mark.parametrize(("tags", "result", "word"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_each_rule(resolver: Resolver, tags: dict[str, str], result: str, word: str) -> None:
    found = await verdict(dkim_signed(MAIL, tags), resolver)
    assert (found.result, word in found.problem) == (result, True), found.problem
    assert bool(found.problem) == (result != "pass")


# Made by one who changes a signed mail on its way, or signs with other keys.
CHANGED: list[tuple[str, Callable[[bytes], bytes], str, bool | None]] = [
    ("the body grew", lambda signed: signed + b"more\r\n", "fail", False),
    ("the body has more empty lines", lambda signed: signed + b"\r\n\r\n", "pass", True),  # RFC 6376 §3.4.4
    ("spaces at a line's end", lambda signed: signed.replace(b"bye\r\n", b"bye \t\r\n"), "pass", True),
    ("no final line end", lambda signed: signed.rstrip(b"\r\n"), "pass", True),
    ("another Subject", lambda signed: signed.replace(b"word", b"sword"), "fail", True),
    ("a Subject folded anew", lambda signed: signed.replace(b"\t word", b"\r\n word"), "pass", True),
    ("the Subject in capitals", lambda signed: signed.replace(b"Subject:", b"SUBJECT :"), "pass", True),
    ("a second Subject on top", lambda signed: b"Subject: x\r\n" + signed, "pass", True),  # §5.4.2: from the bottom
    ("a second Subject below", lambda signed: signed.replace(b"\r\n\r\n", b"\r\nSubject: x\r\n\r\n", 1), "fail", True),
    ("an unsigned field", lambda signed: signed.replace(b"from a by b", b"from c by d"), "pass", True),
    ("the signature folded anew", lambda signed: signed.replace(b"; ", b";\r\n\t ", 3), "pass", True),
    ("b= in pieces", lambda signed: re.sub(rb"( b=.{20})", rb"\1\r\n\t ", signed, count=1), "pass", True),
    ("a tag of the signature", lambda signed: signed.replace(b"s=r;", b"s=r; t=1;"), "fail", True),
    ("a doubled tag", lambda signed: signed.replace(b"s=r;", b"s=r; s=r;"), "permerror", None),
    ("b= is no base64", lambda signed: signed.replace(b"; b=", b"; b=@"), "permerror", None),
    ("b= is empty", lambda signed: re.sub(rb"; b=[^\r]*", b"; b=", signed, count=1), "permerror", None),
    ("b= is short", lambda signed: re.sub(rb"; b=[^\r]*", b"; b=AAAA", signed, count=1), "fail", True),
    ("a semicolon too many", lambda signed: signed.replace(b"s=r;", b"s=r;;"), "permerror", None),
    ("a control character", lambda signed: signed.replace(b"s=r;", b"s=r; z=\x01;"), "permerror", None),
    ("an octet that is no UTF-8", lambda signed: signed.replace(b"s=r;", b"s=r; z=\xff;"), "permerror", None),
]


@pytest.mark.parametrize(("change", "result", "matches"), [row[1:] for row in CHANGED], ids=[row[0] for row in CHANGED])
async def test_a_changed_message(
    resolver: Resolver, change: Callable[[bytes], bytes], result: str, matches: bool | None
) -> None:
    found = await verdict(change(dkim_signed(MAIL)), resolver)
    assert (found.result, found.body_hash_matches) == (result, matches), found.problem


async def test_a_verdict_says_whose_and_what(resolver: Resolver) -> None:
    found = await verdict(dkim_signed(MAIL, {"s": "testing", "i": "ann@example.org"}), resolver)
    value = re.search(rb" b=(.{8})", dkim_signed(MAIL, {"s": "testing", "i": "ann@example.org"}))
    assert value
    expected = DkimVerdict(
        found.result, "example.org", "testing", "rsa-sha256", 2048, "ann@example.org", value[1].decode(), "", True, True
    )
    assert found == expected
    broken = await verdict(dkim_signed(MAIL, {"h": "to", "d": "bücher.example", "s": "ü"}), resolver)
    assert (broken.domain, broken.selector, broken.identity, broken.key_bits) == (
        "xn--bcher-kva.example",
        "xn--tda",
        "@xn--bcher-kva.example",
        0,
    )
    assert (await verdict(dkim_signed(MAIL, {"s": "b768"}), resolver)).key_bits == 768


@pytest.mark.parametrize(("selector", "signer"), [("b1024", rsa_key(1024)), ("e3", rsa_key(2048, 3))])
async def test_rsa_keys_that_are_taken(resolver: Resolver, selector: str, signer: object) -> None:
    found = await verdict(dkim_signed(MAIL, {"s": selector}, signer), resolver)  # type: ignore[arg-type]
    assert found.result == "pass"


async def test_ed25519(resolver: Resolver) -> None:
    signed = dkim_signed(MAIL, {"a": "ed25519-sha256", "s": "e"}, ed25519_key())
    assert (await verdict(signed, resolver)).key_bits == 256
    assert (await verdict(signed, resolver)).result == "pass"
    assert (await verdict(signed.replace(b"word", b"sword"), resolver)).result == "fail"
    # RFC 8463 §3, RFC 6376 §3.6.1: k= must be that of a=
    wrong = await verdict(dkim_signed(MAIL, {"a": "ed25519-sha256"}, ed25519_key()), resolver)
    assert (wrong.result, "k=" in wrong.problem) == ("permerror", True)


async def test_rsa_sha1_is_not_even_tried(server: DnsServer, resolver: Resolver) -> None:
    # RFC 8301 §3.1: rsa-sha1 MUST NOT be used for signing or verifying
    found = await verdict(dkim_signed(MAIL, {"a": "rsa-sha1"}, sha="sha1"), resolver)
    assert (found.result, server.questions) == ("policy", [])


async def test_all_signatures_have_their_verdict_in_order(resolver: Resolver) -> None:
    signed = dkim_signed(
        dkim_signed(dkim_signed(MAIL), {"s": "none"}), {"s": "e", "a": "ed25519-sha256"}, ed25519_key()
    )
    found = await verify(signed, resolver, time=NOW)
    assert [(one.selector, one.result) for one in found] == [("e", "pass"), ("none", "permerror"), ("r", "pass")]


async def test_only_the_first_signatures_are_looked_at(server: DnsServer, resolver: Resolver) -> None:
    signed = MAIL
    for n in range(MAX_SIGNATURES + 3):
        signed = dkim_signed(signed, {"s": f"s{n}"})
    found = await verify(signed, resolver, time=NOW)
    assert [one.result for one in found] == ["permerror"] * MAX_SIGNATURES + ["policy"] * 3
    assert len(server.questions) == MAX_SIGNATURES


async def test_one_key_is_asked_for_once(server: DnsServer, resolver: Resolver) -> None:
    signed = dkim_signed(dkim_signed(MAIL), {"h": "from"})
    assert [one.result for one in await verify(signed, resolver, time=NOW)] == ["pass", "pass"]
    assert [asked.name for asked in server.questions] == ["r._domainkey.example.org"]


@pytest.mark.parametrize(
    "tags",
    [
        {"d": "example.org(.evil.example"},
        {"d": "a\u0000b.org"},
        {"s": "%{i}"},
        {"s": "r\u200d"},
        {"x": "1"},
        {"h": "to"},
        {"bh": base64.b64encode(bytes(32)).decode()},  # another body: certain without a key
        {"l": "999"},
    ],
)
async def test_what_is_certain_costs_no_question(server: DnsServer, resolver: Resolver, tags: dict[str, str]) -> None:
    found = await verdict(dkim_signed(MAIL, tags), resolver)
    assert found.result in ("permerror", "fail")
    assert server.questions == []


async def test_broken_dns_does_not_save_a_changed_message(resolver: Resolver) -> None:
    # A spoofer's own DNS must not turn a fail into a temperror.
    assert (await verdict(dkim_signed(MAIL, {"s": "broken"}) + b"more\r\n", resolver)).result == "fail"


@pytest.mark.parametrize(
    "message",
    [
        dkim_signed(MAIL).replace(b"\r\n", b"\n"),
        dkim_signed(MAIL).replace(b"there\r\n", b"there\n"),
        dkim_signed(MAIL).replace(b"hello", b"hel\rlo"),
        b" first\r\n" + dkim_signed(MAIL),
        dkim_signed(MAIL).replace(b"To: ", b"To "),
        b"x: y\r\n" * 2000 + dkim_signed(MAIL),
    ],
    ids=["bare LF", "one bare LF", "bare CR", "a line in front", "a line that is no field", "2000 fields"],
)
async def test_what_is_no_message_is_neutral(resolver: Resolver, message: bytes) -> None:
    assert [one.result for one in await verify(message, resolver, time=NOW)] == ["neutral"]


@pytest.mark.parametrize("message", [b"", b"\r\n", MAIL, b"a\nb", b"\n\n", b"no header here\r\n", MAIL[:-9], b"\0"])
async def test_what_is_not_signed_has_no_verdict(resolver: Resolver, message: bytes) -> None:
    assert await verify(message, resolver, time=NOW) == []


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n", b" \r\n", b"a", b"\t\r\na \r\n \r\n"])
@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
async def test_bodies_of_all_kinds(resolver: Resolver, body: bytes, form: str) -> None:
    header = MAIL.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert (await verdict(dkim_signed(header + body, {"c": form}), resolver)).result == "pass"


async def test_a_large_body_is_hashed_in_a_thread(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    from relay.authenticate import dkim_hash

    threads = []

    async def to_thread(job: Callable[..., object], *args: object) -> object:
        threads.append(job)
        return job(*args)

    monkeypatch.setattr(dkim_hash.asyncio, "to_thread", to_thread)
    signed = dkim_signed(MAIL + b"a line of it\r\n" * 100_000)
    assert (await verdict(signed, resolver)).result == "pass"
    assert len(threads) == 1
    assert (await verdict(dkim_signed(MAIL), resolver)).result == "pass"
    assert len(threads) == 1
