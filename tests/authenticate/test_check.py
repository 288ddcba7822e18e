"""All checks together: their results meet in DMARC, they fail one by one, and a bomb has a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.address import Address
from relay.authenticate import check
from relay.authenticate.check import SHARES, EarlySpf, authenticate
from relay.fact import Fact
from relay.message import Message
from relay.resolver import Resolver
from relay.verdict import Verdicts
from tests.support.dkim_signer import arc_sealed, dkim_signed, record, rsa_key
from tests.support.dns import DnsServer, dns_server
from tests.support.mail import crlf
from tests.support.suites import suite

IP = "192.0.2.1"
MAIL = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: hello\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nhello\r\n"
)
ZONE: dict[str, list[Any]] = {
    "example.org": [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}],
    "_dmarc.example.org": [{"TXT": "v=DMARC1; p=reject"}],
    "r._domainkey.example.org": [{"TXT": record(rsa_key())}],
    "mail.example.org": [{"A": IP}, {"TXT": "v=spf1 a -all"}],
    "1.2.0.192.in-addr.arpa": [{"PTR": "mail.example.org"}],
}


@asynccontextmanager
async def dns(zone: Mapping[str, Any], **more: Any) -> AsyncIterator[tuple[DnsServer, Resolver]]:
    async with dns_server(zone, **more) as server:
        resolver = Resolver([server.nameserver], timeout=2.0)
        try:
            yield server, resolver
        finally:
            await resolver.close()


def results(found: Verdicts) -> dict[str, str]:
    told = {name: getattr(found, name).result.value for name in ("spf", "helo", "arc", "dmarc", "iprev")}
    return {**told, "dkim": ",".join(one.result.value for one in found.dkim)}


GOOD = {"spf": "pass", "helo": "pass", "dkim": "pass", "arc": "none", "dmarc": "pass", "iprev": "pass"}


@pytest.mark.parametrize("mail_from", ["ann@example.org", "<ann@example.org>", Address("ann", "example.org")])
async def test_all_is_well(mail_from: str | Address) -> None:
    async with dns(ZONE) as (server, resolver):
        found = await authenticate(dkim_signed(MAIL), IP, "mail.example.org", mail_from, resolver)
        assert results(found) == GOOD
        assert found.dmarc.aligned_by == ("spf", "dkim")
        assert len(server.questions) <= found.queries <= sum(SHARES.values()) == 50
        assert len(found.steps) >= found.queries


async def test_a_parsed_message_will_do() -> None:
    async with dns(ZONE) as (_, resolver):
        message = Message.parse(dkim_signed(MAIL))
        assert results(await authenticate(message, IP, "mail.example.org", "ann@example.org", resolver)) == GOOD


@pytest.mark.parametrize("null", [None, "", "<>"])
async def test_for_the_null_reverse_path_spf_is_that_of_helo(null: str | None) -> None:
    """RFC 7208 §2.4: postmaster@HELO; and the questions are asked once."""
    async with dns(ZONE) as (server, resolver):
        found = await authenticate(MAIL, IP, "mail.example.org", null, resolver)
        assert found.spf == found.helo
        assert (found.spf.identity, found.spf.domain) == ("helo", "mail.example.org")
        assert found.dmarc.aligned_by == ("spf",)
        assert server.questions.count(("mail.example.org", "TXT")) == 1


async def test_spf_that_began_early_is_not_asked_again() -> None:
    async with dns(ZONE) as (server, resolver):
        early = EarlySpf(IP, "mail.example.org", "ann@example.org", resolver)
        await early.verdict
        asked = len(server.questions)
        found = await authenticate(MAIL, IP, "mail.example.org", "ann@example.org", resolver, spf=early)
        assert found.spf == early.verdict.result()
        assert server.questions.count(("example.org", "TXT")) == 1
        assert found.queries >= len(server.questions) > asked


async def test_early_spf_can_be_dropped() -> None:
    async with dns(ZONE) as (server, resolver):
        server.answering.clear()
        early = EarlySpf(IP, "mail.example.org", "ann@example.org", resolver)
        await asyncio.sleep(0)
        early.cancel()
        with pytest.raises(asyncio.CancelledError):
            await early.verdict
        server.answering.set()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"From: a@example.org\r\nFrom: b@example.org\r\n",
        b"From: a@example.org, b@example.org\r\n",
        b"From: a@[192.0.2.1]\r\n",
        b"From: Ann\r\n",
    ],
)
async def test_without_one_author_domain_dmarc_is_permerror(header: bytes) -> None:
    """RFC 9989 §5.3.1."""
    async with dns(ZONE) as (_, resolver):
        found = await authenticate(
            header + b"To: x@example.net\r\n\r\n", IP, "mail.example.org", "ann@example.org", resolver
        )
        assert (found.dmarc.result, found.spf.result) == ("permerror", "pass")
        assert found.dmarc.problem


async def test_a_trusted_seal_is_told() -> None:
    async with dns(ZONE) as (_, resolver):
        sealed = arc_sealed(MAIL, results="mx.example.org; dmarc=pass header.from=example.org")
        found = await authenticate(
            sealed, IP, "mail.example.org", "ann@example.org", resolver, trusted_sealers=["example.org"]
        )
        assert (found.arc.result, found.arc.trusted) == ("pass", True)


# --- one check fails, the others stay -----------------------------------------------------------

CRASHES = {
    "spf": ("spf.check_mail_from", {"spf": "temperror"}),
    "helo": ("spf.check_helo", {"helo": "temperror"}),
    "iprev": ("iprev.check_iprev", {"iprev": "temperror"}),
    "dkim": ("dkim.verify_message", {"dkim": "temperror"}),
    "arc": ("arc.verify_message", {"arc": "fail"}),
    "dmarc": ("dmarc.discover", {"dmarc": "temperror"}),
    "alignment": ("dmarc.judge", {"dmarc": "temperror"}),
}


@pytest.mark.parametrize("name", CRASHES)
async def test_a_bug_in_one_check_costs_its_own_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug")

    where, changed = CRASHES[name]
    module, _, function = where.partition(".")
    monkeypatch.setattr(getattr(check, module), function, crash)
    facts: list[Fact] = []
    async with dns(ZONE) as (_, resolver):
        found = await authenticate(
            dkim_signed(MAIL), IP, "mail.example.org", "ann@example.org", resolver, record=facts.append, id="m1"
        )
    assert results(found) == {**GOOD, **changed}
    [fact] = facts
    assert (fact.event, fact.id, fact.level) == ("authenticate.trouble", "m1", "error")
    assert "a bug" in str(fact.values["traceback"])


@pytest.mark.parametrize("function", ["spf.check_mail_from", "dkim.verify_message"])
async def test_a_bug_never_turns_into_a_dmarc_fail(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that broke may have been the one that aligned."""

    async def crash(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    module, _, name = function.partition(".")
    monkeypatch.setattr(getattr(check, module), name, crash)
    async with dns(ZONE) as (_, resolver):
        found = await authenticate(MAIL, "198.51.100.9", "mail.example.org", "ann@example.org", resolver)
    assert found.dmarc.result == "temperror"


# --- deadlines and budgets ----------------------------------------------------------------------


async def test_silence_ends_at_the_deadline_and_says_so() -> None:
    async with dns({name: ["TIMEOUT"] for name in ZONE}, silent=True) as (_, resolver):
        found = await authenticate(dkim_signed(MAIL), IP, "mail.example.org", "ann@example.org", resolver, seconds=0.3)
    assert results(found) == {name: "none" if name == "arc" else "temperror" for name in GOOD}
    assert all(getattr(found, name).problem for name in ("spf", "helo", "dmarc", "iprev"))


async def test_a_check_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(check.iprev, "check_iprev", hang)
    async with dns(ZONE) as (_, resolver):
        found = await authenticate(dkim_signed(MAIL), IP, "mail.example.org", "ann@example.org", resolver, seconds=1.0)
    assert results(found) == {**GOOD, "iprev": "temperror"}
    assert found.iprev.problem == "out of time"


async def test_alignment_is_judged_after_the_slowest_check() -> None:
    """A signature whose key never comes takes all the time there is for DNS; DMARC has time of its own."""
    zone = {
        **ZONE,
        "r._domainkey.slow.example": ["TIMEOUT"],
        "r._domainkey.a.example.org": [{"TXT": record(rsa_key())}],
    }
    message = dkim_signed(dkim_signed(MAIL, {"d": "a.example.org"}), {"d": "slow.example"})
    async with dns(zone, silent=True) as (_, resolver):
        found = await authenticate(message, "198.51.100.9", "x.example", "x@x.example", resolver, seconds=1.5)
    assert results(found)["dkim"] == "temperror,pass"
    assert (found.dmarc.result, found.dmarc.aligned_by) == ("pass", ("dkim",))


def bomb(domain: str) -> dict[str, list[Any]]:
    """As much DNS as one domain can cost."""
    zone: dict[str, list[Any]] = {
        domain: [{"TXT": "v=spf1 " + " ".join(f"mx:m{n}.{domain}" for n in range(10)) + " ~all"}]
    }
    for n in range(10):
        zone[f"m{n}.{domain}"] = [{"MX": [m, f"h{m}.m{n}.{domain}"]} for m in range(10)]
        zone |= {f"h{m}.m{n}.{domain}": [{"A": "198.51.100.1"}] for m in range(10)}
    return zone


async def test_a_message_costs_fifty_questions_at_most() -> None:
    """reliability: R25."""
    zone = {
        **bomb("evil.example"),
        **bomb("helo.example"),
        "_dmarc.example.org": ZONE["_dmarc.example.org"],
        "1.2.0.192.in-addr.arpa": [{"PTR": f"p{n}.evil.example"} for n in range(200)],
    }
    message = MAIL.replace(b"ann@example.org", b"ann@a.b.c.d.e.f.g.h.i.j.example.org")
    for n in range(30):
        message = dkim_signed(message, {"d": "evil.example", "s": f"s{n}"})
    for n in range(1, 11):
        message = arc_sealed(message, n, signature={"s": f"a{n}"}, seal={"s": f"b{n}", "d": "evil.example"})
    async with dns(zone) as (server, resolver):
        found = await authenticate(message, IP, "helo.example", "x@evil.example", resolver)
        assert len(server.questions) <= found.queries <= 50
    assert found.dmarc.result == "fail"  # and not temperror: the walk had questions of its own
    assert found.arc.result == "fail"


# --- a spoofer whose own DNS is broken on purpose gains nothing ----------------------------------

BROKEN = ("evil.example", "r._domainkey.evil.example", "_dmarc.evil.example")


@pytest.mark.parametrize("silent", [False, True])
async def test_a_spoofers_broken_dns_is_no_temperror_of_dmarc(silent: bool) -> None:
    zone = {**ZONE, **{name: ["TIMEOUT"] for name in BROKEN}}
    message = MAIL
    for n in range(5):
        message = dkim_signed(message, {"d": "evil.example", "n": str(n)})
    async with dns(zone, silent=silent) as (_, resolver):
        found = await authenticate(message, "198.51.100.9", "evil.example", "x@evil.example", resolver, seconds=2.0)
    assert results(found)["spf"] == "temperror"
    assert set(results(found)["dkim"].split(",")) == {"temperror"}
    assert (found.dmarc.result, found.dmarc.disposition) == ("fail", "reject")


async def test_the_author_domains_own_trouble_is_one() -> None:
    zone = {**ZONE, "example.org": ["SERVFAIL"]}
    async with dns(zone) as (_, resolver):
        found = await authenticate(MAIL, "198.51.100.9", "mail.example.org", "ann@example.org", resolver)
    assert (found.spf.result, found.dmarc.result) == ("temperror", "temperror")


# --- the mails of authheaders -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "dmarc", "result"),
    [
        # signed by example.com (np1, np2: by example.biz), From as the file has it
        ("test.message_signed", {"example.com": "v=DMARC1; p=reject"}, "pass"),
        ("test.message_sub", {"example.net": "v=DMARC1; p=none; sp=reject"}, "fail"),
        ("test.message", {"example.com": "v=DMARC1; p=none"}, "fail"),
        ("test.gov.message", {"gov": "v=DMARC1; psd=y; p=none; np=reject"}, "fail"),
        ("test.message_multi", {"example.com": "v=DMARC1; p=reject"}, "permerror"),
        ("test.message_multi2", {"example.com": "v=DMARC1; p=reject"}, "permerror"),
        ("test.nofrom.message", {"example.com": "v=DMARC1; p=reject"}, "permerror"),
        ("testcomma.message", {"example.com": "v=DMARC1; p=reject"}, "pass"),
    ],
)
async def test_authheaders(file: str, dmarc: dict[str, str], result: str) -> None:
    key = suite("authheaders", "test.txt").read_text().strip()
    zone: dict[str, list[Any]] = {f"_dmarc.{name}": [{"TXT": text}] for name, text in dmarc.items()}
    zone |= {f"test._domainkey.example.{top}": [{"TXT": key}] for top in ("com", "biz", "net")}
    async with dns(zone) as (_, resolver):
        message = crlf(suite("authheaders", file).read_bytes())
        found = await authenticate(message, IP, "mail.example.org", "jqd@d1.example", resolver)
    assert found.dmarc.result == result, found.dmarc
    assert file != "test.gov.message" or found.dmarc.disposition == "reject"
