"""A worker: listeners and deliveries in a process of their own, at the supervisor's orders (`supervisor.py`).

`python -m relay.worker N`: N is the descriptor of the link to it. When that ends, whatever the reason, so does the
worker, in order.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from prometheus_client.metrics_core import Metric

from relay.allocator import keep_large_blocks_apart, set_aside_what_stays
from relay.app import App, Prepared
from relay.clock import SystemClock
from relay.config.models import Config
from relay.config.share import share
from relay.errors import RelayError
from relay.link import Link
from relay.orders import Abandon, Begin, Commit, Count, Drain, Prepare, Ready
from relay.part import Part
from relay.shared import Memory
from relay.telling import Note, Telling
from relay.watch import logs


class Worker:
    """Does what the supervisor says, until it says Drain, or is gone."""

    def __init__(self) -> None:
        self.link = Link(self._answer, self._hear, self.stop)
        self._telling = Telling()
        self._telling.send = self.link.tell
        self._stopping = asyncio.Event()
        self._number, self._count = 0, 1
        self._app: App | None = None
        self._early: list[Note] | None = []  # what came before there is anybody to hear it
        self._prepared: Prepared | None = None

    async def run(self, connection: socket.socket) -> None:
        await self.link.open(connection)
        await self._stopping.wait()
        await self._abandon()
        if self._app is not None:
            await self._app.stop()
        self.link.close()

    def stop(self) -> None:
        self._stopping.set()

    async def _answer(self, order: Any) -> Ready | list[Metric] | None:
        match order:
            case Begin(config, number, count, memory):
                return await self._begin(config, number, Memory(count, memory))
            case Count():
                return self._began().metrics.families()
            case Prepare(config):
                await self._abandon()  # what the supervisor gave up waiting for
                self._prepared = await self._began().prepare(share(config, self._number, self._count))
            case Commit() if self._prepared is not None:
                prepared, self._prepared = self._prepared, None
                await self._began().commit(prepared)
                set_aside_what_stays()
                self._configure(prepared.config)
            case Abandon():
                await self._abandon()
        return None

    async def _begin(self, config: Config, number: int, memory: Memory) -> Ready:
        self._number, self._count = number, memory.count
        self._configure(config)
        part = Part(True, False, number, memory.count, self._telling, memory)
        app = App(share(config, number, memory.count), SystemClock(), logs.write, part)
        early, self._early = self._early or [], None
        for note in early:
            self._telling.hear(note)
        await app.start()
        set_aside_what_stays()
        self._app = app
        return Ready(app.owner)

    def _began(self) -> App:
        if self._app is None:
            raise RelayError("it has not begun")
        return self._app

    async def _abandon(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self._began().abandon(prepared)

    def _hear(self, message: Any) -> None:
        match message:
            case Note() if self._early is not None:
                self._early.append(message)
            case Note():
                self._telling.hear(message)
            case Drain():
                self.stop()

    def _configure(self, config: Config) -> None:
        logs.configure(config.log.level, config.log.format, worker=self._number)


async def _run(connection: socket.socket) -> None:
    worker, loop = Worker(), asyncio.get_running_loop()
    # Service managers and terminals signal all processes at once: SIGTERM asks for what the supervisor will say too,
    # the others are the supervisor's alone.
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)
    await worker.run(connection)


def main(arguments: Sequence[str]) -> None:
    import uvloop

    keep_large_blocks_apart()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(socket.socket(fileno=int(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
