"""The PROXY header (I9): what HAProxy's proxy-protocol.txt allows is read to its last octet, all else ends there."""

import asyncio
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from relay.accept import proxy
from relay.accept.proxy import Header, MalformedHeader
from tests.support.certificates import Certificates
from tests.support.smtp_client import SmtpClient, code, smtp_client
from tests.support.stages import Scripted, listening

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"  # §2.2
FOUR = ip_address("203.0.113.7").packed + ip_address("192.0.2.1").packed + struct.pack("!HH", 40000, 25)
SIX = ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed + struct.pack("!HH", 40000, 25)
LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\r\n"
CLIENT = Header(IPv4Address("203.0.113.7"), 40000)
OPEN = [b"EHLO client.test", b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]


def v2(command: int, family: int, content: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(content) if length is None else length) + content


GOOD = [
    (LINE, CLIENT),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n", Header(IPv6Address("2001:db8::7"), 40000)),
    (b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 40000 25\r\n", CLIENT),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Header(IPv4Address("255.255.255.255"), 65535)),
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 0 25\r\n", Header(CLIENT.ip, 0)),
    (b"PROXY UNKNOWN\r\n", Header(None)),
    # The longest there is, 107 octets (§2.1)
    (b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", Header(None)),
    (v2(0x21, 0x11, FOUR), CLIENT),
    (v2(0x21, 0x21, SIX), Header(IPv6Address("2001:db8::7"), 40000)),
    (v2(0x21, 0x11, FOUR + b"\x04\x00\x03abc"), CLIENT),  # with a vector (§2.2.7)
    (v2(0x21, 0x11, FOUR.ljust(520, b"\0")), CLIENT),
    (v2(0x20, 0x00, b""), Header(None, is_own=True)),
    (v2(0x20, 0x11, FOUR), Header(None, is_own=True)),  # LOCAL: the addresses do not count
    (v2(0x21, 0x00, b""), Header(None)),
]
BAD = [
    b"\r\n\r\n\0\r\nQUIX",
    b"EHLO client.test\r\n",
    b"\x16\x03\x01",
    b"proxy TCP4 203.0.113.7 192.0.2.1 40000 25\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXYTCP4 203.0.113.7 192.0.2.1 40000 25\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 40000\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25 26\r\n",
    b"PROXY TCP4  203.0.113.7 192.0.2.1 40000 25\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 65536\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 040000 25\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4_0 25\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\t\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\r\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\nEHLO x\r\n",
    b"PROXY TCP4 203.0.113 192.0.2.1 40000 25\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",  # the wrong family
    b"PROXY TCP6 203.0.113.7 192.0.2.1 40000 25\r\n",
    b"PROXY TCPX4 203.0.113.7 192.0.2.1 40000 25\r\n",
    b"PROXY UDP4 203.0.113.7 192.0.2.1 40000 25\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",  # 108 octets
    b"PROXY " + b"x" * 10_000,
    v2(0x11, 0x11, FOUR),  # version 1 in the form of version 2
    v2(0x22, 0x11, FOUR),  # a command that is none
    v2(0x21, 0x12, FOUR),  # datagrams
    v2(0x21, 0x10, FOUR),
    v2(0x21, 0x31, b"/run/a".ljust(108, b"\0") * 2),  # AF_UNIX
    v2(0x21, 0x41, FOUR),
    v2(0x21, 0x11, FOUR[:-1]),  # its length lies
    v2(0x21, 0x21, FOUR),
    v2(0x21, 0x11, FOUR.ljust(521, b"\0")),  # 537 octets
    v2(0x21, 0x11, FOUR, 65535),
]


async def read(octets: bytes) -> tuple[Header, bytes] | None:
    """The header and what stands behind it; None when it has not all come."""
    size = proxy.length(octets)
    return (await proxy.parse(octets[:size]), octets[size:]) if size else None


@pytest.mark.parametrize(("octets", "header"), GOOD)
async def test_a_header_is_read_and_nothing_behind_it(octets: bytes, header: Header) -> None:
    for rest in (b"", b"EHLO client.test\r\n", b"\x16\x03\x01", octets):
        assert await read(octets + rest) == (header, rest)
    assert [proxy.length(octets[:end]) for end in range(len(octets))] == [0] * len(octets)


@pytest.mark.parametrize("octets", BAD)
async def test_what_is_none_is_refused(octets: bytes) -> None:
    with pytest.raises(MalformedHeader):
        await read(octets)


@given(st.binary(max_size=60) | st.sampled_from([octets for octets, _ in GOOD]).flatmap(lambda good: mutated(good)))
def test_any_octets_give_a_header_or_one_error(octets: bytes) -> None:
    """R22."""
    try:
        found = asyncio.run(read(octets))
    except MalformedHeader:
        return
    assert found is None or octets.endswith(found[1])


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    places = st.integers(0, len(good) - 1)
    return st.builds(lambda at, octet: good[:at] + octet + good[at + 1 :], places, st.binary(max_size=2))


@pytest.mark.parametrize(
    ("ip", "is_impossible"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("224.0.0.1", True),
        ("198.51.100.7", True),  # our own
        ("203.0.113.7", False),
        ("10.0.0.1", False),
        ("2001:db8::7", False),
    ],
)
def test_nobody_comes_from_ourselves(ip: str, is_impossible: bool) -> None:
    assert proxy.is_impossible(ip_address(ip), lambda one: str(one) == "198.51.100.7") is is_impossible


# --- over real connections ------------------------------------------------------------------------


def tables(proxy_from: str = "127.0.0.0/8", role: str = "gateway", **more: Any) -> dict[str, Any]:
    top = {key: more.pop(key) for key in ("timeout", "limit", "delay") if key in more}
    domains = {"domains": ["example.net"]} if role == "gateway" else {}
    return {"listener": {"in": {"role": role, "proxy_from": [proxy_from], **domains, **more}}, **top}


async def deliver(client: SmtpClient) -> list[str]:
    return [code(await client.read()), *await client.converse(*OPEN, b"DATA", b"x\r\n.")]


TAKEN = ["220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]


@pytest.mark.parametrize("header", [LINE, v2(0x21, 0x11, FOUR)])
async def test_everything_knows_the_real_client(header: bytes) -> None:
    stages = Scripted()
    async with listening(stages, tables()) as relay, smtp_client(relay.address("in")) as client:
        client.send(header)
        assert await deliver(client) == TAKEN
        ((envelope, _),) = stages.received
        assert (str(envelope.client.ip), envelope.client.port) == ("203.0.113.7", 40000)
        assert relay.of("received")[0].values["ip"] == "203.0.113.7"
        await client.say(b"RCPT TO:<>")
        assert relay.of("rejected")[0].values["ip"] == "203.0.113.7"


@pytest.mark.parametrize("header", [LINE, v2(0x21, 0x11, FOUR)])
async def test_octet_by_octet_it_is_the_same(header: bytes) -> None:
    stages = Scripted()
    async with listening(stages, tables()) as relay, smtp_client(relay.address("in")) as client:
        for at in range(len(header)):
            client.send(header[at : at + 1])
            await client.sent()
            await relay.until(lambda at=at: len(connection(relay)._buffer) in (at + 1, 0))
        assert await deliver(client) == TAKEN
    assert str(stages.received[0][0].client.ip) == "203.0.113.7"


def connection(relay: Any) -> Any:
    (found,) = [one for service in relay.listeners._services for one in service.connections]
    return found


async def deliver_by_tls(certificates: Certificates, tls: str) -> None:
    stages = Scripted()
    pair = {"certificate": str(certificates.chain), "key": str(certificates.key)}
    async with (
        listening(stages, tables(tls=tls, **pair)) as relay,
        smtp_client(relay.address("in")) as client,
    ):
        client.send(LINE)
        if tls == "starttls":
            await client.read()
            await client.converse(OPEN[0], b"STARTTLS")
        await client.start_tls(certificates.client_context())
        if tls == "starttls":
            assert (await client.converse(*OPEN, b"DATA", b"x\r\n."))[-1] == "250 2.0.0"
        else:
            assert await deliver(client) == TAKEN
    ((envelope, _),) = stages.received
    assert str(envelope.client.ip) == "203.0.113.7"
    assert envelope.client.tls is not None


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_the_header_is_in_clear_then_tls_begins(certificates: Certificates, tls: str) -> None:
    await deliver_by_tls(certificates, tls)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_on_uvloop_too(certificates: Certificates, tls: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(deliver_by_tls(certificates, tls))


@pytest.mark.parametrize(
    ("proxy_from", "octets", "why"),
    [
        ("192.0.2.0/24", LINE, "not a load balancer"),
        ("127.0.0.0/8", b"EHLO client.test\r\n", "bad PROXY header"),
        ("127.0.0.0/8", b"PROXY " + b"x" * 10_000, "bad PROXY header"),
        ("127.0.0.0/8", v2(0x21, 0x11, FOUR, 65535), "bad PROXY header"),
        ("127.0.0.0/8", v2(0x21, 0x11, FOUR, 13), "no PROXY header"),  # longer than it is, then silence
        ("127.0.0.0/8", LINE[:20], "no PROXY header"),
        ("127.0.0.0/8", b"", "no PROXY header"),
        ("127.0.0.0/8", b"PROXY TCP4 127.0.0.1 192.0.2.1 40000 25\r\n", "impossible client"),
        ("127.0.0.0/8", b"PROXY TCP4 198.51.100.7 192.0.2.1 40000 25\r\n", "impossible client"),
        ("127.0.0.0/8", b"PROXY TCP6 ::ffff:127.0.0.1 ::1 40000 25\r\n", "impossible client"),
    ],
)
@pytest.mark.parametrize("tls", ["none", "implicit"])
async def test_others_hear_nothing(
    certificates: Certificates, proxy_from: str, octets: bytes, why: str, tls: str
) -> None:
    pair = {"tls": tls, "certificate": str(certificates.chain), "key": str(certificates.key)} if tls != "none" else {}
    given_tables = tables(proxy_from, timeout={"proxy": "200ms"}, **pair)
    async with (
        listening(Scripted(), given_tables, own=["198.51.100.7"]) as relay,
        smtp_client(relay.address("in")) as client,
    ):
        client.send(octets)
        assert await client.read_to_end() == b""
        (fact,) = relay.of("refused")
        assert fact.values["why"] == why
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert len(relay.of("connected")) == len(relay.of("closed"))


async def test_a_drip_does_not_move_the_deadline() -> None:
    async with (
        listening(Scripted(), tables(timeout={"proxy": "300ms"})) as relay,
        smtp_client(relay.address("in")) as client,
    ):
        ended = asyncio.ensure_future(client.read_to_end())
        for at in range(len(LINE) - 1):
            client.send(LINE[at : at + 1])
            if (await asyncio.wait([ended], timeout=0.05))[0]:
                break
        assert await ended == b""


async def test_a_balancer_that_only_looks_is_no_news() -> None:
    async with listening(Scripted(), tables()) as relay:
        async with smtp_client(relay.address("in")):
            await relay.until(lambda: relay.listeners.load.connections == 1)
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert {fact.event for fact in relay.facts} == {"accept.connected", "accept.closed"}


@pytest.mark.parametrize("again", [LINE, v2(0x21, 0x11, FOUR)])
async def test_a_second_header_is_none(again: bytes) -> None:
    async with listening(Scripted(), tables()) as relay, smtp_client(relay.address("in")) as client:
        client.send(LINE + again)
        codes = [code(text) for text in await client.rest()]
        assert codes[0] == "220"
        assert codes[-1] == "421 4.5.0"
        assert relay.of("refused")[0].values["ip"] == "203.0.113.7"


async def test_a_header_where_none_is_expected_ends_the_session() -> None:
    async with listening(Scripted()) as relay, smtp_client(relay.address("capture")) as client:
        client.send(LINE)
        assert [code(text) for text in await client.rest()] == ["220", "421 4.5.0"]
        assert relay.of("refused")[0].values["why"] == "PROXY header"


async def test_the_balancer_itself_is_taken_for_itself() -> None:
    """LOCAL, §2.2: a health check, from the peer's own address."""
    stages = Scripted()
    async with listening(stages, tables()) as relay, smtp_client(relay.address("in")) as client:
        client.send(v2(0x20, 0x00, b""))
        assert await deliver(client) == TAKEN
    assert str(stages.received[0][0].client.ip) == "127.0.0.1"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(0x21, 0x00, b"")])
async def test_a_client_of_whom_nothing_is_known_may_not_do_what_the_balancer_may(header: bytes) -> None:
    stages = Scripted()
    async with (
        listening(stages, tables(role="submission", allow=["127.0.0.0/8"], senders=["*"])) as relay,
        smtp_client(relay.address("in")) as client,
    ):
        client.send(header)
        assert code(await client.read()) == "220"
        assert await client.converse(*OPEN, b"NOOP") == ["250", "550 5.7.1", "503 5.5.1", "250 2.0.0"]


async def test_connections_are_counted_for_each_client_behind_the_balancer() -> None:
    async with listening(Scripted(), tables(limit={"connections_per_ip": 1})) as relay:
        address = relay.address("in")
        async with smtp_client(address) as one, smtp_client(address) as two, smtp_client(address) as other:
            one.send(LINE)
            assert code(await one.read()) == "220"
            two.send(LINE)
            assert [code(text) for text in await two.rest()] == ["421 4.7.0"]
            other.send(LINE.replace(b".7 ", b".8 "))
            assert code(await other.read()) == "220"
        await relay.until(lambda: relay.listeners.load.connections == 0)
        assert not relay.listeners.load.counts.held


async def test_the_greeting_delay_begins_behind_the_header() -> None:
    given_tables = tables(delay={"greeting": {"in": "1 h"}, "skip": []})
    async with listening(Scripted(), given_tables) as relay, smtp_client(relay.address("in")) as client:
        client.send(LINE)
        await relay.until(lambda: relay.listeners.load.sleeping == 1)
        client.send(b"EHLO client.test\r\n")
        assert [code(text) for text in await client.rest()] == ["554 5.5.0"]
