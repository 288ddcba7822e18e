"""Time as a parameter: no module reads the clock by itself."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since the Unix epoch, for what people and other hosts read."""

    def monotonic(self) -> float:
        """Seconds that never go back, for deadlines."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # No methods of our own around them: each is asked a dozen times a message.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
