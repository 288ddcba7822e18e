"""How much may go on at once: connections, octets in memory, sessions held back. Pure counting.

Each question is answered with None, or with the Reply that refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from relay import reply
from relay.accept.counts import Counts, Holder, OwnCounts
from relay.config.models import Config, Limit, Network, Stress
from relay.reply import Reply
from relay.shared import Gauge

Ip = IPv4Address | IPv6Address


def is_in(ip: Ip, networks: Sequence[Network]) -> bool:
    """`ip` lies in one of `networks`."""
    return any(ip in network for network in networks)


@lru_cache(1024)  # clients come back
def plain_ip(text: str) -> Ip:
    """The peer's address; an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address."""
    ip = ip_address(text.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def holder(ip: Ip) -> Holder:
    """Who counts as one client: an IPv4 address, or an IPv6 /64 (one customer has at least that)."""
    if isinstance(ip, IPv6Address):
        return IPv6Network((int(ip) >> 64 << 64, 64))
    return ip


@dataclass(frozen=True, slots=True)
class Patience:
    """What a session may do before it hears 421: seconds, and counts."""

    command: float
    data_idle: float
    errors: int
    junk: int
    login_failures: int


def patience(config: Config) -> tuple[Patience, Patience]:
    """What holds in quiet times, and under load: there the harsher of the two that are configured."""
    timeout, limit, stress = config.timeout, config.limit, config.stress
    quiet = Patience(timeout.command, timeout.data_idle, limit.errors, limit.junk, limit.login_failures)
    return quiet, Patience(
        min(quiet.command, stress.command),
        min(quiet.data_idle, stress.data_idle),
        min(quiet.errors, stress.errors),
        min(quiet.junk, stress.junk),
        min(quiet.login_failures, stress.login_failures),
    )


class Load:
    """What all listeners together are doing now, against `[limit]`, `[stress]` and `delay.max_sleeping`.

    With several workers it is what all of them do. Each counts first and looks then, so that no two of them
    take the last place; in the same moment both may be refused it.

    is_high: above `stress.above` percent of the connections, so that patience gets shorter; as of when the last
    connection of this process came or went.
    is_exempt(ip): no limit for each address applies to `ip`.
    """

    is_exempt: Callable[[Ip], bool]

    def __init__(
        self,
        limit: Limit,
        stress: Stress,
        max_sleeping: int,
        switched: Callable[[bool], None],
        counts: Counts | None = None,
    ) -> None:
        """switched: told when `is_high` becomes true, and when false. counts: None for this process alone."""
        self._switched = switched
        self.counts: Counts = OwnCounts() if counts is None else counts
        self.is_high = False
        self._set(limit, stress, max_sleeping)

    def update(self, limit: Limit, stress: Stress, max_sleeping: int) -> None:
        """New limits; what was counted stays."""
        self._set(limit, stress, max_sleeping)
        self._look(self.connections)

    def _set(self, limit: Limit, stress: Stress, max_sleeping: int) -> None:
        self._limit, self._above, self._max_sleeping = limit, stress.above, max_sleeping
        self.is_exempt = lru_cache(1024)(lambda ip: ip.is_loopback or is_in(ip, limit.exempt))  # clients come back

    @property
    def connections(self) -> int:
        return self.counts.total(Gauge.CONNECTIONS)

    @property
    def sleeping(self) -> int:
        return self.counts.total(Gauge.SLEEPING)

    @property
    def memory(self) -> int:
        return self.counts.total(Gauge.MEMORY)

    def enter(self) -> Reply | None:
        """Count one more connection."""
        connections = self.counts.add(Gauge.CONNECTIONS, 1)
        if connections > self._limit.connections:
            self.counts.add(Gauge.CONNECTIONS, -1)
            return reply.TOO_MANY_CONNECTIONS
        self._look(connections)
        return None

    def leave(self) -> None:
        """The connection that `enter` counted has gone."""
        self._look(self.counts.add(Gauge.CONNECTIONS, -1))

    def hold(self, who: Holder) -> Reply | None:
        """Count one more connection of one client."""
        return None if self.counts.hold(who, self._limit.connections_per_ip) else reply.TOO_MANY_FROM_YOU

    def let_go(self, who: Holder) -> None:
        """The connection that `hold` counted has gone."""
        self.counts.let_go(who)

    def _look(self, connections: int) -> None:
        is_high = connections * 100 > self._limit.connections * self._above
        if is_high is not self.is_high:
            self.is_high = is_high
            self._switched(is_high)

    @property
    def memory_left(self) -> int:
        return self._limit.memory - self.memory

    def reserve(self, octets: int) -> bool:
        """Count `octets` of a message in memory, if there is room."""
        return self._take(Gauge.MEMORY, octets, self._limit.memory)

    def free(self, octets: int) -> None:
        self.counts.add(Gauge.MEMORY, -octets)

    def lie_down(self) -> bool:
        """Count one more session that is held back on purpose, if there is room."""
        return self._take(Gauge.SLEEPING, 1, self._max_sleeping)

    def get_up(self) -> None:
        self.counts.add(Gauge.SLEEPING, -1)

    def _take(self, gauge: Gauge, number: int, most: int) -> bool:
        if self.counts.add(gauge, number) > most:
            self.counts.add(gauge, -number)
            return False
        return True


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
