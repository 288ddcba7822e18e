"""When new mail goes before deliveries: a burst is taken in first, and sent a moment later.

Clients wait for their 250, and nobody waits for what follows it. So while many messages are being kept at once no
attempt begins, and the processor is theirs. That is over when the burst is, and soon in any case: a crowd that
stays gets no more than the mail that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

CROWD = 10  # messages that are being kept at once
PAUSE = 0.05  # seconds without a crowd end a burst
LONGEST = 2.0  # seconds that attempts wait for a burst


class Burst:
    """ended: hears that attempts may begin."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._coming = 0
        self._is_crowded = False  # since it was last looked
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0  # by the loop's time
        self.is_first = False  # attempts wait

    def begin_message(self) -> None:
        """It is being kept."""
        self._coming += 1
        self._mind()

    def end_message(self) -> None:
        """It is kept, or not."""
        self._mind()
        self._coming -= 1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _mind(self) -> None:
        if self._coming < CROWD:
            return
        self._is_crowded = True
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self.is_first, self._until = True, loop.time() + LONGEST
            self._timer = loop.call_later(PAUSE, self._look)

    def _look(self) -> None:
        loop, was_first, is_on = asyncio.get_running_loop(), self.is_first, self._is_crowded or self._coming >= CROWD
        self._is_crowded = False
        self._timer = loop.call_later(PAUSE, self._look) if is_on else None
        self.is_first = was_first and is_on and loop.time() < self._until
        if was_first and not self.is_first:
            self._ended()
