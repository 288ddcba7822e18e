"""One DNS question to the name servers, and what came back, read once.

STANDARDS  RFC 1035 §4 (messages), RFC 2308 §2 (no such name, no data), RFC 6840 §5.7 (AD in a question).
TRUSTS     the name servers: they are ours or the system's. Who owns the zones is a stranger: names, texts
           and sizes of records are bounded and never used unread.
FAILS      with an Answer that holds the error. c-ares refuses names outside letters, digits, "-", "_", ".", "/", "*"
           without sending them, and SPF macros make such names: those go through dnspython, as do questions
           where the AD bit matters, which c-ares does not show.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import aiodns
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import pycares

from relay.clock import Clock
from relay.errors import DnsTrouble, NoData, NoSuchName
from relay.resolver_cache import Answer, Question

MAX_TEXT = 32 * 1024  # octets of all TXT records at a name; the largest seen at real domains have some 8 KiB
TRIES = 3
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\Z")
_CARES_TYPES = {
    "TXT": pycares.QUERY_TYPE_TXT,
    "A": pycares.QUERY_TYPE_A,
    "AAAA": pycares.QUERY_TYPE_AAAA,
    "MX": pycares.QUERY_TYPE_MX,
    "PTR": pycares.QUERY_TYPE_PTR,
}
_ABSENT: dict[int, type[NoSuchName] | type[NoData]] = {
    pycares.errno.ARES_ENOTFOUND: NoSuchName,
    pycares.errno.ARES_ENODATA: NoData,
}


class Nameserver(NamedTuple):
    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tlsa:
    """RFC 6698 §2.1. authentic: the server says that DNSSEC vouches for it (AD); without that it proves nothing."""

    usage: int
    selector: int
    matching: int
    data: bytes
    authentic: bool


def parse_nameserver(text: str) -> Nameserver:
    """`192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:5353`. Raises ValueError, fit for an operator."""
    host, colon, port = text.rpartition(":")
    if text.count(":") != 1 and not host.endswith("]"):
        host, colon, port = text, "", ""
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        number = int(port) if colon else 53
        if not 0 < number < 65536:
            raise ValueError
        return Nameserver(str(ip_address(host)), number)
    except ValueError:
        raise ValueError(
            f"{text!r} is not the address of a name server (192.0.2.1, 192.0.2.1:5353, [::1]:5353)"
        ) from None


@dataclass(slots=True)
class _Channel:
    """One c-ares channel. best_before: monotonic seconds. busy: questions that wait for it."""

    cares: aiodns.DNSResolver
    best_before: float
    busy: int = 0


class Query:
    """Asks the name servers. Made in the loop that uses it; `close()` when done."""

    def __init__(self, nameservers: Sequence[Nameserver], timeout: float, negative_ttl: float, clock: Clock) -> None:
        self._given = tuple(nameservers)
        self._timeout = timeout
        self._negative_ttl = negative_ttl
        self._clock = clock
        self._channel = self._new_channel()

    async def ask(self, question: Question) -> Answer:
        """The answer; a negative one may be kept for `negative_ttl`. The caller sees to the deadline."""
        if question.kind in _CARES_TYPES and _PLAIN.match(question.name):
            return await self._through_cares(question)
        return await self._through_dnspython(question)

    async def close(self) -> None:
        await self._channel.cares.close()

    def _new_channel(self) -> _Channel:
        servers = [str(server) for server in self._given] or None
        # c-ares doubles the wait with each try; the caller's deadline cuts the last one short.
        cares = aiodns.DNSResolver(nameservers=servers, timeout=self._timeout / 4, tries=TRIES)
        return _Channel(cares, self._clock.monotonic() + self._negative_ttl)

    @asynccontextmanager
    async def _borrowed_channel(self) -> AsyncIterator[aiodns.DNSResolver]:
        """c-ares keeps a "no data" for an hour whatever the SOA says, and knows no off: so no channel gets old."""
        idle = None
        if self._clock.monotonic() >= self._channel.best_before:
            idle = None if self._channel.busy else self._channel
            self._channel = self._new_channel()
        channel = self._channel
        channel.busy += 1
        try:
            if idle:
                await idle.cares.close()
            yield channel.cares
        finally:
            channel.busy -= 1
            if channel is not self._channel and not channel.busy:
                await channel.cares.close()

    async def _through_cares(self, question: Question) -> Answer:
        try:
            async with self._borrowed_channel() as cares:
                result = await cares.query_dns(question.name + ".", question.kind)
        except aiodns.error.DNSError as error:
            code = error.args[0]
            if absent := _ABSENT.get(code):
                return Answer(
                    error=absent, text=_says(question, absent), ttl=self._negative_ttl, octets=_weight(question)
                )
            return trouble(question, str(pycares.errno.strerror(code)).lower())
        wanted = _CARES_TYPES[question.kind]
        found = [_cares_value(record.data) for record in result.answer if record.type == wanted]
        # A CNAME to nothing comes back as the CNAME alone, without an error.
        return _answer(question, found, [record.ttl for record in result.answer], self._negative_ttl)

    async def _through_dnspython(self, question: Question) -> Answer:
        message = dns.message.make_query(
            wire_name(question.name), question.kind, flags=dns.flags.RD | dns.flags.AD, use_edns=0, payload=1232
        )
        problem = "no name server is configured"
        for server in self._given or _system_servers():
            try:
                reply, _ = await dns.asyncquery.udp_with_fallback(
                    message, server.ip, timeout=self._timeout / TRIES, port=server.port
                )
            except (dns.exception.DNSException, OSError, EOFError) as error:
                problem = f"{server}: {error}" if str(error) else f"{server}: {type(error).__name__}"
                continue
            if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return read_reply(question, reply, self._negative_ttl)
            problem = dns.rcode.to_text(reply.rcode())
        return trouble(question, problem)


def wire_name(name: str) -> dns.name.Name:
    """`name` as it stands: a backslash or a quote in it is an octet like others, not an escape."""
    return dns.name.Name([*(label.encode("ascii") for label in name.split(".")), b""])


def read_reply(question: Question, reply: dns.message.Message, negative_ttl: float) -> Answer:
    """What a reply with NOERROR or NXDOMAIN says to `question`."""
    if reply.rcode() == dns.rcode.NXDOMAIN:
        return Answer(error=NoSuchName, text=_says(question, NoSuchName), ttl=negative_ttl, octets=_weight(question))
    return _answer(question, *_dnspython_values(question, reply), negative_ttl)


def _cares_value(data: object) -> object:
    match data:
        case pycares.TXTRecordData():
            return data.data
        case pycares.ARecordData():
            return IPv4Address(data.addr)
        case pycares.AAAARecordData():
            return IPv6Address(data.addr)
        case pycares.MXRecordData():
            return data.priority, data.exchange.rstrip(".")
        case pycares.PTRRecordData():
            return data.dname.rstrip(".")
    raise AssertionError(data)


def _dnspython_values(question: Question, reply: dns.message.Message) -> tuple[list[object], list[float]]:
    """The values of the type asked for, and the TTL of every record of the answer."""
    wanted = dns.rdatatype.from_text(question.kind)
    authentic = bool(reply.flags & dns.flags.AD)
    values: list[object] = []
    for record in (record for rrset in reply.answer if rrset.rdtype == wanted for record in rrset):
        match question.kind:
            case "TXT":
                values.append(b"".join(record.strings))
            case "A":
                values.append(IPv4Address(record.address))
            case "AAAA":
                values.append(IPv6Address(record.address))
            case "MX":
                values.append((record.preference, record.exchange.to_text(omit_final_dot=True).rstrip(".")))
            case "PTR":
                values.append(record.target.to_text(omit_final_dot=True).rstrip("."))
            case "TLSA":
                values.append(Tlsa(record.usage, record.selector, record.mtype, record.cert, authentic))
    return values, [float(rrset.ttl) for rrset in reply.answer]


def _answer(question: Question, values: list[object], ttls: Sequence[float], negative_ttl: float) -> Answer:
    if not values:
        return Answer(error=NoData, text=_says(question, NoData), ttl=negative_ttl, octets=_weight(question))
    octets = sum(len(value) for value in values if isinstance(value, bytes))
    if octets > MAX_TEXT:
        return trouble(question, f"the answer has {octets} octets of text, more than {MAX_TEXT}")
    return Answer(tuple(values), ttl=min(ttls), octets=_weight(question) + octets + 100 * len(values))


def _says(question: Question, error: type[NoSuchName] | type[NoData]) -> str:
    if error is NoSuchName:
        return f"{question.name} does not exist"
    return f"{question.name} has no {question.kind} record"


def trouble(question: Question, problem: str) -> Answer:
    return Answer(error=DnsTrouble, text=f"{question.kind} {question.name}: {problem}")


def _weight(question: Question) -> int:
    """Octets of an entry in the cache besides its values: roughly what the Python objects take."""
    return 500 + len(question.name)


def _system_servers() -> list[Nameserver]:
    try:
        return [Nameserver(str(server), 53) for server in dns.resolver.Resolver(configure=True).nameservers]
    except dns.exception.DNSException:
        return []
