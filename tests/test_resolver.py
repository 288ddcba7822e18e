"""DNS through the real Resolver: what the servers can say, what is kept, what is shared, what is never sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from relay.errors import RelayError
from relay.resolver import DnsTrouble, NoData, NoSuchName, Resolver, ResolverError, Tlsa, askable
from relay.resolver_cache import Answer, Cache, Question
from relay.resolver_query import MAX_TEXT, parse_nameserver
from tests.support.clock import JumpingClock
from tests.support.dns import DnsServer, Zone, dns_server
from tests.support.peers import free_port

ODD = "a b%:@+=.example.org"  # c-ares sends none of these
ZONE: Zone = {
    "example.org": [
        {"TXT": "v=spf1 -all"},
        {"TXT": ["one ", b"\x00\xff", "two"]},
        {"A": "192.0.2.1"},
        {"A": "192.0.2.2"},
        {"AAAA": "2001:db8::1"},
        {"MX": [20, "b.example.org"]},
        {"MX": [10, "a.example.org"]},
    ],
    "alias.example.org": [{"CNAME": "Example.ORG"}],
    "dangling.example.org": [{"CNAME": "text.example.org"}],
    "nowhere.example.org": [{"CNAME": "nothing.example.net"}],
    "loop.example.org": [{"CNAME": "loop.example.org"}],
    "text.example.org": [{"TXT": "x"}],
    "below.empty.example.org": [{"A": "192.0.2.3"}],
    "null.example.org": [{"MX": [0, ""]}],
    "brief.example.org": [{"A": "192.0.2.4", "TTL": 0}],
    "broken.example.org": ["SERVFAIL"],
    "refused.example.org": ["REFUSED"],
    "long.example.org": [{"TXT": "x" * 4000}],
    "too-long.example.org": [{"TXT": "x" * 30000}, {"TXT": "y" * 30000}],
    "many.example.org": [{"TXT": f"record {number}"} for number in range(500)],
    ODD: [{"TXT": "odd"}, {"A": "127.0.0.2", "TTL": 30}, {"MX": [5, "a.example.org"]}, {"AAAA": "2001:db8::2"}],
    "odd alias.example.org": [{"CNAME": "text.example.org"}],
    "odd broken.example.org": ["SERVFAIL"],
    "odd long.example.org": [{"TXT": "z" * 4000}],
    "1.2.0.192.in-addr.arpa": [{"PTR": "a.example.org"}, {"PTR": "B.example.org"}, {"PTR": "o d d.example.org"}],
    "_25._tcp.a.example.org": [{"TLSA": "3 1 1 " + "ab" * 32}],
}


@asynccontextmanager
async def resolver_of(
    server: DnsServer, *, timeout: float = 5.0, clock: JumpingClock | None = None, max_entries: int = 100
) -> AsyncIterator[Resolver]:
    resolver = Resolver([server.nameserver], timeout, clock=clock, max_entries=max_entries)
    try:
        yield resolver
    finally:
        await resolver.close()


Ask = Callable[[Resolver], Awaitable[object]]


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda r: r.txt("example.org"), {b"v=spf1 -all", b"one \x00\xfftwo"}),  # strings joined, RFC 7208 §3.3
        (lambda r: r.a("example.org"), {ip_address("192.0.2.1"), ip_address("192.0.2.2")}),
        (lambda r: r.aaaa("EXAMPLE.org."), {ip_address("2001:db8::1")}),
        (lambda r: r.a("alias.example.org"), {ip_address("192.0.2.1"), ip_address("192.0.2.2")}),
        (lambda r: r.mx("null.example.org"), {(0, "")}),  # RFC 7505 §3
        (lambda r: r.ptr(ip_address("192.0.2.1")), {"a.example.org", "B.example.org"}),  # no host has the third
        (lambda r: r.txt("many.example.org"), {b"record %d" % number for number in range(500)}),
        (lambda r: r.txt(ODD), {b"odd"}),
        (lambda r: r.a(ODD), {ip_address("127.0.0.2")}),
        (lambda r: r.aaaa(ODD), {ip_address("2001:db8::2")}),
        (lambda r: r.mx(ODD), {(5, "a.example.org")}),
        (lambda r: r.tlsa("_25._tcp.a.example.org"), {Tlsa(3, 1, 1, b"\xab" * 32, authentic=False)}),
    ],
)
async def test_what_is_there(ask: Ask, expected: set[object]) -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        found = await ask(resolver)
        assert isinstance(found, list)
        assert set(found) == expected
        assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda r: r.a("missing.example.org"), NoSuchName),
        (lambda r: r.a("text.example.org"), NoData),
        (lambda r: r.a("empty.example.org"), NoData),  # RFC 8020 §2: a name with names below it exists
        (lambda r: r.a("dangling.example.org"), NoData),  # c-ares gives the CNAME, no error
        (lambda r: r.a("nowhere.example.org"), NoSuchName),
        (lambda r: r.a("loop.example.org"), DnsTrouble),
        (lambda r: r.a("broken.example.org"), DnsTrouble),
        (lambda r: r.a("refused.example.org"), DnsTrouble),
        (lambda r: r.txt("too-long.example.org"), DnsTrouble),
        (lambda r: r.a("o d d.example.org"), NoSuchName),
        (lambda r: r.aaaa("odd alias.example.org"), NoData),
        (lambda r: r.a("odd broken.example.org"), DnsTrouble),
        (lambda r: r.tlsa("text.example.org"), NoData),
    ],
)
async def test_three_ways_to_have_nothing(ask: Ask, error: type[ResolverError]) -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        with pytest.raises(error) as raised:
            await ask(resolver)
        assert isinstance(raised.value, ResolverError)
        assert isinstance(raised.value, RelayError)
        assert type(raised.value) is error


async def test_exchanges_come_best_first() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        assert await resolver.mx("example.org") == [(10, "a.example.org"), (20, "b.example.org")]


@pytest.mark.parametrize("name", ["long.example.org", "odd long.example.org"])
async def test_a_truncated_answer_is_fetched_over_tcp(name: str) -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        (text,) = await resolver.txt(name)
        assert len(text) == 4000
        assert (len(server.questions), server.tcp) == (1, 1)


async def test_a_heap_of_text_is_refused_and_not_kept() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        with pytest.raises(DnsTrouble, match=str(MAX_TEXT)):
            await resolver.txt("too-long.example.org")
        assert resolver.cached(Question("TXT", "too-long.example.org"), now=0.0) is None


@pytest.mark.parametrize("name", ["quiet.example.org", "qui et.example.org"])
async def test_silence_ends_at_the_timeout(name: str) -> None:
    async with (
        dns_server({name: ["TIMEOUT"]}, silent=True) as server,
        resolver_of(server, timeout=0.2) as resolver,
    ):
        with pytest.raises(DnsTrouble):
            await resolver.a(name)


@pytest.mark.parametrize("name", ["a.example.org", "a b.example.org"])
async def test_a_server_that_is_not_there_is_trouble(name: str) -> None:
    resolver = Resolver([f"127.0.0.1:{free_port()}"], 0.5)
    with pytest.raises(DnsTrouble):
        await resolver.a(name)
    await resolver.close()


@pytest.mark.parametrize("name", ["text.example.org", ODD])
async def test_the_second_server_answers_when_the_first_is_not_there(name: str) -> None:
    async with dns_server(ZONE) as server:
        resolver = Resolver([f"127.0.0.1:{free_port()}", server.nameserver], 1.0)
        assert await resolver.txt(name)
        await resolver.close()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..example.org",
        ".example.org",
        "x" * 64 + ".example.org",  # RFC 1035 §2.3.4
        ".".join(["x" * 49] * 6),
        "b\x00.example.org",
        "b\r\n.example.org",
        "bücher.example",
        "\u202e.example.org",
    ],
)
async def test_what_can_be_no_name_is_not_sent(name: str) -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        with pytest.raises(NoSuchName):
            await resolver.txt(name)
        assert server.questions == []


def test_the_longest_names_that_can_be_asked() -> None:
    assert askable(".".join(["x" * 63] * 3 + ["y" * 61]))
    assert not askable(".".join(["x" * 63] * 3 + ["y" * 62]))


async def test_ten_at_once_are_one_query() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        server.answering.clear()
        asking = [asyncio.create_task(resolver.txt(name)) for name in ("text.example.org", "TEXT.example.org.") * 5]
        while not server.questions:
            await asyncio.sleep(0)
        server.answering.set()
        assert await asyncio.gather(*asking) == [[b"x"]] * 10
        assert len(server.questions) == 1


async def test_one_who_stops_waiting_does_not_end_it_for_the_others() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        server.answering.clear()
        first, second = (asyncio.create_task(resolver.txt("text.example.org")) for _ in range(2))
        while not server.questions:
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        server.answering.set()
        assert await second == [b"x"]
        assert len(server.questions) == 1


async def test_the_answer_nobody_waits_for_any_more_is_kept() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        server.answering.clear()
        only = asyncio.create_task(resolver.txt("text.example.org"))
        while not server.questions:
            await asyncio.sleep(0)
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        server.answering.set()
        assert await resolver.txt("text.example.org") == [b"x"]
        assert len(server.questions) == 1


@pytest.mark.parametrize("name", ["text.example.org", "qu iet.example.org"])
async def test_close_ends_what_is_under_way(name: str) -> None:
    async with dns_server(ZONE) as server:
        server.answering.clear()
        resolver = Resolver([server.nameserver])
        asking = asyncio.create_task(resolver.txt(name))
        while not server.questions:
            await asyncio.sleep(0)
        await resolver.close()
        with pytest.raises(DnsTrouble):
            await asking
        with pytest.raises(DnsTrouble):
            await resolver.txt(name)


async def test_a_bounded_number_of_questions_waits_for_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.resolver.MAX_IN_FLIGHT", 2)
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        server.answering.clear()
        asking = [asyncio.create_task(resolver.a(f"n{number}.example.org")) for number in range(20)]
        while len(server.questions) < 2:
            await asyncio.sleep(0)
        server.answering.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(answer, NoSuchName) for answer in answers)
        assert (len(server.questions), server.peak) == (20, 2)


async def test_waiting_for_a_place_counts_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.resolver.MAX_IN_FLIGHT", 0)
    async with dns_server(ZONE) as server, resolver_of(server, timeout=0.1) as resolver:
        with pytest.raises(DnsTrouble):
            await resolver.a("example.org")
        assert server.questions == []


async def test_the_loop_turns_while_dns_waits() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        server.answering.clear()
        asking = asyncio.create_task(resolver.txt("text.example.org"))
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await turned.wait()
        assert not asking.done()
        server.answering.set()
        await asking


async def test_a_positive_answer_lives_by_its_ttl() -> None:
    clock = JumpingClock()
    async with dns_server(ZONE) as server, resolver_of(server, clock=clock) as resolver:
        await resolver.a(ODD)
        clock.jump(29)
        await resolver.a(ODD)
        assert len(server.questions) == 1
        clock.jump(2)
        await resolver.a(ODD)
        assert len(server.questions) == 2


@pytest.mark.parametrize("name", ["n o.example.org", "text.example.org"])
async def test_a_negative_answer_lives_for_a_minute(name: str) -> None:
    """c-ares hides the SOA, so the minute is ours (RFC 2308 §5 allows hours)."""
    clock = JumpingClock()
    async with dns_server(ZONE) as server, resolver_of(server, clock=clock) as resolver:
        for seconds, queries in ((0, 1), (59, 1), (2, 2)):
            clock.jump(seconds)
            with pytest.raises(ResolverError):
                await resolver.a(name)
            assert len(server.questions) == queries


async def test_a_question_under_way_outlives_the_renewal_of_the_channel() -> None:
    clock = JumpingClock()
    async with dns_server(ZONE) as server, resolver_of(server, clock=clock) as resolver:
        server.answering.clear()
        first = asyncio.create_task(resolver.txt("text.example.org"))
        while not server.questions:
            await asyncio.sleep(0)
        clock.jump(100)
        second = asyncio.create_task(resolver.a("example.org"))
        while len(server.questions) < 2:
            await asyncio.sleep(0)
        server.answering.set()
        assert await first == [b"x"]
        assert len(await second) == 2


@pytest.mark.parametrize("name", ["brief.example.org", "broken.example.org"])
async def test_a_ttl_of_0_and_trouble_are_not_kept(name: str) -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        await asyncio.gather(resolver.a(name), return_exceptions=True)
        asked = len(server.questions)
        await asyncio.gather(resolver.a(name), return_exceptions=True)
        assert len(server.questions) == 2 * asked > 0


async def test_a_ttl_is_the_least_of_the_chain() -> None:
    clock = JumpingClock()
    zone: Zone = {"a b.example.org": [{"CNAME": "c.example.org", "TTL": 10}], "c.example.org": [{"A": "192.0.2.1"}]}
    async with dns_server(zone) as server, resolver_of(server, clock=clock) as resolver:
        await resolver.a("a b.example.org")
        clock.jump(11)
        await resolver.a("a b.example.org")
        assert len(server.questions) == 2


def answer(octets: int = 1, ttl: float = 60.0) -> Answer:
    return Answer((b"x",), ttl=ttl, octets=octets)


def question(number: int) -> Question:
    return Question("TXT", f"{number}.example.org")


def test_the_cache_forgets_the_least_recently_used() -> None:
    cache = Cache(max_entries=2, max_octets=1000)
    for number in (1, 2):
        cache.put(question(number), answer(), now=0)
    cache.get(question(1), now=1)
    cache.put(question(3), answer(), now=1)
    assert [number for number in (1, 2, 3) if cache.get(question(number), now=1)] == [1, 3]
    assert len(cache) == 2


def test_the_cache_is_bounded_in_octets_too() -> None:
    cache = Cache(max_entries=100, max_octets=1000)
    for number in range(50):
        cache.put(question(number), answer(octets=300), now=0)
        cache.put(question(number), answer(octets=300), now=0)
    assert len(cache) == 3
    cache.put(question(99), answer(octets=2000), now=0)
    assert len(cache) == 0


def test_no_ttl_keeps_an_answer_for_more_than_a_day() -> None:
    cache = Cache(max_entries=2, max_octets=1000)
    cache.put(question(1), answer(ttl=2**31 - 1), now=0)
    assert cache.get(question(1), now=86_399)
    assert cache.get(question(1), now=86_400) is None


async def test_a_budget_counts_what_reaches_a_server_and_notes_all() -> None:
    async with dns_server(ZONE) as server, resolver_of(server) as resolver:
        budget = resolver.budget(queries=2)
        assert await budget.txt("text.example.org") == [b"x"]
        assert await budget.txt("text.example.org") == [b"x"]  # out of the cache
        with pytest.raises(NoData):
            await budget.a("text.example.org")
        with pytest.raises(DnsTrouble, match="budget"):
            await budget.mx("example.org")
        assert budget.queries == 2
        assert [(step.what, step.found) for step in budget.steps[:3]] == [
            ("TXT text.example.org", "1 record"),
            ("TXT text.example.org", "1 record"),
            ("A text.example.org", "no data"),
        ]
        assert len(server.questions) == 2
        assert await resolver.budget().mx("example.org")  # the next message has its own


async def test_a_budget_ends_with_its_seconds() -> None:
    clock = JumpingClock()
    async with dns_server(ZONE) as server, resolver_of(server, clock=clock) as resolver:
        budget = resolver.budget(seconds=20)
        await budget.txt("text.example.org")
        clock.jump(21)
        with pytest.raises(DnsTrouble, match="budget"):
            await budget.txt("example.org")
        assert len(server.questions) == 1


async def test_a_budget_does_not_wait_longer_than_it_has() -> None:
    async with dns_server(ZONE) as server, resolver_of(server, timeout=30) as resolver:
        server.answering.clear()
        with pytest.raises(DnsTrouble, match="budget"):
            await resolver.budget(seconds=0.1).txt("example.org")


async def test_the_ad_bit_is_told_of_tlsa() -> None:
    async with dns_server(ZONE, authentic=True) as server, resolver_of(server) as resolver:
        (found,) = await resolver.tlsa("_25._tcp.a.example.org")
        assert found.authentic


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_addresses_of_name_servers(text: str, expected: tuple[str, int]) -> None:
    assert parse_nameserver(text) == expected


@pytest.mark.parametrize(
    "text", ["", "localhost", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:0", "192.0.2.1:65536", ":53"]
)
def test_what_is_no_name_server_says_so_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="name server"):
        Resolver([text])
