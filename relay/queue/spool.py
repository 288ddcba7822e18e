"""How much of the queue's mail may be in memory at once, in octets; who finds no room waits for it, hop by hop in turn.

A hop that is slow may not fill it with mail that does not move: some of the room stays for the others. And
whichever hop has nothing in it gets its next message in, however large: that goes alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

SHARE = 0.75  # of the room, for one hop
SHARE_OF_NEW = 0.5  # for mail of one hop that is new and may wait; what is read back is about to be sent


class Spool:
    """room: octets."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._taken: Counter[str] = Counter()  # by hop
        self._total = 0
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}

    @property
    def taken(self) -> int:
        return self._total

    @property
    def is_filling(self) -> bool:
        """Half of the room for new mail is taken."""
        return self._total > self._room * SHARE_OF_NEW / 2

    def try_take(self, hop: str, size: int) -> bool:
        """Room for new mail, at once or not at all."""
        if hop in self._waiting or not self._fits(hop, size, SHARE_OF_NEW):
            return False
        self._take(hop, size)
        return True

    async def take(self, hop: str, size: int) -> None:
        """Room for what is to be sent now."""
        if hop not in self._waiting and self._fits(hop, size, SHARE):
            self._take(hop, size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(hop, deque()).append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given at that very moment
                self.give(hop, size)
            raise

    def give(self, hop: str, size: int) -> None:
        """Room that was taken is free again."""
        self._take(hop, -size)
        for waiting in [*self._waiting]:
            self._serve(waiting)

    def _serve(self, hop: str) -> None:
        queue = self._waiting[hop]
        while queue:
            size, turn = queue[0]
            if not turn.done():
                if not self._fits(hop, size, SHARE):
                    return
                self._take(hop, size)
                turn.set_result(None)
            queue.popleft()
        del self._waiting[hop]

    def _fits(self, hop: str, size: int, share: float) -> bool:
        taken = self._taken.get(hop, 0)
        return not taken or (taken + size <= self._room * share and self._total + size <= self._room)

    def _take(self, hop: str, size: int) -> None:
        self._total += size
        self._taken[hop] += size
        if not self._taken[hop]:
            del self._taken[hop]
