"""A DNS server on loopback, UDP and TCP, that answers from a dict in the test's own loop.

A zone is name → list of records, as the openspf suites write their `zonedata`:

    {"example.org": [{"TXT": "v=spf1 -all"}, {"MX": [10, "mail.example.org"]}, {"A": "192.0.2.1", "TTL": 5}, "TIMEOUT"]}

A name that is not there does not exist, unless one below it does. CNAMEs are followed as a recursive server would;
a loop of them is SERVFAIL. Of the bare words, "TIMEOUT", "SERVFAIL", "REFUSED" answer for every type the name
has no record of. "TIMEOUT" is SERVFAIL too, at once, unless the server is `silent`: then nothing comes back.
`SPF` (type 99) stands for TXT at a name that has no TXT; `TXT: NONE` says that it has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset

Zone = Mapping[str, Sequence[Any]]
TTL = 300
MAX_UDP = 1232
_WORDS = {"TIMEOUT": dns.rcode.SERVFAIL, "SERVFAIL": dns.rcode.SERVFAIL, "REFUSED": dns.rcode.REFUSED}


_SOA = dns.rrset.from_text(".", 0, "IN", "SOA", "ns. hostmaster. 1 60 60 60 0")


class Asked(NamedTuple):
    """`name` without the final dot, in the case it was asked in."""

    name: str
    type: str


class DnsServer:
    """nameserver: `127.0.0.1:PORT`. questions: all that were asked, UDP then TCP of a truncated answer counted once.

    asked: set by each of them. answering: clear it to hold all answers back. tcp: how many questions came by TCP.
    peak: how many questions waited for their answer at one time.
    """

    def __init__(self, zone: Zone, *, silent: bool, authentic: bool) -> None:
        self.nameserver = ""
        self.questions: list[Asked] = []
        self.tcp = 0
        self.at_work = 0
        self.peak = 0
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self._silent = silent
        self._authentic = authentic
        self.serve(zone)

    def serve(self, zone: Zone) -> None:
        """Answer from `zone` from now on."""
        self._zone = {_name(name).canonicalize(): list(records) for name, records in zone.items()}
        self._above = {name.split(depth)[1] for name in self._zone for depth in range(1, len(name.labels) + 1)}

    def count(self, kind: str) -> int:
        return sum(asked.type == kind for asked in self.questions)

    async def answer(self, wire: bytes, *, udp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        if udp:
            self.questions.append(Asked(_text(question.name), dns.rdatatype.to_text(question.rdtype)))
        else:
            self.tcp += 1
        self.asked.set()
        self.at_work += 1
        self.peak = max(self.peak, self.at_work)
        await self.answering.wait()
        self.at_work -= 1
        reply = dns.message.make_response(query, recursion_available=True)
        if self._authentic:
            reply.flags |= dns.flags.AD
        if self._fill(reply, question.name, question.rdtype) is None:
            return None
        if not any(rrset.rdtype == question.rdtype for rrset in reply.answer):
            reply.authority.append(_SOA)  # RFC 2308 §3; its TTL of 0 lets nobody keep the answer
        try:
            return reply.to_wire(max_size=min(query.payload or 512, MAX_UDP) if udp else 65535)
        except dns.exception.TooBig:
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            return short.to_wire()

    def _fill(self, reply: dns.message.Message, name: dns.name.Name, kind: int) -> dns.message.Message | None:
        """None: say nothing."""
        for _ in range(9):
            records = self._zone.get(name.canonicalize())
            if records is None:
                reply.set_rcode(dns.rcode.NOERROR if name.canonicalize() in self._above else dns.rcode.NXDOMAIN)
                return reply
            found = _of_type(records, dns.rdatatype.to_text(kind))
            if found:
                _add(reply, name, kind, found)
                return reply
            for word in (record for record in records if isinstance(record, str)):
                if word == "TIMEOUT" and self._silent:
                    return None
                reply.answer.clear()
                reply.set_rcode(_WORDS[word])
                return reply
            alias = _of_type(records, "CNAME")
            if not alias:
                return reply
            _add(reply, name, dns.rdatatype.CNAME, alias)
            name = _name(alias[0][0])
        reply.answer.clear()
        reply.set_rcode(dns.rcode.SERVFAIL)
        return reply


@asynccontextmanager
async def dns_server(zone: Zone, *, silent: bool = False, authentic: bool = False) -> AsyncIterator[DnsServer]:
    """Serve `zone`. silent: "TIMEOUT" is met with silence. authentic: answers have the AD bit."""
    server = DnsServer(zone, silent=silent, authentic=authentic)
    at_work: set[asyncio.Task[None]] = set()
    broken: list[BaseException | None] = []  # a zone that cannot be served is the test's own mistake

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: Any) -> None:
            task = asyncio.create_task(self.reply(data, peer))
            at_work.add(task)
            task.add_done_callback(at_work.discard)
            task.add_done_callback(
                lambda task: task.cancelled() or (task.exception() and broken.append(task.exception()))
            )

        async def reply(self, data: bytes, peer: Any) -> None:
            if (wire := await server.answer(data, udp=True)) is not None:
                self.transport.sendto(wire, peer)

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                if (wire := await server.answer(await reader.readexactly(size), udp=False)) is not None:
                    writer.write(len(wire).to_bytes(2, "big") + wire)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    for attempt in range(20):  # the port that UDP was given may be taken on TCP
        datagrams, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        port = datagrams.get_extra_info("sockname")[1]
        try:
            streams = await asyncio.start_server(stream, "127.0.0.1", port)
            break
        except OSError:
            datagrams.close()
            if attempt == 19:
                raise
    server.nameserver = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        streams.close()
        datagrams.close()
        for task in list(at_work):
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)
        assert not broken, broken


def _name(text: str) -> dns.name.Name:
    """No escapes: a label may hold any character but the dot."""
    labels = [label.encode("latin-1") for label in text.removesuffix(".").split(".") if label]
    return dns.name.Name([*labels, b""])


def _text(name: dns.name.Name) -> str:
    return ".".join(label.decode("latin-1") for label in name.labels if label)


def _of_type(records: Sequence[Any], kind: str) -> list[tuple[Any, int]]:
    """The values of one type, each with its TTL."""

    def values(type_: str) -> list[tuple[Any, int]]:
        return [(record[type_], record.get("TTL", TTL)) for record in records if type_ in record and record != type_]

    if kind == "TXT" and not any("TXT" in record for record in records if isinstance(record, dict)):
        kind = "SPF"
    records = [record for record in records if isinstance(record, dict)]
    return [(value, ttl) for value, ttl in values(kind) if value != "NONE"]


def _add(reply: dns.message.Message, name: dns.name.Name, kind: int, found: Sequence[tuple[Any, int]]) -> None:
    rrset = dns.rrset.RRset(name, dns.rdataclass.IN, kind)
    rrset.update_ttl(min(ttl for _, ttl in found))
    for value, _ in found:
        rrset.add(_rdata(kind, value))
    reply.answer.append(rrset)


def _rdata(kind: int, value: Any) -> dns.rdata.Rdata:
    match dns.rdatatype.to_text(kind):
        case "TXT":
            parts = [_octets(part) for part in (value if isinstance(value, list) else [value])]
            strings = [part[at : at + 255] for part in parts for at in range(0, len(part) or 1, 255)]
            return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings or [b""])
        case "MX":
            return dns.rdata.from_text("IN", kind, f"{value[0]} .").replace(exchange=_name(value[1]))
        case "CNAME" | "PTR":
            return dns.rdata.from_text("IN", kind, ".").replace(target=_name(value))
    return dns.rdata.from_text("IN", kind, value)


def _octets(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
