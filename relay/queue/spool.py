"""How much of the queue's mail may be in memory at once, in octets; whoever finds no room waits in turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Spool:
    """A message larger than all the room there is goes alone."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        return self._taken

    def try_take(self, size: int) -> bool:
        """Room for `size` octets, at once or not at all."""
        if self._waiting or not self._has_room(size):
            return False
        self._taken += size
        return True

    async def take(self, size: int) -> None:
        if self.try_take(size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given at that very moment
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Room that was taken is free again."""
        self._taken -= size
        while self._waiting and (self._waiting[0][1].done() or self._has_room(self._waiting[0][0])):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._taken += size
                turn.set_result(None)

    def _has_room(self, size: int) -> bool:
        return not self._taken or self._taken + size <= self._room
