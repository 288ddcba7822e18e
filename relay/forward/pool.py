"""The open connections of one hop: reused, capped, closed when idle; whoever waits is served in turn.

Where the hop was told who the client is (`identify.py`), a connection may be of no use to another client:
all that another can have of it is its slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from relay.clock import Clock
from relay.config.hop import Hop, Identify
from relay.config.models import Timeout
from relay.envelope import Client
from relay.forward.connection import Connection
from relay.forward.identify import is_for
from relay.forward.trouble import Fault, Phase, Trouble


class Pool:
    """A slot is taken from before a connection is opened until its socket is closed.

    open: opens a connection until (monotonic), for the id that asks for it, for a client.
    """

    def __init__(
        self,
        hop: Hop,
        timeout: Timeout,
        clock: Clock,
        open: Callable[[float, str, Client | None], Awaitable[Connection]],
    ) -> None:
        self._hop, self._timeout, self._clock, self._open = hop, timeout, clock, open
        self._is_for_all = hop.identify is Identify.NONE
        self._slots = 0  # taken
        self._idle: deque[tuple[float, Connection]] = deque()  # since when; the freshest at the right
        # For whom; each is given a connection, or None: a slot in which it opens one.
        self._waiting: deque[tuple[Client | None, asyncio.Future[Connection | None]]] = deque()
        self._leaving: set[Connection] = set()  # their sockets are not closed yet
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def connections(self) -> int:
        """Open ones, and those being opened or closed."""
        return self._slots

    def take_idle(self, client: Client | None) -> Connection | None:
        """A connection that is kept and fit for the client's next transaction, unless others wait for their turn."""
        at = 0 if self._waiting else len(self._idle)
        while at:
            at -= 1
            connection = self._idle[at][1]
            if self._is_for_all or is_for(self._hop.identify, connection, client):
                del self._idle[at]
                if connection.is_usable:
                    return connection
                self.drop(connection)
        return None

    async def take(self, until: float, id: str, client: Client | None = None, *, fresh: bool = False) -> Connection:
        """A connection for one transaction; `give` or `drop` it. Raises Trouble.

        client: for whom; None for ourselves. fresh: not one that has been used before.
        """
        connection = None if fresh else self.take_idle(client)
        while connection is None:
            if self._slots < self._hop.connections and not self._waiting:
                self._slots += 1
            else:
                if self._idle:  # of no use here, but its slot is
                    self._leave(self._idle.popleft()[1])
                connection = await self._turn(until, client)
            if connection is None:
                return await self._open_in_slot(until, id, client)
            if fresh:
                self._leave(connection)  # and wait for its slot
                connection = None
        return connection

    def give(self, connection: Connection) -> None:
        """Back after a transaction, for the next one if it is fit for it."""
        if not connection.is_settled:
            self.drop(connection)
        elif self._closing or connection.messages >= self._hop.messages_per_connection:
            self._leave(connection)
        elif not (self._waiting and self._hand_on(connection)):
            self._idle.append((self._clock.monotonic(), connection))
            if self._sweeper is None:
                self._sweep_later()

    def drop(self, connection: Connection) -> None:
        """Back after something odd: closed at once."""
        if not connection.closed.done():
            self._leaving.add(connection)
            connection.abort()

    async def close(self) -> None:
        """Take leave on all idle connections; those in use follow when they are given back."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._idle:
            self._leave(self._idle.popleft()[1])
        while self._leaving:
            await asyncio.wait([connection.closed for connection in self._leaving])

    # --- inside ---

    def _leave(self, connection: Connection) -> None:
        if not connection.closed.done():
            self._leaving.add(connection)
            connection.quit(self._timeout.quit)

    async def _turn(self, until: float, client: Client | None) -> Connection | None:
        """Wait for a connection that another gives back, or (None) for a slot."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Connection | None] = loop.create_future()
        self._waiting.append((client, turn))
        timer = loop.call_later(max(0.0, until - self._clock.monotonic()), _expire, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # given, and not to be lost
                self._pass_on(turn.result())
            raise
        finally:
            timer.cancel()

    def _pass_on(self, given: Connection | None) -> None:
        if given is not None:
            self.give(given)
        else:
            self._free_slot()

    async def _open_in_slot(self, until: float, id: str, client: Client | None) -> Connection:
        try:
            connection = await self._open(until, id, client)
        except BaseException:
            self._free_slot()
            raise
        connection.closed.add_done_callback(lambda _: self._closed(connection))
        return connection

    def _closed(self, connection: Connection) -> None:
        self._leaving.discard(connection)
        for entry in self._idle:
            if entry[1] is connection:
                self._idle.remove(entry)
                break
        self._free_slot()

    def _free_slot(self) -> None:
        self._slots -= 1
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                self._slots += 1
                turn.set_result(None)
                return

    def _hand_on(self, connection: Connection) -> bool:
        while self._waiting:
            client, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif not connection.is_usable:
                self.drop(connection)
                return True
            elif is_for(self._hop.identify, connection, client):
                self._waiting.popleft()
                turn.set_result(connection)
                return True
            else:  # its slot goes to who is first in turn, once it is closed
                self._leave(connection)
                return True
        return False

    def _sweep_later(self) -> None:
        if self._idle:
            left = self._idle[0][0] + self._hop.idle - self._clock.monotonic()
            self._sweeper = asyncio.get_running_loop().call_later(max(0.01, left), self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        overdue = self._clock.monotonic() - self._hop.idle
        while self._idle and self._idle[0][0] <= overdue:
            self._leave(self._idle.popleft()[1])
        self._sweep_later()


def _expire(turn: asyncio.Future[Connection | None]) -> None:
    if not turn.done():
        turn.set_exception(Trouble(Phase.WAIT, Fault.SILENT, "all connections to the hop are busy"))
