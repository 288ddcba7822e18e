"""One case per published trick to pass as somebody else: none gives dmarc=pass for the one impersonated.

The attacker holds evil.example: SPF passes for it, and every mail bears a true signature of his.
reliability: §2.8, R24.
"""

from __future__ import annotations

from typing import Any

import pytest

from relay.authenticate.check import authenticate
from relay.resolver import Resolver
from relay.verdict import Verdicts
from tests.support.dkim_signer import dkim_signed, record, rsa_key
from tests.support.dns import dns_server

IP = "198.51.100.66"
KEY = {"TXT": record(rsa_key())}
ZONE: dict[str, list[Any]] = {
    "legit.example": [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}, {"MX": [10, "mx.legit.example"]}],
    "_dmarc.legit.example": [{"TXT": "v=DMARC1; p=reject"}],
    "mx.legit.example": [{"A": "192.0.2.1"}],
    "evil.example": [{"TXT": f"v=spf1 ip4:{IP} -all"}, {"A": IP}],
    "_dmarc.evil.example": [{"TXT": "v=DMARC1; p=none"}],
    "r._domainkey.evil.example": [KEY],
    # what a reader that stops at a NUL, a quote or a paren would ask for
    "legit.example.evil.example": [{"TXT": f"v=spf1 ip4:{IP} -all"}],
    "r._domainkey.legit.example.evil.example": [KEY],
    "_dmarc.evil.example.legit.example": [{"TXT": "v=DMARC1; p=none"}],
    "66.100.51.198.in-addr.arpa": [{"PTR": "evil.example"}, {"PTR": "legit.example"}],
}
REST = b"To: victim@example.net\r\nSubject: invoice\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\npay\r\n"


async def judge(message: bytes, mail_from: str = "x@evil.example", helo: str = "evil.example") -> Verdicts:
    async with dns_server(ZONE) as server:
        resolver = Resolver([server.nameserver], timeout=2.0)
        try:
            return await authenticate(message, IP, helo, mail_from, resolver)
        finally:
            await resolver.close()


def is_fooled(found: Verdicts) -> bool:
    return found.dmarc.result == "pass" and found.dmarc.author_domain != "evil.example"


async def test_the_attackers_own_mail_passes_as_his_own() -> None:
    """So that what follows fails for the trick, not for a mistake of the test."""
    found = await judge(dkim_signed(b"From: x@evil.example\r\n" + REST, {"d": "evil.example"}))
    assert (found.dmarc.result, found.dmarc.author_domain) == ("pass", "evil.example")
    assert found.dmarc.aligned_by == ("spf", "dkim")


@pytest.mark.parametrize(
    ("header", "result"),
    [
        # plainly forged
        (b"From: ceo@legit.example\r\n", "fail"),
        (b'From: "x@evil.example" <ceo@legit.example>\r\n', "fail"),
        # two From fields, in both orders; one hidden by a space before its colon or by a fold
        (b"From: ceo@legit.example\r\nFrom: x@evil.example\r\n", "permerror"),
        (b"From: x@evil.example\r\nFrom: ceo@legit.example\r\n", "permerror"),
        (b"From : ceo@legit.example\r\nFrom: x@evil.example\r\n", "permerror"),
        (b"From: x@evil.example\r\nfrom : ceo@legit.example\r\n", "permerror"),
        (b"From : ceo@legit.example\r\n", "permerror"),
        (b"From:\r\n ceo@legit.example\r\nFrom: x@evil.example\r\n", "permerror"),
        (b"From: \r\n \r\n ceo@legit.example\r\n", "permerror"),
        # several authors, a group, nobody
        (b"From: ceo@legit.example, x@evil.example\r\n", "permerror"),
        (b"From: x@evil.example, ceo@legit.example\r\n", "permerror"),
        (b"From: friends: ceo@legit.example, x@evil.example;\r\n", "permerror"),
        (b"From: <ceo@legit.example> <x@evil.example>\r\n", "permerror"),
        (b"From:\r\n", "permerror"),
        (b"Sender: ceo@legit.example\r\n", "permerror"),
        (b"Resent-From: x@evil.example\r\nFrom: ceo@legit.example\r\n", "fail"),
        (b"Sender: x@evil.example\r\nFrom: ceo@legit.example\r\n", "fail"),
        # one address, read in two ways
        (b"From: <@evil.example:ceo@legit.example>\r\n", "permerror"),
        (b"From: <@legit.example,@evil.example:ceo@legit.example>\r\n", "permerror"),
        (b"From: ceo@legit.example(@evil.example\r\n", "permerror"),
        (b"From: ceo@legit.example(x)@evil.example\r\n", "permerror"),
        (b"From: ceo@legit.example\x00@evil.example\r\n", "permerror"),
        (b"From: ceo@legit.example\\@evil.example\r\n", "permerror"),
        (b"From: =?utf-8?q?ceo=40legit.example?= <x@evil.example@legit.example>\r\n", "permerror"),
        (b"From: =?utf-8?b?Y2VvQGxlZ2l0LmV4YW1wbGU=?=@evil.example\r\n", "permerror"),
        (b"From: ceo@legit.example.\r\n", "permerror"),
        (b"From: ceo@legit..example\r\n", "permerror"),
        (b"From: ceo@[legit.example]\r\n", "permerror"),
        (b"From: ceo@legit.example;x@evil.example\r\n", "permerror"),
        ("From: ceo@legit\u3002example\r\n".encode(), "permerror"),
        ("From: ceo@leg\u200bit.example\r\n".encode(), "permerror"),
        ("From: ceo@ｌegit.example\r\n".encode(), "permerror"),
        (b"From: ceo@legit.example\xff\r\n", "permerror"),
        (b"X: y\r\nnot a field\r\nFrom: x@evil.example\r\n", "permerror"),
    ],
)  # fmt: skip
async def test_the_from_field(header: bytes, result: str) -> None:
    unsigned = await judge(header + REST)
    assert not is_fooled(unsigned)
    assert unsigned.dmarc.result == result
    signed = await judge(dkim_signed(header + REST, {"d": "evil.example"}))
    assert not is_fooled(signed)
    assert signed.dmarc.result == result


async def test_a_message_that_begins_with_a_space() -> None:
    """Any field of ours on top of it would swallow its first line."""
    found = await judge(b" From: ceo@legit.example\r\nFrom: x@evil.example\r\n" + REST)
    assert found.dmarc.result == "permerror"


@pytest.mark.parametrize(
    "address",
    [
        b'"ceo@legit.example"@evil.example',
        b'"ceo@legit.example\\" <"@evil.example',
        b"ceo%legit.example@evil.example",
        b"ceo=legit.example@evil.example",
        b"legit.example!ceo@evil.example",
    ],
)
async def test_an_address_that_is_the_attackers_own_is_told_as_his(address: bytes) -> None:
    found = await judge(dkim_signed(b"From: <" + address + b">\r\n" + REST, {"d": "evil.example"}))
    assert found.dmarc.author_domain in ("evil.example", "")
    assert not is_fooled(found)


LEGIT = b"From: ceo@legit.example\r\n" + REST


@pytest.mark.parametrize(
    "tags",
    [
        {"d": "legit.example.evil.example"},
        {"d": "evil.example", "i": "@legit.example"},
        {"d": "evil.example", "i": "ceo@legit.example"},
        {"d": "legit.example\x00.evil.example"},
        {"d": "legit.example'.evil.example"},
        {"d": "legit.example(.evil.example"},
        {"d": "evil.example", "s": "r._domainkey.evil.example.\x00"},
        {"d": "legit.example", "s": "r._domainkey.evil.example\x00"},
        {"d": "legit.example", "s": "r._domainkey.legit.example.evil.example(x"},
        {"d": "example"},
        {"d": "."},
        {"d": "legit.example.", "s": "r"},
        {"d": "ｌegit.example"},
        {"d": "evil.example", "h": "to:subject"},  # From is not signed
        {"d": "evil.example", "h": "from:from:to"},
    ],
)
async def test_the_signature(tags: dict[str, str]) -> None:
    found = await judge(dkim_signed(LEGIT, tags))
    assert not is_fooled(found)
    assert found.dmarc.result == "fail"


@pytest.mark.parametrize(
    ("mail_from", "helo"),
    [
        ("ceo@legit.example", "evil.example"),  # the pass of HELO is not one of MAIL FROM (RFC 7208 §2.4)
        ("", "evil.example"),
        ("<>", "legit.example"),
        ("x@evil.example", "legit.example"),
        ("ceo@legit.example", "legit.example"),
        ("x@legit.example.evil.example", "legit.example"),
        ("ceo@legit.example\x00@evil.example", "evil.example"),
        ('"ceo@legit.example"@evil.example', "evil.example"),
        ("ceo@legit.example@evil.example", "evil.example"),
        ("x@evil.example", "legit.example\r\nX: y"),
    ],
)
async def test_the_envelope(mail_from: str, helo: str) -> None:
    found = await judge(LEGIT, mail_from, helo)
    assert not is_fooled(found)
    assert found.dmarc.result == "fail"


async def test_a_second_from_on_top_of_a_mail_that_was_truly_signed() -> None:
    """A replay: the signature covers one From, the reader shows the other."""
    true = dkim_signed(b"From: x@evil.example\r\n" + REST, {"d": "evil.example"})
    found = await judge(b"From: ceo@legit.example\r\n" + true)
    assert found.dmarc.result == "permerror"
