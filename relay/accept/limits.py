"""How much may go on at once: connections, octets in memory, sessions held back. Pure counting.

Each question is answered with None, or with the Reply that refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from relay import reply
from relay.config.models import Limit, Network
from relay.reply import Reply

Ip = IPv4Address | IPv6Address


def is_in(ip: Ip, networks: Sequence[Network]) -> bool:
    """`ip` lies in one of `networks`."""
    return any(ip in network for network in networks)


def plain_ip(text: str) -> Ip:
    """The peer's address; an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address."""
    ip = ip_address(text.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


class Load:
    """What all listeners together are doing now, against `[limit]` and `delay.max_sleeping`."""

    def __init__(self, limit: Limit, max_sleeping: int) -> None:
        self._limit = limit
        self._max_sleeping = max_sleeping
        self._per_address: dict[object, int] = {}
        self.connections = 0
        self.sleeping = 0
        self.memory = 0

    def enter(self, ip: Ip, *, per_address: bool) -> Reply | None:
        """Count one more connection from `ip`; per_address: it came to a listener with a limit for each."""
        if self.connections >= self._limit.connections:
            return reply.TOO_MANY_CONNECTIONS
        if per_address and not ip.is_loopback and not is_in(ip, self._limit.exempt):
            key = _holder(ip)
            held = self._per_address.get(key, 0)
            if held >= self._limit.connections_per_ip:
                return reply.TOO_MANY_FROM_YOU
            self._per_address[key] = held + 1
        self.connections += 1
        return None

    def leave(self, ip: Ip, *, per_address: bool) -> None:
        """The connection that `enter` counted has gone."""
        self.connections -= 1
        if per_address and not ip.is_loopback and not is_in(ip, self._limit.exempt):
            key = _holder(ip)
            left = self._per_address[key] - 1
            if left:
                self._per_address[key] = left
            else:
                del self._per_address[key]

    @property
    def is_high(self) -> bool:
        """Above 80 % of the connections: patience gets shorter."""
        return self.connections * 5 > self._limit.connections * 4

    @property
    def memory_left(self) -> int:
        return self._limit.memory - self.memory

    def reserve(self, octets: int) -> bool:
        """Count `octets` of a message in memory, if there is room."""
        if octets > self.memory_left:
            return False
        self.memory += octets
        return True

    def free(self, octets: int) -> None:
        self.memory -= octets

    def lie_down(self) -> bool:
        """Count one more session that is held back on purpose, if there is room."""
        if self.sleeping >= self._max_sleeping:
            return False
        self.sleeping += 1
        return True

    def get_up(self) -> None:
        self.sleeping -= 1


class Reservation:
    """The octets one message holds of the server's memory; taken in steps, given back at once."""

    STEP = 64 * 1024

    __slots__ = ("_held", "_load", "_max_size")

    def __init__(self, load: Load, max_size: int) -> None:
        self._load = load
        self._max_size = max_size
        self._held = 0

    def grow(self, octets: int) -> Reply | None:
        """The message is about to have `octets`; a Reply if it is too big, or memory is short."""
        if octets > self._max_size:
            self.release()
            return reply.TOO_BIG
        if octets > self._held:
            step = -(-(octets - self._held) // self.STEP) * self.STEP
            if not self._load.reserve(step):
                self.release()
                return reply.OUT_OF_MEMORY
            self._held += step
        return None

    def release(self) -> None:
        self._load.free(self._held)
        self._held = 0


def _holder(ip: Ip) -> object:
    """Who counts as one client: an IPv4 address, or an IPv6 /64 (one customer has at least that)."""
    if isinstance(ip, IPv6Address):
        return IPv6Network((int(ip) >> 64 << 64, 64))
    return ip
