"""Facts on their way to those who count them and write them down, behind the replies that are due.

Most facts happen while a client or a next hop waits for what comes after them. So a fact is taken with its time,
and told in the loop's next turn; what one turn brought is told at once, and the log writes it in one piece.
Whatever ends a process in the middle of a turn costs the log that turn's lines, also of a message that it was at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from relay.clock import Clock
from relay.fact import Fact, Recorded


class Facts:
    """tell: is given all facts in the order in which they were recorded."""

    def __init__(self, clock: Clock, tell: Callable[[Sequence[Recorded]], None]) -> None:
        self._clock, self._hear = clock, tell
        self._waiting: list[Recorded] = []

    def record(self, fact: Fact) -> None:
        """Where no loop runs nothing waits."""
        recorded = self._clock.time(), fact
        if not self._waiting:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self._hear((recorded,))
                return
            loop.call_soon(self.tell)
        self._waiting.append(recorded)

    def tell(self) -> None:
        """Do not wait for the next turn."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._hear(waiting)
