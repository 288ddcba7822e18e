"""Reverse DNS: RFC 8601 §3, each result by a zone."""

from __future__ import annotations

import pytest

from relay.authenticate.iprev import check_iprev
from relay.resolver import Resolver
from tests.support.dns import Zone, dns_server

HOST = [{"A": "192.0.2.1"}, {"A": "192.0.2.9"}, {"AAAA": "2001:db8::1"}]


def reverse(*names: str) -> Zone:
    return {"1.2.0.192.in-addr.arpa": [{"PTR": name} for name in names]}


@pytest.mark.parametrize(
    ("zone", "helo", "result", "name", "agrees"),
    [
        (reverse("mail.example.org"), "mail.example.org", "pass", "mail.example.org", True),
        (reverse("Mail.Example.ORG"), "MAIL.example.org.", "pass", "mail.example.org", True),
        (reverse("mail.example.org"), "other.example.org", "pass", "mail.example.org", False),
        (reverse("mail.example.org"), "[192.0.2.1]", "pass", "mail.example.org", False),
        (reverse("xn--hst-sna.example"), "höst.example", "pass", "xn--hst-sna.example", True),
        (reverse("a.example.org", "mail.example.org", "z.example.org"), "z.example.org", "pass", "z.example.org", True),
        (reverse("liar.example.org", "mail.example.org"), "liar.example.org", "pass", "mail.example.org", False),
        (reverse("liar.example.org"), "liar.example.org", "fail", "liar.example.org", False),
        (reverse("missing.example.net"), "", "fail", "missing.example.net", False),
        (reverse("broken.example.org", "liar.example.org"), "", "temperror", "broken.example.org", False),
        (reverse("broken.example.org", "mail.example.org"), "", "pass", "mail.example.org", False),
        (reverse(), "mail.example.org", "permerror", "", False),
        ({}, "mail.example.org", "permerror", "", False),
        ({"1.2.0.192.in-addr.arpa": ["SERVFAIL"]}, "mail.example.org", "temperror", "", False),
        (reverse("loc al.example.org"), "", "fail", "", False),  # no host has such a name
    ],
)
async def test_iprev(zone: Zone, helo: str, result: str, name: str, agrees: bool) -> None:
    forward: Zone = {
        "mail.example.org": HOST,
        "a.example.org": HOST,
        "z.example.org": HOST,
        "xn--hst-sna.example": HOST,
        "liar.example.org": [{"A": "198.51.100.1"}],
        "broken.example.org": ["SERVFAIL"],
    }
    async with dns_server({**forward, **zone}) as server:
        resolver = Resolver([server.nameserver])
        verdict = await check_iprev("192.0.2.1", helo, resolver)
        await resolver.close()
    assert (verdict.result, verdict.name, verdict.helo_agrees) == (result, name, agrees)
    assert bool(verdict.problem) == (result != "pass")


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("2001:db8::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"),
        ("::ffff:192.0.2.1", "1.2.0.192.in-addr.arpa"),
    ],
)
async def test_both_families(ip: str, name: str) -> None:
    async with dns_server({name: [{"PTR": "mail.example.org"}], "mail.example.org": HOST}) as server:
        resolver = Resolver([server.nameserver])
        assert (await check_iprev(ip, "", resolver)).result == "pass"
        await resolver.close()
        assert server.questions[0].name == name


async def test_ten_names_are_looked_up() -> None:
    async with dns_server(reverse(*(f"n{number}.example.org" for number in range(200)))) as server:
        resolver = Resolver([server.nameserver])
        assert (await check_iprev("192.0.2.1", "", resolver)).result == "fail"
        await resolver.close()
        assert (server.count("PTR"), server.count("A")) == (1, 10)


async def test_an_address_that_is_none_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        await check_iprev("nonsense", "", Resolver(["127.0.0.1:9"]))
