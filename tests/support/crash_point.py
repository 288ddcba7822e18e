"""A relay's queue in a process of its own that ends by SIGKILL at a named point.

    python -m tests.support.crash_point POINT FOLDER

Messages go in by way of a worker whose one hop writes what it takes to FOLDER/taken. On standard output: `250 ID`
for each message that the client hears is ours.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.address import Address
from relay.clock import SystemClock
from relay.config.queue import Bounce, Queue
from relay.envelope import Envelope
from relay.message import Message
from relay.outcome import Outcome
from relay.queue import operations, reports, statements
from relay.queue.entry import Entry, Selection
from relay.queue.schedule import Schedule
from relay.queue.states import Move, State
from relay.queue.store import Store
from relay.queue.worker import Worker
from tests.support.scripted_hop import ScriptedHop, refused, taken
from tests.support.storing import HEADER, LEASE, make_entry, open_store, soon

FILE, TAKEN = "queue.db", "taken"
SCHEDULE = replace(Schedule.of(Queue(), Bounce()), jitter=0.0)
LARGE = HEADER + (b"." * 62 + b"\r\n") * 400_000  # beyond the page cache: its pages are in the WAL before its commit


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Hop(ScriptedHop):
    """taken: a file, a line for each recipient. dies: before or behind our final dot."""

    def __init__(self, taken_: Path, dies: str = "", **values: Any) -> None:
        super().__init__(**values)
        self._taken, self._dies = taken_, dies

    async def deliver(
        self, envelope: Envelope, message: Message, recipients: Sequence[Address], until: float, **values: Any
    ) -> tuple[Outcome, ...]:
        if self._dies == "before":
            die()
        with self._taken.open("a") as file:
            file.writelines(f"{envelope.id} {one}\n" for one in recipients)
        if self._dies == "behind":
            die()
        return await super().deliver(envelope, message, recipients, until, **values)


def make_worker(store: Store, hop: ScriptedHop) -> Worker:
    return Worker(
        *(store, lambda: {"next": hop}, dict, lambda: SCHEDULE, SystemClock(), lambda fact: None, lambda: 0.5),
        *(64 * 1024**2, LEASE),
    )


def dies_in(module: Any, name: str, *, first: bool) -> None:
    """The function ends the process, before or behind its own work, inside its transaction."""
    original = getattr(module, name)

    def function(*arguments: Any) -> Any:
        if first:
            die()
        original(*arguments)
        die()

    setattr(module, name, function)


def dies_behind_commits(store: Store) -> None:
    transact = store._engine.transact

    async def and_die(work: Any) -> Any:
        await transact(work)
        die()

    store._engine.transact = and_die  # type: ignore[method-assign]


def say_250(entry: Entry) -> None:
    os.write(1, f"250 {entry.envelope.id}\n".encode())


async def keep(store: Store, entry: Entry | None = None) -> Entry:
    entry = entry or make_entry()
    await store.keep(entry, soon())
    say_250(entry)
    return entry


async def deliver(store: Store, hop: Hop) -> None:
    """One message by way of a worker, until something ends the process."""
    worker = make_worker(store, hop)
    await worker.start()
    entry = make_entry()
    await worker.keep(entry, soon())
    say_250(entry)
    await asyncio.sleep(60)


async def report(store: Store) -> None:
    (queued,) = await store.reportable(10)
    bounce = make_entry("ann@example.org", sender=None)
    os.write(1, f"report {bounce.envelope.id}\n".encode())
    await store.report(queued, bounce)


async def run(point: str, folder: Path) -> None:
    async with open_store(folder / FILE, owner=f"process {os.getpid()}") as store:
        taken_ = folder / TAKEN
        match point:
            case "before the commit of a new message":
                dies_in(operations, "keep", first=True)
                await keep(store)
            case "amid the rows of a new message":
                dies_in(operations, "keep", first=False)
                await keep(store, make_entry(content=LARGE))
            case "behind its commit, before the 250":
                dies_behind_commits(store)
                await keep(store)
            case "behind the commit of a message that was claimed at birth":
                dies_behind_commits(store)
                await store.keep(make_entry(), soon(), claim={"next"})
            case "waiting":
                await keep(store)
            case "active, before our final dot":
                await deliver(store, Hop(taken_, "before"))
            case "active, behind our final dot":
                await deliver(store, Hop(taken_, "behind"))
            case "after the hop's 250, before the commit":
                dies_in(operations, "settle", first=True)
                await deliver(store, Hop(taken_, answer=taken))
            case "after the hop's 250, amid the commit":
                dies_in(statements, "forget", first=False)
                operations.forget = statements.forget  # type: ignore[attr-defined]
                await deliver(store, Hop(taken_, answer=taken))
            case "after the hop's 250 and its commit":
                worker = make_worker(store, Hop(taken_, answer=taken))
                await worker.start()
                entry = make_entry()
                await worker.keep(entry, soon())
                say_250(entry)
                while await store.find(entry.envelope.id):
                    await asyncio.sleep(0.01)
            case "report, before the report's commit" | "report, behind it" | "report, amid it":
                worker = make_worker(store, Hop(taken_, answer=refused))
                await worker.start()
                entry = make_entry()
                await worker.keep(entry, soon())
                say_250(entry)
                while not await store.reportable(1):
                    await asyncio.sleep(0.01)
                await worker.drain(5)  # so that no commit but the report's is waited for
                if point == "report, amid it":
                    dies_in(reports, "keep", first=False)
                if point == "report, behind it":
                    dies_behind_commits(store)
                if point != "report, before the report's commit":
                    await report(store)
            case "held":
                entry = await keep(store)
                await store.move(Selection(ids=(entry.envelope.id,), state=State.WAITING), Move.HOLD, "an operator")
            case "taking over":
                await keep(store)
                await store.claim("next", 1)
            case _:
                raise SystemExit(f"no such point: {point}")
        die()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2])))
