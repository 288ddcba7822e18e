"""The PROXY header with which a load balancer says who the client is: its extent, then its meaning.

aiosmtpd's parser reads the addresses. Where the header ends is found here, so that it is given those
octets and no more; its own reading of version 1 is loose (it takes `TCPX4` and the port `2_5`).

STANDARDS  HAProxy's proxy-protocol.txt, §2.1 (version 1), §2.2 (version 2).
TRUSTS     nothing but the peer's address, which the caller has looked up in `proxy_from`.
FAILS      MalformedHeader; the connection ends without a word, since nobody knows who would read it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from aiosmtpd.proxy_protocol import AF, PROTO, V2_CMD, V2_SIGNATURE, get_proxy

from relay.accept.limits import Ip, plain_ip
from relay.errors import RelayError

MAX_V1 = 107  # octets with CRLF, §2.1
MAX_V2 = 536  # octets: 16, two addresses of 108 + 108 at most, and the balancer's own vectors
_PREFIX = 16  # octets of version 2 before its addresses
_LINE = re.compile(rb"PROXY (?:UNKNOWN(?: .*)?|TCP[46](?: [0-9A-Fa-f.:]+){2}(?: (?:0|[1-9][0-9]{0,4})){2})\r\n", re.S)

# It logs what it does not like.
logging.getLogger("mail.debug").setLevel(logging.CRITICAL + 1)


class MalformedHeader(RelayError):
    """Not a PROXY header, or one that names no client that may be; `str()` is for the log."""


@dataclass(frozen=True, slots=True)
class Header:
    """ip, port: the client's; None when the header names none.

    is_own: the balancer speaks for itself (LOCAL: its health check). Without it and without an
    address there is a client of whom nothing is known (UNKNOWN, AF_UNSPEC).
    """

    ip: Ip | None
    port: int = 0
    is_own: bool = False


def length(octets: bytes | bytearray) -> int:
    """How many octets at the beginning are the header; 0 while that is not known or not all have come."""
    if octets[:5] == b"PROXY"[: len(octets)]:
        end = octets.find(b"\r\n", 0, MAX_V1)
        if end < 0 and len(octets) >= MAX_V1:
            raise MalformedHeader("the line is too long")
        return end + 2 if end >= 0 else 0
    if octets[:12] != V2_SIGNATURE[: len(octets)]:
        raise MalformedHeader("no PROXY header")
    if len(octets) < _PREFIX:
        return 0
    whole = _PREFIX + int.from_bytes(octets[14:16], "big")
    if whole > MAX_V2:
        raise MalformedHeader("the header is too long")
    return whole if len(octets) >= whole else 0


async def parse(octets: bytes) -> Header:
    """The meaning of a whole header. Raises MalformedHeader."""
    if octets.startswith(b"PROXY") and not _LINE.fullmatch(octets):
        raise MalformedHeader("the line is malformed")
    reader = asyncio.StreamReader()
    reader.feed_data(octets)
    reader.feed_eof()
    found = await get_proxy(reader)
    if found.error:
        raise MalformedHeader("the header is malformed")
    if found.command == V2_CMD.LOCAL:
        return Header(None, is_own=True)
    if found.family == AF.UNSPEC:
        return Header(None)
    if found.family not in (AF.INET, AF.INET6) or found.protocol != PROTO.STREAM:
        raise MalformedHeader("the client does not come by TCP")
    return Header(plain_ip(str(found.src_addr)), found.src_port or 0)


def is_impossible(ip: Ip, is_own: Callable[[Ip], bool]) -> bool:
    """No client comes from there through a balancer: it would borrow what loopback or we ourselves may do."""
    return ip.is_loopback or ip.is_unspecified or ip.is_multicast or is_own(ip)
