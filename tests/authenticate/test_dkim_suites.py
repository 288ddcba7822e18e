"""The sample messages of RFC 6376 App. A and RFC 8463 App. A, and the mails of other projects, with keys over DNS."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping

import pytest

from relay.authenticate.dkim import verify
from relay.resolver import Resolver
from tests.support.dkim_verifiers import dkimpy
from tests.support.dns import dns_server
from tests.support.suites import suite

# RFC 6376 App. C, whose key signed the sample of App. A
BRISBANE = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCj"
    "xOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcW"
    "ToIMmPSPDdQPNUYckcQ2QIDAQAB"
)
NOW = 1_640_000_000  # 2021-12-20, when each of them had been signed and none had expired

# file, the selectors' results. "dkimpy": as that oracle says, with the same keys.
MAILS = [
    (("go-msgauth", "verifiedMailString.eml"), ["pass"]),  # RFC 6376 App. A.2
    (("go-msgauth", "verifiedEd25519MailString.eml"), ["pass", "pass"]),  # RFC 8463 App. A.3
    (("go-msgauth", "tooManySignaturesMailString.eml"), ["pass"] * 3),
    (("go-msgauth", "unsignedMailString.eml"), []),
    (("rfc-examples", "rfc8463-appendix-a.txt"), ["pass", "pass"]),
    (("rfc-examples", "dkimpy-data", "rfc6376.signed.msg"), ["pass", "pass"]),
    (("rfc-examples", "dkimpy-data", "rfc6376.signed.rsa.msg"), ["pass"]),
    (("rfc-examples", "dkimpy-data", "ed25519test2.msg"), ["pass"]),
    (("rfc-examples", "dkimpy-data", "rfc6376.signed.no_t.msg"), ["fail"]),  # t= was taken out of it
    (("rfc-examples", "dkimpy-data", "test.message.baddomain"), ["permerror"]),
    (("rfc-examples", "dkimpy-data", "test.message"), []),
    (("authheaders", "test.message_signed"), ["pass"]),
    (("authheaders", "testcomma.message"), "dkimpy"),
    (("authheaders", "test.message_np1"), "dkimpy"),
    (("authheaders", "test.message_np2"), "dkimpy"),
    (("authheaders", "test.message_sub"), "dkimpy"),
    (("authheaders", "test.message_multi"), "dkimpy"),
    (("authheaders", "test.message_multi2"), "dkimpy"),
    (("authheaders", "test.message"), []),
    (("authheaders", "test.nofrom.message"), []),
]


def records() -> dict[str, str]:
    def text(*parts: str) -> str:
        return suite(*parts).read_text().strip()

    test = text("authheaders", "test.txt")
    found = {f"test._domainkey.{domain}": test for domain in ("example.com", "example.org", "example.biz")}
    found["brisbane._domainkey.example.com"] = BRISBANE
    found["sed._domainkey.test.ex"] = text("rfc-examples", "dkimpy-data", "eximtest.dns")
    for line in text("rfc-examples", "rfc8463-appendix-a.txt").splitlines()[:2]:
        name, _, value = line.partition(" ")
        found[name] = value
    return found


def mail(parts: tuple[str, ...]) -> bytes:
    content = suite(*parts).read_bytes()
    if parts[-1].startswith("rfc8463"):
        content = content.partition(b"\n\n")[2]
    return re.sub(rb"\r?\n", b"\r\n", content)


@pytest.fixture
async def resolver() -> AsyncIterator[Resolver]:
    async with dns_server({name: [{"TXT": text}] for name, text in records().items()}) as server:
        made = Resolver([server.nameserver], timeout=5.0)
        yield made
        await made.close()


@pytest.mark.parametrize(("parts", "expected"), MAILS, ids=["/".join(parts) for parts, _ in MAILS])
async def test_each_mail(resolver: Resolver, parts: tuple[str, ...], expected: list[str] | str) -> None:
    message = mail(parts)
    found = [str(one.result) for one in await verify(message, resolver, time=NOW)]
    if expected == "dkimpy":
        expected = ["pass" if verified else "fail" for verified in dkimpy(message, records())]
    assert found == expected


@pytest.mark.parametrize(
    ("file", "word"),
    [("badk.txt", "k="), ("badversion.txt", "v="), ("test_bad.txt", "RSA"), ("test_tlsrpt.txt", "s=")],
)
async def test_keys_that_cannot_be_used(file: str, word: str) -> None:
    zone: Mapping[str, list[dict[str, str]]] = {
        "test._domainkey.example.com": [{"TXT": suite("rfc-examples", "dkimpy-data", file).read_text().strip()}]
    }
    async with dns_server(zone) as server:
        resolver = Resolver([server.nameserver], timeout=5.0)
        [found] = await verify(mail(("authheaders", "test.message_signed")), resolver, time=NOW)
        await resolver.close()
    assert (found.result, word in found.problem) == ("permerror", True), found.problem


async def test_the_raw_rsa_key_of_go_msgauth_in_pkcs1(resolver: Resolver) -> None:
    # Its key is in the Go source, not in the suite: without one the verdict can only say so.
    [found] = await verify(mail(("go-msgauth", "verifiedRawRSAMailString.eml")), resolver, time=NOW)
    assert (found.result, found.body_hash_matches) == ("permerror", True)
