"""INTERNALS (`relay/queue/__init__.py`), row by row: a process is killed there, and what is left is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.fact import Fact
from relay.queue.entry import Selection
from relay.queue.states import State
from relay.queue.store import Store
from tests.support.crash_point import FILE, TAKEN, Hop, make_worker
from tests.support.storing import CRASHES, FIRST_RETRY, make_entry, open_store

MAKE_DUE = "UPDATE recipient SET due = 0 WHERE crashes > 0"


@dataclass(frozen=True)
class Left:
    """By a process that was killed. told: ids that its clients heard 250 for. states: as the file has them."""

    folder: Path
    told: tuple[str, ...]
    reports: tuple[str, ...]
    states: dict[str, tuple[str, ...]]
    crashes: tuple[int, ...]

    @property
    def taken(self) -> list[str]:
        """The ids that the hop took, one for each copy."""
        file = self.folder / TAKEN
        return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def kill(point: str, folder: Path) -> Left:
    command = [sys.executable, "-m", "tests.support.crash_point", point, folder]
    ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    said = [line.split() for line in ended.stdout.decode().splitlines()]
    states: dict[str, tuple[str, ...]] = {}
    crashes: tuple[int, ...] = ()
    with contextlib.closing(sqlite3.connect(folder / FILE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for id, state, crashed in database.execute("SELECT message, state, crashes FROM recipient ORDER BY message"):
            states[id] = (*states.get(id, ()), state)
            crashes += (crashed,)
        for table, column in (("message", "id"), ("content", "message")):
            assert {id for (id,) in database.execute(f"SELECT {column} FROM {table}")} == set(states)
    told = tuple(id for word, id in said if word == "250")
    return Left(folder, told, tuple(id for word, id in said if word == "report"), states, crashes)


@asynccontextmanager
async def next_start(left: Left, facts: list[Fact] | None = None) -> AsyncIterator[Store]:
    async with open_store(left.folder / FILE, owner="the next one", facts=facts) as store:
        yield store


async def delivered_by_the_next(left: Left) -> list[Fact]:
    """A relay starts again, and delivers until nothing is left."""
    facts: list[Fact] = []
    async with next_start(left, facts) as store:
        worker = make_worker(store, Hop(left.folder / TAKEN))
        await worker.start()
        while await store.select(Selection()):
            await asyncio.sleep(0.01)
        await worker.drain(1)
    return [fact for fact in facts if fact.event == "queue.lapsed"]


def doubts(facts: list[Fact]) -> list[tuple[str, object, object]]:
    return [(fact.id, fact.values["may_duplicate"], fact.values["crashes"]) for fact in facts]


@pytest.mark.parametrize("point", ["before the commit of a new message", "amid the rows of a new message"])
def test_before_the_commit_of_a_new_message(tmp_path: Path, point: str) -> None:
    left = kill(point, tmp_path)
    assert left.told == ()
    assert left.states == {}


async def test_behind_it_before_the_250(tmp_path: Path) -> None:
    left = kill("behind its commit, before the 250", tmp_path)
    assert left.told == ()
    ((id, states),) = left.states.items()
    assert states == ("waiting",)
    assert await delivered_by_the_next(left) == []  # and its client may send it again
    assert left.taken == [id]


async def test_behind_it_with_the_first_attempt_written(tmp_path: Path) -> None:
    left = kill("behind the commit of a message that was claimed at birth", tmp_path)
    ((id, states),) = left.states.items()
    assert (states, left.crashes) == (("active",), (1,))
    assert doubts(await delivered_by_the_next(left)) == [(id, "crash", 1)]
    assert left.taken == [id]


async def test_waiting(tmp_path: Path) -> None:
    left = kill("waiting", tmp_path)
    assert left.states == {left.told[0]: ("waiting",)}
    assert left.crashes == (0,)
    assert await delivered_by_the_next(left) == []
    assert left.taken == [*left.told]


async def test_active_before_our_final_dot(tmp_path: Path) -> None:
    left = kill("active, before our final dot", tmp_path)
    ((id, states),) = left.states.items()
    assert (states, left.crashes) == (("active",), (1,))
    assert left.taken == []
    assert doubts(await delivered_by_the_next(left)) == [(id, "crash", 1)]
    assert left.taken == [id]


@pytest.mark.parametrize(
    "point",
    [
        "active, behind our final dot",
        "after the hop's 250, before the commit",
        "after the hop's 250, amid the commit",
    ],
)
async def test_active_and_the_hop_has_it(tmp_path: Path, point: str) -> None:
    """The one duplicate that nobody can avoid: it is told."""
    left = kill(point, tmp_path)
    ((id, states),) = left.states.items()
    assert (states, left.crashes) == (("active",), (1,))
    assert left.taken == [id]
    assert doubts(await delivered_by_the_next(left)) == [(id, "crash", 1)]
    assert left.taken == [id, id]


def test_behind_the_commit_of_its_outcome(tmp_path: Path) -> None:
    left = kill("after the hop's 250 and its commit", tmp_path)
    assert left.states == {}
    assert left.taken == [*left.told]


async def test_active_crash_after_crash(tmp_path: Path) -> None:
    """A message that ends every relay that tries it waits, then is held; another one is not held up."""
    for crash in range(1, CRASHES):
        left = kill("taking over", tmp_path)
        poison = min(left.states)
        assert left.states[poison] == ("active",)
        async with next_start(left) as store:
            found = await store.find(poison)
            assert found is not None
            (recipient,) = found.recipients
            assert (recipient.state, recipient.crashes) == (State.WAITING, crash)
            due = await store.due_in(["next"])
            wait = recipient.due - found.arrived
            assert wait < 60 if crash == 1 else FIRST_RETRY <= wait < FIRST_RETRY + 60
            assert due is not None
            await store._engine.transact([lambda connection, now: connection.exec_driver_sql(MAKE_DUE).rowcount])
    left = kill("taking over", tmp_path)
    async with next_start(left) as store:
        (held,) = await store.select(Selection(state=State.HELD))
        assert held.envelope.id == poison
        assert held.recipients[0].cause == "poison"
        assert len(await store.select(Selection(state=State.WAITING))) == CRASHES - 1


@pytest.mark.parametrize("point", ["report, before the report's commit", "report, amid it"])
async def test_report_before_the_reports_commit(tmp_path: Path, point: str) -> None:
    left = kill(point, tmp_path)
    assert left.states == {left.told[0]: ("report",)}
    async with next_start(left) as store:
        (queued,) = await store.reportable(10)  # and the reporter builds it again
        assert await store.report(queued, make_entry("ann@example.org", sender=None))
        assert len(await store.select(Selection())) == 1


async def test_report_behind_it(tmp_path: Path) -> None:
    left = kill("report, behind it", tmp_path)
    assert left.states == {left.reports[0]: ("waiting",)}
    async with next_start(left) as store:
        assert await store.reportable(10) == ()
        assert await store.find(left.told[0]) is None


async def test_held(tmp_path: Path) -> None:
    left = kill("held", tmp_path)
    assert left.states == {left.told[0]: ("held",)}
    async with next_start(left) as store:
        (queued,) = await store.select(Selection())
        assert (queued.recipients[0].state, queued.recipients[0].cause) == (State.HELD, "an operator")
        assert await store.due_in(["next"]) is None


def test_every_row_has_a_test() -> None:
    """The table names what is killed; so do the tests here."""
    import relay.queue

    assert relay.queue.__doc__
    table = relay.queue.__doc__.split("WHAT A CRASH LEAVES")[1].split("WHO HOLDS WHAT")[0]
    rows = [line[4:45].strip() for line in table.splitlines() if line.startswith("    ") and line[4:45].strip()]
    assert rows == [
        "killed",
        *("before the commit of a new message", "behind it, before the 250", "WAITING"),
        *("ACTIVE, before our final dot", "ACTIVE, behind our final dot", "after the hop's 250, before the commit"),
        *("REPORT, before the report's commit", "behind it", "HELD", "amid a transaction"),
    ]
