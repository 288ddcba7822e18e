"""What `limits.py` counts: of one process alone, or of all workers together."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network
from typing import Protocol

from relay.shared import Gauge, Memory

Holder = IPv4Address | IPv6Network  # who counts as one client


class Counts(Protocol):
    def add(self, gauge: Gauge, change: int) -> int:
        """Change what this process has; returned is the total."""
        ...

    def total(self, gauge: Gauge) -> int: ...

    def hold(self, who: Holder, most: int) -> bool:
        """Count one more connection of a client, unless he has `most`."""
        ...

    def let_go(self, who: Holder) -> None:
        """The connection that `hold` counted has gone."""
        ...


class OwnCounts:
    """held: connections by client; nothing of those that have gone."""

    def __init__(self) -> None:
        self._totals = [0] * len(Gauge)
        self.held: dict[Holder, int] = {}

    def add(self, gauge: Gauge, change: int) -> int:
        self._totals[gauge] += change
        return self._totals[gauge]

    def total(self, gauge: Gauge) -> int:
        return self._totals[gauge]

    def hold(self, who: Holder, most: int) -> bool:
        held = self.held.get(who, 0)
        if held >= most:
            return False
        self.held[who] = held + 1
        return True

    def let_go(self, who: Holder) -> None:
        left = self.held[who] - 1
        if left:
            self.held[who] = left
        else:
            del self.held[who]


class SharedCounts:
    """number: of this worker. Its own counts it reads back at once, the others' a moment later."""

    def __init__(self, memory: Memory, number: int) -> None:
        self._memory, self._number = memory, number
        self._nothing = (0,) * memory.count

    def add(self, gauge: Gauge, change: int) -> int:
        return self._memory.add(self._number, gauge, change)

    def total(self, gauge: Gauge) -> int:
        return self._memory.total(gauge)

    def hold(self, who: Holder, most: int) -> bool:
        key = str(who)
        with self._memory.addresses as table:
            held = table.get(key) or self._nothing
            if sum(held) >= most:
                return False
            table.put(key, *self._changed(held, 1))
        return True

    def let_go(self, who: Holder) -> None:
        key = str(who)
        with self._memory.addresses as table:
            held = table.get(key)
            if held is not None and held[self._number - 1]:  # not forgotten meanwhile
                table.put(key, *self._changed(held, -1))

    def _changed(self, held: tuple[int, ...], change: int) -> tuple[int, ...]:
        own = self._number - 1
        return *held[:own], held[own] + change, *held[own + 1 :]
