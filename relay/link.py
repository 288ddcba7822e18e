"""Messages between the supervisor and one worker, both ways over a socketpair: told, or asked and answered.

TRUSTS     the other end: this program, as the same user, one started by the other. So messages are pickled.
FAILS      LinkLost where no answer can come any more; ConfigError where the answer is one.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, cast

from relay.errors import ConfigError, RelayError

_LENGTH = struct.Struct("!I")
_TELL, _ASK, _ANSWER, _REFUSE, _FAIL = range(5)


class LinkLost(RelayError):
    """The other end has gone, or made a mistake (then its traceback is the text)."""


class Link(asyncio.Protocol):
    """answer: what the other end asks; raises ConfigError. hear: what it tells, in order. lost: it has gone."""

    def __init__(
        self, answer: Callable[[Any], Awaitable[Any]], hear: Callable[[Any], None], lost: Callable[[], None]
    ) -> None:
        self._answer, self._hear, self._lost = answer, hear, lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, connection: socket.socket) -> None:
        """connection: our end, which is the link's from now on."""
        connection.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=connection)

    def tell(self, message: object) -> None:
        """Say it, if anybody listens."""
        self._send(_TELL, 0, message)

    async def ask(self, message: object, seconds: float) -> Any:
        """The answer. Raises LinkLost, ConfigError, and TimeoutError after so many seconds."""
        if self._transport is None:
            raise LinkLost("it has gone")
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(_ASK, number, message)
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._asked[number]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            kind, number, message = pickle.loads(memoryview(received)[_LENGTH.size : end])  # noqa: S301 (TRUSTS)
            del received[:end]
            self._take(kind, number, message)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for future in self._asked.values():
            if not future.done():
                future.set_exception(LinkLost("it has gone"))
        for task in self._tasks:
            task.cancel()
        self._lost()

    def _take(self, kind: int, number: int, message: Any) -> None:
        if kind == _TELL:
            self._hear(message)
        elif kind == _ASK:
            task = asyncio.create_task(self._reply(number, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (future := self._asked.get(number)) is not None and not future.done():
            if kind == _ANSWER:
                future.set_result(message)
            else:
                future.set_exception(ConfigError(*message) if kind == _REFUSE else LinkLost(message))

    async def _reply(self, number: int, message: Any) -> None:
        try:
            kind, answer = _ANSWER, await self._answer(message)
        except ConfigError as error:
            kind, answer = _REFUSE, error.problems
        except Exception as error:
            kind, answer = _FAIL, "".join(traceback.format_exception(error))
        self._send(kind, number, answer)

    def _send(self, kind: int, number: int, message: object) -> None:
        if self._transport is not None:
            octets = pickle.dumps((kind, number, message))
            self._transport.write(_LENGTH.pack(len(octets)) + octets)
