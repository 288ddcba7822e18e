"""The newest of something, each for a time: what is remembered about strangers stays bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from relay.clock import Clock
from relay.telling import Telling

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """lifetime: seconds that each stays. most: beyond so many the oldest go.

    telling, topic: where other workers keep the same; what one puts or takes, all do.
    """

    def __init__(
        self, clock: Clock, lifetime: float, most: int, telling: Telling | None = None, topic: str = ""
    ) -> None:
        self._clock, self._lifetime, self._most = clock, lifetime, most
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._say = (telling or Telling()).join(topic, self._hear)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: K, value: V) -> None:
        until = self._clock.monotonic() + self._lifetime
        self._keep(key, until, value)
        self._say(key, until, value)

    def get(self, key: K) -> V | None:
        until, value = self._kept.get(key, (0.0, None))
        return value if until > self._clock.monotonic() else None

    def pop(self, key: K) -> V | None:
        until, value = self._kept.pop(key, (0.0, None))
        if value is None or until <= self._clock.monotonic():
            return None
        self._say(key, 0.0, None)
        return value

    def _keep(self, key: K, until: float, value: V) -> None:
        now = self._clock.monotonic()
        self._kept.pop(key, None)
        self._kept[key] = until, value
        while len(self._kept) > self._most or (self._kept and next(iter(self._kept.values()))[0] <= now):
            self._kept.popitem(last=False)

    def _hear(self, key: K, until: float, value: V | None) -> None:
        """Another worker has put it, or taken it."""
        if value is None:
            self._kept.pop(key, None)
        else:
            self._keep(key, until, value)
