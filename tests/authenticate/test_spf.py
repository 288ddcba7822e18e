"""SPF beyond the public suites: each row is a zone, a question, and what RFC 7208 or RFC 8616 says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.authenticate.spf import check_helo, check_host, check_mail_from
from relay.authenticate.spf_record import parse_record
from relay.errors import MalformedSpf
from relay.resolver import Resolver
from relay.verdict import SpfVerdict
from tests.support.clock import JumpingClock
from tests.support.dns import DnsServer, Zone, dns_server

IP, IP6 = "192.0.2.1", "2001:db8::1"
SENDER = "ann@example.org"
DEAD = {f"dead{number}.example.org": [{"TXT": "x"}] for number in range(20)}  # names without addresses


@asynccontextmanager
async def asking(zone: Zone, *, silent: bool = False) -> AsyncIterator[tuple[Resolver, DnsServer]]:
    async with dns_server(zone, silent=silent) as server:
        resolver = Resolver([server.nameserver])
        try:
            yield resolver, server
        finally:
            await resolver.close()


async def spf(
    record: str | list[Any],
    *,
    ip: str = IP,
    sender: str = SENDER,
    helo: str = "mail.example.net",
    zone: Mapping[str, list[Any]] | None = None,
) -> SpfVerdict:
    """The verdict for `sender` when example.org publishes `record`."""
    records = [{"TXT": record}] if isinstance(record, str) else record
    async with asking({"example.org": records, **(zone or {})}) as (resolver, _):
        return await check_mail_from(ip, sender, helo, resolver, clock=JumpingClock(1_790_000_000))


def seen(verdict: SpfVerdict) -> list[tuple[str, str]]:
    return [(step.what, step.found) for step in verdict.trace]


# Which record is it? RFC 7208 §4.5


@pytest.mark.parametrize(
    ("texts", "result"),
    [
        ([], "none"),
        (["v=spf1"], "neutral"),  # §4.7
        (["v=spf1 -all"], "fail"),
        (["V=SPF1 -ALL"], "fail"),
        (["v=spf1  ~all  "], "softfail"),  # §4.6.1: 1*SP before a term, *SP after the last
        (["v=spf10 -all"], "none"),
        (["v=spf1-all"], "none"),
        ([" v=spf1 -all"], "none"),
        (["v=spf1\t-all"], "none"),  # the version ends in a space or nothing
        (["spf2.0/pra,mfrom -all"], "none"),  # Sender ID: RFC 6686
        (["spf2.0/pra -all", "v=spf1 -all"], "fail"),
        (["v=spf1 -all", "V=spf1"], "permerror"),  # §4.5: more than one
        (["v=spf1 -all", b"\xff\xfe"], "fail"),  # what is no record is not read
        ([b"v=spf1 \xffa -all"], "permerror"),  # §3.1: ASCII
        (["v=spf1 \x00 -all"], "permerror"),
        (["v=spf1 a\r\n -all"], "permerror"),
        ([["v=spf1 ip4:192.0.2", ".1 -all"]], "pass"),  # §3.3: strings join without a space
    ],
)
async def test_which_text_is_the_record(texts: list[Any], result: str) -> None:
    assert (await spf([{"TXT": text} for text in texts] or [{"A": IP}])).result == result


async def test_sender_id_is_named_in_the_trace() -> None:
    verdict = await spf([{"TXT": "spf2.0/pra -all"}, {"TXT": "v=spf1 -all"}])
    assert ("spf2.0/pra -all", "ignored: Sender ID is obsolete (RFC 6686)") in seen(verdict)


# One wrong term anywhere is a permerror: RFC 7208 §4.6, §12


@pytest.mark.parametrize(
    "term",
    [
        "foo", "all:x.example.org", "all/8", "-", "+-all", "a:", "a:example", "a:example.123", "a:example.org:25",
        "a/33", "a//129", "a/032", "a/", "a//", "a/8//", "a/8/64", "a:%{d}/33", "mx/1234567890123456789", "ptr/24",
        "ip4", "ip4:", "ip4:192.0.2", "ip4:192.0.2.256", "ip4:192.0.2.01", "ip4:192.0.2.1/33", "ip4:192.0.2.0/",
        "ip4:2001:db8::1", "ip6:192.0.2.1", "ip6:::1/129", "ip6:1::2::3", "ip6:fe80::1%eth0", "ip6:g::1",
        "include", "include:", "include:example.org/24", "exists", "exists:", "exists:%{i}.x.example.org/24",
        "redirect=", "redirect=example", "redirect:example.org", "exp=", "exp=%{c}.example.org", "-exp=x.example.org",
        "redirect=a.example.org redirect=a.example.org", "exp=a.example.org exp=a.example.org",
        "a:%{", "a:%{d", "a:%d.example.org", "a:%{x}.example.org", "a:%{d0}.example.org", "a:%{dr0}.example.org",
        "a:%{d!}.example.org", "a:%(d).example.org", "a:%{c}.example.org", "a:%{r}.example.org", "a:%{t}.example.org",
        "a:%", "a:x.example.org%", "x=%", "x=%{z}", "=x", "1x=y", "a:exa\x7fmple.org", "a\x01:example.org",
        "include:-.example.-", "a:example.org..", "a:.", "a:%%%.example.org", "a:%{d}.", "a:%{d}x",
    ],
)  # fmt: skip
def test_a_wrong_term_spoils_the_record(term: str) -> None:
    with pytest.raises(MalformedSpf):
        parse_record(f"v=spf1 ip4:{IP} {term} -all".encode())


async def test_a_wrong_term_is_found_behind_one_that_matches() -> None:
    verdict = await spf(f"v=spf1 ip4:{IP} foo -all")
    assert (verdict.result, verdict.problem) == ("permerror", "example.org: 'foo' is no term of SPF")


@pytest.mark.parametrize(
    "term",
    [
        "ALL", "?all", "A", "mX/24//64", "a//0", "a/0", "ip6:::/0", "ip4:0.0.0.0/0", "ip4:192.0.2.77/24",
        "ip6:::ffff:192.0.2.1/120", "ptr", "a:%{d}", "a:%{d1r-}", "a:x.example.org.", "a:x-y.1-2",
        "a:%%.example.org", "a:x%_y.example.org", "a:x.%-", "a:x%%", "x=", "x=%{c}%{r}%{t}", "moo.cow-far_out=x:y/z",
        "a:%{d200}.example.org", "a:%{d99999999999999999999}.example.org", "a:%{LR+-.,/_=}.example.org",
        "exists:foo:bar/baz.example.org", "a=b",
    ],
)  # fmt: skip
def test_a_right_term_is_taken(term: str) -> None:
    record = parse_record(f"v=spf1 ip4:{IP} {term} -all".encode())
    mechanisms = [mechanism.text for mechanism in record.mechanisms]
    assert mechanisms == [f"ip4:{IP}", *([] if "=" in term.partition(":")[0] else [term]), "-all"]


# What matches: RFC 7208 §5


@pytest.mark.parametrize(
    ("record", "ip", "result", "mechanism"),
    [
        ("v=spf1 ip4:192.0.2.0/24 -all", "192.0.2.255", "pass", "ip4:192.0.2.0/24"),
        ("v=spf1 ip4:192.0.2.0/24 -all", "::ffff:192.0.2.255", "pass", "ip4:192.0.2.0/24"),  # §5: mapped is IPv4
        ("v=spf1 ip6:::ffff:192.0.2.0/120 -all", "192.0.2.255", "fail", "-all"),
        ("v=spf1 ip4:0.0.0.0/0 -all", IP6, "fail", "-all"),
        ("v=spf1 ip6:2001:db8::/32 -all", IP6, "pass", "ip6:2001:db8::/32"),
        ("v=spf1 a:h.example.org -all", "192.0.2.8", "pass", "a:h.example.org"),
        ("v=spf1 a:h.example.org -all", "2001:db8::8", "pass", "a:h.example.org"),
        ("v=spf1 a:h.example.org/24 -all", "192.0.2.200", "pass", "a:h.example.org/24"),
        ("v=spf1 a:h.example.org/24 -all", "2001:db8::9", "fail", "-all"),
        ("v=spf1 a:h.example.org//64 -all", "2001:db8::9", "pass", "a:h.example.org//64"),
        ("v=spf1 a:alias.example.org ?all", "192.0.2.8", "pass", "a:alias.example.org"),
        ("v=spf1 mx:m.example.org -all", "192.0.2.8", "pass", "mx:m.example.org"),
        ("v=spf1 mx:h.example.org -all", "192.0.2.8", "fail", "-all"),  # §5.4: no implicit MX
        ("v=spf1 mx:null.example.org -all", "192.0.2.8", "fail", "-all"),  # RFC 7505
        ("v=spf1 exists:h.example.org -all", IP6, "pass", "exists:h.example.org"),  # §5.7: always A
        ("v=spf1 exists:six.example.org -all", IP6, "fail", "-all"),
        ("v=spf1 ptr -all", "192.0.2.8", "pass", "ptr"),
        ("v=spf1 ptr:Example.ORG -all", "192.0.2.8", "pass", "ptr:Example.ORG"),
        ("v=spf1 ptr:ample.org -all", "192.0.2.8", "fail", "-all"),  # below, not merely ending alike
        ("v=spf1 ptr -all", "192.0.2.9", "fail", "-all"),  # its name does not point back
        ("v=spf1 ptr -all", "192.0.2.10", "fail", "-all"),  # §5.5: DNS trouble is no match
        ("v=spf1 include:yes.example.org -all", IP, "pass", "include:yes.example.org"),
        ("v=spf1 ~include:yes.example.org -all", IP, "softfail", "~include:yes.example.org"),
        ("v=spf1 include:no.example.org ?all", IP, "neutral", "?all"),
        ("v=spf1 include:h.example.org -all", IP, "permerror", ""),  # §5.2: none is a permerror
        ("v=spf1 include:a..example.org -all", IP, "permerror", ""),
        ("v=spf1 include:broken.example.org -all", IP, "temperror", ""),
        ("v=spf1 redirect=yes.example.org", IP, "pass", f"ip4:{IP}"),
        ("v=spf1 redirect=yes.example.org ?all", IP, "neutral", "?all"),  # §6.1: all goes first
        ("v=spf1 redirect=h.example.org", IP, "permerror", ""),
        ("v=spf1 redirect=missing.example.net", IP, "permerror", ""),
        ("v=spf1 a:broken.example.org -all", IP, "temperror", ""),  # §5: trouble ends it
        ("v=spf1 mx:broken.example.org -all", IP, "temperror", ""),
        ("v=spf1 mx:half.example.org -all", IP, "temperror", ""),
        ("v=spf1 exists:broken.example.org -all", IP, "temperror", ""),
        ("v=spf1 a:missing.example.net -all", IP, "fail", "-all"),
        (f"v=spf1 a:{'x' * 64}.example.org -all", IP, "fail", "-all"),  # §4.8: no such name
    ],
)
async def test_what_matches(record: str, ip: str, result: str, mechanism: str) -> None:
    verdict = await spf(
        record,
        ip=ip,
        zone={
            "h.example.org": [{"A": "192.0.2.8"}, {"AAAA": "2001:db8::8"}],
            "six.example.org": [{"AAAA": "2001:db8::8"}],
            "alias.example.org": [{"CNAME": "h.example.org"}],
            "m.example.org": [{"MX": [10, "h.example.org"]}, {"MX": [20, "missing.example.net"]}],
            "null.example.org": [{"MX": [0, ""]}],
            "half.example.org": [{"MX": [10, "broken.example.org"]}],
            "yes.example.org": [{"TXT": f"v=spf1 ip4:{IP} -all"}],
            "no.example.org": [{"TXT": "v=spf1 -all"}],
            "broken.example.org": ["SERVFAIL"],
            "8.2.0.192.in-addr.arpa": [{"PTR": "H.Example.ORG"}],
            "9.2.0.192.in-addr.arpa": [{"PTR": "h.example.org"}],
            "10.2.0.192.in-addr.arpa": ["SERVFAIL"],
        },
    )
    assert (verdict.result, verdict.mechanism) == (result, mechanism)


# Limits: RFC 7208 §4.6.4


@pytest.mark.parametrize(
    ("terms", "result", "lookups"),
    [
        ("a " * 10 + "-all", "fail", 10),
        ("a " * 11 + "-all", "permerror", 10),
        ("a mx ptr exists:void.example.org include:none.example.org " * 2 + "-all", "fail", 10),
        ("a " * 9 + "redirect=none.example.org", "fail", 10),
        ("a " * 10 + "redirect=none.example.org", "permerror", 10),
        ("a " * 8 + "include:two.example.org -all", "permerror", 10),  # counted through includes
        ("a " * 7 + "include:two.example.org -all", "fail", 10),
        ("ip4:198.51.100.1 ip6:::1 " * 50 + "exp=h.example.org -all", "fail", 0),  # none of these asks
        ("include:example.org -all", "permerror", 10),
        ("include:loop.example.org -all", "permerror", 10),
        ("redirect=example.org", "permerror", 10),
        ("redirect=%{d}", "permerror", 10),
    ],
)
async def test_ten_terms_may_ask(terms: str, result: str, lookups: int) -> None:
    hosts = [{"A": "198.51.100.7"}, {"MX": [1, "h.example.org"]}]
    verdict = await spf(
        [{"TXT": f"v=spf1 {terms}"}, *hosts],
        zone={
            "h.example.org": [{"A": "198.51.100.7"}],
            "none.example.org": [{"TXT": "v=spf1 -all"}],
            "two.example.org": [{"TXT": "v=spf1 a a -all"}, *hosts],
            "loop.example.org": [{"TXT": "v=spf1 include:example.org -all"}],
            "1.2.0.192.in-addr.arpa": [{"PTR": "elsewhere.example.net"}],
            "elsewhere.example.net": [{"A": IP}],
        },
    )
    assert (verdict.result, verdict.lookups) == (result, lookups)


@pytest.mark.parametrize(("terms", "warned"), [(7, False), (8, True), (10, True), (11, True)])
async def test_a_record_near_the_limit_is_warned_of(terms: int, warned: bool) -> None:
    verdict = await spf([{"TXT": "v=spf1 " + "a " * terms + "-all"}, {"A": "198.51.100.7"}])
    assert any(what == "warning" and "of 10" in found for what, found in seen(verdict)) is warned


@pytest.mark.parametrize(
    ("terms", "result", "void"),
    [
        ("a:dead1.example.org exists:dead2.example.org", "neutral", 2),
        ("a:dead1.example.org a:nx.example.net mx:dead2.example.org", "permerror", 3),
        ("a:dead1.example.org include:in.example.org", "permerror", 3),  # counted through includes
        ("mx:ten.example.org", "neutral", 1),  # a term counts once, however many of its hosts have no address
        ("ptr mx:dead1.example.org", "neutral", 2),
        ("ip4:198.51.100.1 a:dead1.example.org a:dead1.example.org", "neutral", 2),
    ],
)
async def test_two_terms_may_come_back_void(terms: str, result: str, void: int) -> None:
    verdict = await spf(
        f"v=spf1 {terms}",
        zone={
            **DEAD,
            "in.example.org": [{"TXT": "v=spf1 a:dead3.example.org a:dead4.example.org"}],
            "ten.example.org": [{"MX": [1, f"dead{number}.example.org"]} for number in range(10)],
        },
    )
    assert (verdict.result, verdict.void_lookups) == (result, void)


@pytest.mark.parametrize(
    ("ip", "result"), [("192.0.2.10", "pass"), ("192.0.2.11", "permerror"), ("192.0.2.99", "permerror")]
)
async def test_ten_hosts_of_an_mx_are_asked(ip: str, result: str) -> None:
    exchanges = [{"MX": [number, f"m{number}.example.org"]} for number in range(1, 201)]
    hosts = {f"m{number}.example.org": [{"A": f"192.0.2.{number}"}] for number in range(1, 200)}
    async with asking({"example.org": [{"TXT": "v=spf1 mx -all"}, *exchanges], **hosts}) as (resolver, server):
        verdict = await check_mail_from(ip, SENDER, "x.example.net", resolver)
        assert verdict.result == result
        assert server.count("A") == 10


async def test_ten_names_of_a_client_are_asked() -> None:
    names = [{"PTR": f"n{number:03}.example.org"} for number in range(200)]
    zone = {"example.org": [{"TXT": "v=spf1 ptr ptr -all exp=e.example.org"}], "e.example.org": [{"TXT": "%{p}"}]}
    async with asking({**zone, "1.2.0.192.in-addr.arpa": names}) as (resolver, server):
        verdict = await check_mail_from(IP, SENDER, "x.example.net", resolver)
        assert (verdict.result, verdict.explanation) == ("fail", "unknown")
        assert (server.count("PTR"), server.count("A")) == (1, 10)


# Macros: RFC 7208 §7.4 has the first block of these rows.


@pytest.mark.parametrize(
    ("macro", "expansion"),
    [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        # §7.1, §7.3
        ("%{D2}%%%_%-", "example.com% %20"),
        ("%{h}", "mx.example.net"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%{S-@}", None),
        ("%{d.-}", "email.example.com"),
        ("%{h1r.}", "mx"),
        ("%{c}", "192.0.2.3"),
        ("%{r}", "unknown"),
        ("%{t}", "1790000000"),
        ("%{p}", "unknown"),
        ("http://example.org/?s=%{S}&i=%{I}", "http://example.org/?s=strong-bad%40email.example.com&i=192.0.2.3"),
    ],
)
async def test_macros(macro: str, expansion: str | None) -> None:
    async with asking(
        {"email.example.com": [{"TXT": "v=spf1 -all exp=e.example.com"}], "e.example.com": [{"TXT": macro}]}
    ) as (resolver, _):
        verdict = await check_mail_from(
            "192.0.2.3", "strong-bad@email.example.com", "mx.example.net", resolver, clock=JumpingClock(1_790_000_000)
        )
        assert verdict.explanation == (expansion or "")


async def test_the_macro_of_an_ipv6_client() -> None:
    """RFC 7208 §7.4, the last example."""
    name = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
    async with asking(
        {"email.example.com": [{"TXT": "v=spf1 exists:%{ir}.%{v}._spf.%{d2} -all"}], name: [{"A": "127.0.0.2"}]}
    ) as (resolver, _):
        verdict = await check_mail_from("2001:db8::cb01", "strong-bad@email.example.com", "", resolver)
        assert verdict.result == "pass"


async def test_a_long_name_is_cut_on_the_left() -> None:
    """RFC 7208 §7.3: whole labels go until 253 octets are left."""
    label = "x" * 60
    async with asking({f"{label}.example.org": [{"TXT": "v=spf1 exists:%{d}.%{d}.%{d}.%{d} -all"}]}) as (
        resolver,
        server,
    ):
        verdict = await check_mail_from(IP, f"ann@{label}.example.org", "", resolver)
        assert verdict.result == "fail"
        asked = server.questions[-1].name
        assert asked == "example.org." + ".".join([f"{label}.example.org"] * 3)
        assert len(asked) <= 253


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.example.net", "example.org", "b.example.org"], "example.org"),  # §7.3: the domain itself
        (["a.example.net", "b.example.org"], "b.example.org"),  # else below it
        (["a.example.net"], "a.example.net"),  # else any
        (["liar.example.org"], "unknown"),
        ([], "unknown"),
    ],
)
async def test_the_confirmed_name(names: list[str], expected: str) -> None:
    verdict = await spf(
        [{"TXT": "v=spf1 -all exp=e.example.org"}, {"A": IP}],
        zone={
            "e.example.org": [{"TXT": "%{p}"}],
            "a.example.net": [{"A": IP}],
            "b.example.org": [{"A": IP}],
            "1.2.0.192.in-addr.arpa": [{"PTR": name} for name in names],
        },
    )
    assert verdict.explanation == expected


# exp=: RFC 7208 §6.2


@pytest.mark.parametrize(
    ("texts", "explanation"),
    [
        ([{"TXT": "see %{d}"}], "see example.org"),
        ([{"TXT": ["see", " %{d}"]}], "see example.org"),
        ([{"TXT": "one"}, {"TXT": "two"}], ""),
        ([{"A": IP}], ""),
        (["SERVFAIL"], ""),
        ([{"TXT": "%{x}"}], ""),
        ([{"TXT": "%"}], ""),
        ([{"TXT": "caf\xe9".encode()}], ""),
        ([{"TXT": "550 no\r\n250 yes"}], ""),  # no control gets into a reply
        ([{"TXT": "%{h}"}], ""),
        ([{"TXT": "x" * 10_240}], "x" * 1000),
    ],
)
async def test_explanations(texts: list[Any], explanation: str) -> None:
    verdict = await spf("v=spf1 -all exp=e.example.org", helo="a\r\n250 b", zone={"e.example.org": texts})
    assert (verdict.result, verdict.explanation) == ("fail", explanation)
    assert verdict.lookups == 0


@pytest.mark.parametrize("qualifier", ["+", "~", "?"])
async def test_only_a_fail_is_explained(qualifier: str) -> None:
    async with asking(
        {"example.org": [{"TXT": f"v=spf1 {qualifier}all exp=e.example.org"}], "e.example.org": [{"TXT": "x"}]}
    ) as (resolver, server):
        assert (await check_mail_from(IP, SENDER, "", resolver)).explanation == ""
        assert [asked.name for asked in server.questions] == ["example.org"]


async def test_a_redirect_brings_its_own_explanation_and_an_include_none() -> None:
    zone = {
        "to.example.org": [{"TXT": "v=spf1 -all exp=e.%{d}"}],
        "e.to.example.org": [{"TXT": "theirs"}],
        "e.example.org": [{"TXT": "ours"}],
    }
    redirected = await spf("v=spf1 redirect=to.example.org exp=e.example.org", zone=zone)
    assert redirected.explanation == "theirs"
    assert (await spf("v=spf1 include:to.example.org -all exp=e.example.org", zone=zone)).explanation == "ours"


# Who is asked about: RFC 7208 §2.3, §2.4, §4.3


async def test_the_two_identities() -> None:
    zone: Zone = {
        "example.org": [{"TXT": "v=spf1 -all"}],
        "mail.example.net": [{"TXT": "v=spf1 exists:%{l}.%{o}.x.example -all"}],
        "postmaster.mail.example.net.x.example": [{"A": "127.0.0.2"}],
    }
    async with asking(zone) as (resolver, _):
        of_mail = await check_mail_from(IP, SENDER, "mail.example.net", resolver)
        assert (of_mail.result, of_mail.domain, of_mail.identity) == ("fail", "example.org", "mailfrom")
        of_helo = await check_helo(IP, "Mail.example.net", resolver)
        assert (of_helo.result, of_helo.domain, of_helo.identity) == ("pass", "mail.example.net", "helo")
        of_bounce = await check_mail_from(IP, "", "mail.example.net", resolver)  # <>: §2.4
        assert (of_bounce.result, of_bounce.domain, of_bounce.identity) == ("pass", "mail.example.net", "mailfrom")


@pytest.mark.parametrize("sender", ["example.org", "@example.org"])
async def test_a_sender_without_a_local_part_is_postmaster(sender: str) -> None:
    verdict = await spf("v=spf1 exists:%{l}.x.example", sender=sender, zone={"postmaster.x.example": [{"A": IP}]})
    assert verdict.result == "pass"


async def test_the_domain_is_an_argument_of_its_own() -> None:
    """§4.1: `domain` is what is checked, `sender` is what the macros say."""
    zone: Zone = {
        "a.example.org": [{"TXT": "v=spf1 exists:%{o}.%{d}.x.example"}],
        "example.net.a.example.org.x.example": [{"A": IP}],
    }
    async with asking(zone) as (resolver, _):
        verdict = await check_host(IP, "A.Example.org.", "ann@example.net", "h.example.net", resolver)
        assert (verdict.result, verdict.domain) == ("pass", "a.example.org")


@pytest.mark.parametrize(
    "domain",
    [
        "", "localhost", "org", "[192.0.2.1]", "192.0.2.1", "[IPv6:2001:db8::1]", "a..example.org", ".example.org",
        "x" * 64 + ".example.org", ".".join(["x" * 49] * 6), "exa mple.org", "a\x00b.example.org", "x" * 300,
        "a\r\nb.example.org", "(comment).example.org", "exämple\u202e.org", "*.example.org", "a/b.example.org",
    ],
)  # fmt: skip
async def test_what_can_be_no_domain_is_none_and_asks_nothing(domain: str) -> None:
    async with asking({}) as (resolver, server):
        for verdict in (
            await check_host(IP, domain, f"ann@{domain}", domain, resolver),
            await check_mail_from(IP, f"ann@{domain}", domain, resolver),
            await check_helo(IP, domain, resolver),
        ):
            assert verdict.result == "none"
        assert server.questions == []


@pytest.mark.parametrize(
    "helo", ["[192.0.2.1]", "localhost", "a\x00b", "x" * 300, "a..b", "", "\u202e.example", "1.2.3"]
)
async def test_a_helo_that_is_no_name_is_not_put_into_a_question(helo: str) -> None:
    async with asking({"example.org": [{"TXT": "v=spf1 a:%{h} exists:%{h} mx:%{h} -all"}]}) as (resolver, server):
        verdict = await check_mail_from(IP, SENDER, helo, resolver)
        assert verdict.result == "fail"
        assert [asked.name for asked in server.questions] == ["example.org"]


async def test_an_address_that_is_none_is_the_callers_mistake() -> None:
    async with asking({}) as (resolver, _):
        with pytest.raises(ValueError, match="IPv4 or IPv6"):
            await check_host("192.0.2", "example.org", SENDER, "", resolver)


# Internationalised mail: RFC 8616 §4


async def test_u_labels_are_looked_up_as_a_labels() -> None:
    zone: Zone = {
        "xn--bcher-kva.example": [{"TXT": "v=spf1 exists:%{o}.%{d}.%{h}.x.example -all exp=e.x.example"}],
        "xn--bcher-kva.example.xn--bcher-kva.example.xn--hst-sna.example.x.example": [{"A": IP}],
    }
    async with asking(zone) as (resolver, _):
        verdict = await check_mail_from(IP, "ann@Bücher.example", "höst.example", resolver)
        assert (verdict.result, verdict.domain) == ("pass", "xn--bcher-kva.example")


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 exists:%{l}.x.example ?all", "neutral"),
        ("v=spf1 a:%{s}.x.example mx:%{L}.x.example ptr:%{l1}.example ?all", "neutral"),
        ("v=spf1 include:%{lr}.x.example ?all", "neutral"),
        ("v=spf1 redirect=%{l}.x.example", "neutral"),
        ("v=spf1 exists:%{o}.x.example ?all", "pass"),  # the domain alone does no harm
    ],
)
async def test_a_local_part_that_is_not_ascii_matches_no_term_that_names_it(record: str, result: str) -> None:
    zone: Zone = {"example.org": [{"TXT": record}], "example.org.x.example": [{"A": IP}]}
    async with asking(zone) as (resolver, server):
        assert (await check_mail_from(IP, "ännchen@example.org", "", resolver)).result == result
        assert all(asked.name.isascii() for asked in server.questions)
        assert len(server.questions) == (2 if result == "pass" else 1)


async def test_an_explanation_does_not_name_a_local_part_that_is_not_ascii() -> None:
    verdict = await spf(
        "v=spf1 -all exp=e.example.org", sender="ännchen@example.org", zone={"e.example.org": [{"TXT": "%{l}"}]}
    )
    assert (verdict.result, verdict.explanation) == ("fail", "")


# Bombs: reliability R25


async def test_a_thousand_hosts_cost_no_more_than_the_budget_of_a_message() -> None:
    """Ten mx terms of ten hosts each are within SPF's own limits, and beyond a message's."""
    zone: dict[str, list[Any]] = {
        "example.org": [{"TXT": "v=spf1 " + "".join(f"mx:m{n}.example.org " for n in range(10))}]
    }
    for term in range(10):
        zone[f"m{term}.example.org"] = [{"MX": [host, f"h{term}-{host}.example.org"]} for host in range(10)]
        zone |= {f"h{term}-{host}.example.org": [{"A": "198.51.100.1"}] for host in range(10)}
    async with asking(zone) as (resolver, server):
        budget = resolver.budget(queries=50)
        verdict = await check_mail_from(IP, SENDER, "", budget)
        assert verdict.result == "temperror"
        assert "budget" in verdict.problem
        assert len(server.questions) == 50


async def test_a_local_part_of_the_attackers_choice_asks_a_bounded_number_of_questions() -> None:
    terms = "".join(f"exists:%{{l}}.{number}.victim.example " for number in range(10))
    zone: Zone = {"example.org": [{"TXT": f"v=spf1 {terms}-all"}]}
    async with asking(zone) as (resolver, server):
        verdict = await check_mail_from(IP, "d41d8cd98f@example.org", "", resolver)
        assert verdict.result == "permerror"  # the third void one
        assert len(server.questions) == 4


@pytest.mark.parametrize(
    ("records", "result"),
    [
        ([{"TXT": "x" * 60_000}], "temperror"),
        ([{"TXT": "v=spf1 " + "ip4:198.51.100.1 " * 1500 + "-all"}], "fail"),
        ([{"TXT": f"noise {number}"} for number in range(900)] + [{"TXT": "v=spf1 -all"}], "fail"),
        ([{"CNAME": "example.org"}], "temperror"),
        (["SERVFAIL"], "temperror"),
    ],
)
async def test_odd_answers(records: list[Any], result: str) -> None:
    verdict = await spf(records)
    assert verdict.result == result
    assert len(verdict.trace) <= 302


async def test_silence_is_a_temperror() -> None:
    async with dns_server({"example.org": ["TIMEOUT"]}, silent=True) as server:
        resolver = Resolver([server.nameserver], 0.2)
        verdict = await check_mail_from(IP, SENDER, "", resolver)
        await resolver.close()
        assert verdict.result == "temperror"


# The trace


async def test_the_trace_tells_each_term_and_each_question() -> None:
    verdict = await spf(
        "v=spf1 mx include:in.example.org -all x=y",
        zone={"in.example.org": [{"TXT": "v=spf1 a ~all"}, {"A": "198.51.100.1"}]},
    )
    assert [(step.depth, step.what, step.found) for step in verdict.trace] == [
        (0, "TXT example.org", "v=spf1 mx include:in.example.org -all x=y"),
        (0, "record", "v=spf1 mx include:in.example.org -all x=y"),
        (0, "modifiers", "ignored: x"),
        (0, "mx", "no match: no hosts"),
        (1, "MX example.org", "no data"),
        (0, "include:in.example.org", "no match: in.example.org says softfail"),
        (1, "TXT in.example.org", "v=spf1 a ~all"),
        (1, "record", "v=spf1 a ~all"),
        (1, "a", "no match: no address of in.example.org is the client's"),
        (2, "A in.example.org", "198.51.100.1"),
        (1, "~all", "softfail: everyone"),
        (0, "-all", "fail: everyone"),
    ]
    asked = [step for step in verdict.trace if step.what.split()[0] in ("TXT", "MX", "A")]
    assert len(asked) == 4


async def test_the_trace_says_where_it_ended() -> None:
    verdict = await spf("v=spf1 include:in.example.org -all", zone={"in.example.org": ["SERVFAIL"]})
    assert verdict.result == "temperror"
    step = next(step for step in verdict.trace if step.what == "include:in.example.org")
    assert step.found.startswith("temperror: TXT in.example.org: ")
