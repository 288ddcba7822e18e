"""The newest of something, each for a time: what is remembered about strangers stays bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from relay.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """lifetime: seconds that each stays. most: beyond so many the oldest go."""

    def __init__(self, clock: Clock, lifetime: float, most: int) -> None:
        self._clock, self._lifetime, self._most = clock, lifetime, most
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: K, value: V) -> None:
        now = self._clock.monotonic()
        self._kept.pop(key, None)
        self._kept[key] = now + self._lifetime, value
        while len(self._kept) > self._most or next(iter(self._kept.values()))[0] <= now:
            self._kept.popitem(last=False)

    def get(self, key: K) -> V | None:
        until, value = self._kept.get(key, (0.0, None))
        return value if until > self._clock.monotonic() else None

    def pop(self, key: K) -> V | None:
        until, value = self._kept.pop(key, (0.0, None))
        return value if until > self._clock.monotonic() else None
