"""Pure: how many attempts may run at one next hop at once, and when a hop that is down is asked again.

A destination has a window, as a TCP sender has one: it opens by one with each delivery, up to the connections that the
hop may have, and each failure that is about the hop and not about the mail halves it. When nothing is left of it
the hop is down. Then one attempt, the probe, is made after the delay that the schedule has for a first
failure; if it fails too, the next after the delay for a second. Whatever shows that the hop answers ends that.

So a burst for a hop of which nothing is known costs it two connections, and a thousand messages for one that is down
cost it one connection a probe. Destinations take turns: a long queue at one does not delay another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Generic, TypeVar

from relay.outcome import Outcome, Result

START = 2  # attempts at once at a hop of which nothing is known
CONNECTIONS = 20  # to a hop for which no limit is set: our own store
NEW = 2000  # messages of one hop that wait in memory, where they were born; a few kilobytes each, besides their octets
AT_ONCE = 250  # attempts at all hops together: each has a socket, and its message in memory

T = TypeVar("T")


class Change(StrEnum):
    DOWN = "down"
    UP = "up"


class Destination(Generic[T]):
    """One next hop. Times are monotonic.

    ready: what is claimed for it and waits for its turn. new: the same, never tried and still in memory;
    coming: how much more of that is being committed. The two take turns. active: attempts that run.
    retry_at: when it is probed; None while it is up. failures: how often in a row it was found down.
    said: the last outcome that was about the hop.
    """

    __slots__ = ("_is_new_next", "_probe", "active", "coming", "failures", "new", "ready", "retry_at", "said", "window")

    def __init__(self) -> None:
        self.ready: deque[T] = deque()
        self.new: deque[T] = deque()
        self._is_new_next = True
        self.window = START
        self.active = self.coming = self.failures = 0
        self.retry_at: float | None = None
        self.said: Outcome | None = None
        self._probe: T | None = None

    @property
    def is_down(self) -> bool:
        return self.retry_at is not None

    def room(self, now: float, connections: int) -> int:
        """How many more attempts may begin."""
        if self.retry_at is not None:
            return int(self._probe is None and now >= self.retry_at)
        return max(0, min(self.window, connections) - self.active)

    def wants(self, now: float, connections: int) -> int:
        """How many to claim, so that one is at hand whenever an attempt ends."""
        if self.retry_at is not None:
            return 0 if self.has_ready else self.room(now, connections)
        window = min(self.window, connections)
        return window if len(self.ready) < window else 0

    @property
    def takes_new(self) -> bool:
        """Whether a new message may stay in memory, to be sent from there."""
        return not self.is_down and len(self.new) + self.coming < NEW

    def may_wait(self, now: float, connections: int) -> bool:
        """Whether what was claimed may wait here still: the hop may have gone down meanwhile."""
        return not self.is_down or (not self.has_ready and self.room(now, connections) > 0)

    @property
    def has_ready(self) -> bool:
        return bool(self.ready or self.new)

    def begin(self) -> T:
        """The next that is ready; its attempt begins."""
        queue = self.new if self.new and (self._is_new_next or not self.ready) else self.ready
        self._is_new_next = queue is self.ready
        item = queue.popleft()
        self.active += 1
        if self.is_down:
            self._probe = item
        return item

    def leave(self, item: T) -> bool:
        """An attempt ended, and nothing was learnt of the hop. Whether it was the probe."""
        self.active -= 1
        if self._probe is not item:
            return False
        self._probe = None
        return True

    def end(
        self, item: T, outcomes: Sequence[Outcome], now: float, connections: int, delay: Callable[[int], float]
    ) -> Change | None:
        """An attempt ended. delay: seconds to the next probe, by how often in a row the hop was found down."""
        was_probe = self.leave(item)
        trouble = next((outcome for outcome in outcomes if outcome.is_about_hop), None)
        if trouble is None:
            came_up = self.is_down
            if came_up:
                self.forget()
            elif self.window < connections and any(one.result is Result.DELIVERED for one in outcomes):
                self.window += 1
            return Change.UP if came_up else None
        self.said = trouble
        if self.is_down and not was_probe:
            return None  # it had begun before the hop was known to be down, and tells nothing new
        self.window //= 2
        if self.window:
            return None
        self.failures += 1
        self.retry_at = now + delay(self.failures)
        return Change.DOWN

    def forget(self) -> None:
        """Begin as if nothing were known of the hop."""
        self.window, self.failures, self.retry_at, self._probe = START, 0, None, None


class Destinations(Generic[T]):
    """All next hops, by name. at_once: attempts that may run at all of them together."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._by_name: dict[str, Destination[T]] = {}
        self._turns: deque[str] = deque()  # whose turn is next stands first

    def __getitem__(self, name: str) -> Destination[T]:
        if name not in self._by_name:
            self._by_name[name] = Destination()
            self._turns.append(name)
        return self._by_name[name]

    @property
    def active(self) -> int:
        return sum(destination.active for destination in self._by_name.values())

    @property
    def new(self) -> int:
        """What waits where it was born, of all hops."""
        return sum(len(destination.new) for destination in self._by_name.values())

    def begin(self, now: float, connections: Mapping[str, int]) -> T | None:
        """Begin the attempt whose turn it is; None if there is no room, or nothing to do."""
        if self.active >= self._at_once:
            return None
        for _ in range(len(self._turns)):
            name = self._turns[0]
            self._turns.rotate(-1)
            destination = self._by_name[name]
            if destination.has_ready and destination.room(now, connections.get(name, CONNECTIONS)):
                return destination.begin()
        return None

    def take_ready(self, name: str | None = None) -> list[T]:
        """What waits for its turn at one hop, or at all of them; it has none any more."""
        taken: list[T] = []
        for one in (name,) if name is not None else tuple(self._by_name):
            for queue in (self[one].ready, self[one].new):
                taken += queue
                queue.clear()
        return taken
