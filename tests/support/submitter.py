"""A client that sends many messages, each again and again until it reads 250, and keeps a book of every try.

Every try has an id and a content of its own: when the connection is cut behind the final dot nobody knows
whether that try was taken, and the ledger can still tell it from the next one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

from tests.support.hostile_hop import FIRST_FIELD, digest
from tests.support.ledger import Submission

PATIENCE = 60.0  # seconds for one reply
_LINE = b"The quick brown fox jumps over the lazy dog, %06d times.\r\n"
_TEXT = b"".join(
    {0: b".%06d begins with a dot\r\n", 1: "%06d caf\u00e9\r\n".encode()}.get(number % 17, _LINE) % number
    for number in range(1400)
)


class Refused(Exception):
    """A 5xx, which breaks promise 4: nothing here deserves one."""


class Submitter:
    """gate: a permit for each new message; None: as fast as it goes. recipients, size: at most, of each message.

    prefix: of the ids. pause: seconds before a relay that is not there, or has no room, is asked again.
    """

    def __init__(
        self,
        port: int,
        *,
        seed: int = 0,
        sessions: int = 20,
        recipients: int = 3,
        size: int = 60_000,
        gate: asyncio.Semaphore | None = None,
        prefix: str = "s",
        pause: float = 0.02,
    ) -> None:
        self._port, self._sessions, self._gate, self._prefix = port, sessions, gate, prefix
        self._recipients, self._size, self._pause = recipients, size, pause
        self._random = random.Random(seed)
        self.tries: list[Submission] = []
        self.replies: Counter[str] = Counter()  # codes behind the final dot and before it; "" where there was none
        self.seconds: list[float] = []  # from the first octet of an acknowledged transaction to its 250
        self.acknowledged = 0
        self._once = 0

    async def run(self, messages: Iterable[int]) -> None:
        """Until each has its 250. Raises Refused (in a group) when one gets a 5xx."""
        numbers = iter(messages)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._sessions):
                group.create_task(self._work(numbers))

    async def once(self, messages: int) -> Counter[str]:
        """One try for each, one after the other; the replies. Raises Refused for a 5xx."""
        before = Counter(self.replies)
        for _ in range(messages):
            connection = await self._connect()
            self._once += 1
            if await self._try(connection, f"{self._prefix}o{self._once}"):
                await connection.quit()
            connection.close()
        return self.replies - before

    async def _work(self, numbers: Iterator[int]) -> None:
        connection: _Connection | None = None
        left = 0
        try:
            for number in numbers:
                if self._gate is not None:
                    await self._gate.acquire()
                for attempt in range(10**6):
                    if connection is None:
                        connection, left = await self._connect(), self._random.randint(1, 20)
                    reply = await self._try(connection, f"{self._prefix}{number}x{attempt}")
                    left -= 1
                    if not reply or left == 0:
                        if reply:
                            await connection.quit()
                        connection.close()
                        connection = None
                    if reply.startswith("250"):
                        break
                    await asyncio.sleep(self._pause)
        finally:
            if connection is not None:
                connection.close()

    async def _connect(self) -> _Connection:
        while True:
            said = ""
            with suppress(OSError):
                connection = _Connection(*await asyncio.open_connection("127.0.0.1", self._port))
                with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                    said = await connection.reply()
                    if said.startswith("220"):
                        connection.send(b"EHLO client.test\r\n")
                        said = await connection.reply()
                if said.startswith("250"):
                    return connection
                connection.close()
                self.replies["" if said.startswith("220") else said[:3]] += 1
            await asyncio.sleep(self._pause)

    async def _try(self, connection: _Connection, id: str) -> str:
        """One transaction, pipelined; the reply that decides over it, "" when the connection is gone."""
        sender = f"{id}@here.test"
        recipients = tuple(f"{id}-{number}@there.test" for number in range(self._random.randint(1, self._recipients)))
        content = self._content(id, sender)
        began, reply = time.monotonic(), ""
        try:
            connection.send(f"MAIL FROM:<{sender}> BODY=8BITMIME\r\n".encode())
            connection.send(b"".join(f"RCPT TO:<{one}>\r\n".encode() for one in recipients) + b"DATA\r\n")
            first, *rcpts, data = [await connection.reply() for _ in range(len(recipients) + 2)]
            reply = next((one for one in (first, *rcpts, data) if one[:1] not in "23"), "")
            recipients = tuple(one for one, said in zip(recipients, rcpts, strict=True) if said.startswith("250"))
            if data.startswith("354"):
                connection.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
                reply = await connection.reply()
            elif not reply.startswith("421"):
                connection.send(b"RSET\r\n")
                await connection.reply()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            reply = ""
        is_acknowledged = reply.startswith("250")
        self.tries.append(Submission(id, recipients, digest(content), is_acknowledged))
        self.replies[reply[:3]] += 1
        if is_acknowledged:
            self.acknowledged += 1
            self.seconds.append(time.monotonic() - began)
        if reply.startswith("5"):
            raise Refused(f"{id}: {reply}")
        return "" if reply.startswith("421") else reply

    def _content(self, id: str, sender: str) -> bytes:
        length = self._random.randint(min(1000, self._size), self._size)
        header = (
            FIRST_FIELD
            + f"{id}\r\nFrom: {sender}\r\nTo: undisclosed-recipients:;\r\nSubject: {id}\r\n"
            f"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{id}@client.test>\r\nMIME-Version: 1.0\r\n"
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode()
        )
        start = _TEXT.find(b"\r\n", self._random.randrange(1000)) + 2
        return header + _TEXT[start : start + length].rpartition(b"\r\n")[0] + b"\r\n"


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, octets: bytes) -> None:
        self._writer.write(octets)

    async def reply(self) -> str:
        """The last line of the next one. Raises OSError, TimeoutError, IncompleteReadError."""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await self._reader.readuntil(b"\r\n")
                if line[3:4] != b"-":
                    return line[:-2].decode()

    async def quit(self) -> None:
        self.send(b"QUIT\r\n")
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await self.reply()

    def close(self) -> None:
        self._writer.transport.abort()
