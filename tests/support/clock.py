"""Clocks that jump when told to."""

import asyncio
import time


class JumpingClock:
    def __init__(self, time: float = 1_790_000_000.0) -> None:
        self.now = time

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def jump(self, seconds: float) -> None:
        self.now += seconds


class TwoClocks:
    """The clock that people read stands still until told; deadlines have real time, and leaps when both are told.

    A sleep is a real one, of a thousandth.
    """

    def __init__(self, time: float = 1_790_000_000.0) -> None:
        self.wall, self._leapt = time, 0.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return time.monotonic() + self._leapt

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self._leapt += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock that people read."""
        self.wall += seconds
