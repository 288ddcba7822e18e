"""The wire between a relay and its PostgreSQL server, cut where a transaction hurts most."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Self


class Cut(StrEnum):
    BEFORE = "before"  # the server never sees the COMMIT
    BEHIND = "behind"  # the server has committed, and nobody hears of it


class Wire:
    """Carries what comes to `port` on to the server's port. cut: where the next COMMIT ends its connection."""

    def __init__(self, server: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self.cut: Cut | None = None
        self._server, self._host, self._port = server, host, port
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self._listener.sockets[0].getsockname()[1])

    def through(self, url: str) -> str:
        """The server's url, with this wire in between."""
        return url.replace(f":{self._server}/", f":{self.port}/")

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._carry, self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server)
        answers = asyncio.create_task(self._answers(server_reader, writer))
        try:
            while octets := await reader.read(65536):
                if self.cut is not None and b"COMMIT;" in octets:
                    answers.cancel()
                    await asyncio.wait([answers])
                    if self.cut is Cut.BEHIND:
                        server_writer.write(octets)
                        await server_reader.read(65536)
                    break
                server_writer.write(octets)
        except ConnectionError:
            pass
        finally:
            answers.cancel()
            writer.close()
            server_writer.close()
            self._tasks.discard(task)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(65536):
            writer.write(octets)
        writer.close()
