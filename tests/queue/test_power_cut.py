"""R4: the queue after a power cut, at any of some hundred moments: whole, and with all that 250 was said to.

The store, its engine and its SQL are the real ones; the disk under SQLite is a recorder, and the cuts are replayed.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.message import CHUNK
from relay.queue.entry import Selection
from relay.queue.sqlite import SqliteEngine, _raw, _Side
from relay.queue.states import Move
from tests.support.power import Event, Recorder, Said, disk_after, unique_name
from tests.support.storing import HEADER, each, make_entry, open_store, soon

FILE = "queue.db"
CUTS = 300
SIZES = (0, 3_000, 12_000, CHUNK + 1)


@dataclass
class Run:
    """A session on the recorded disk. size: octets of each message."""

    events: list[Event]
    size: dict[str, int] = field(default_factory=dict)


async def record(path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str = "") -> Run:
    """Sessions that keep mail, a worker that delivers most of it; checkpoints every few pages."""
    recorder = Recorder(unique_name())
    run = Run(recorder.events)
    monkeypatch.setattr(_Side, "_open", lambda side: recorder.connect(path))
    engine = SqliteEngine(path, SystemClock())
    async with open_store(path, engine=engine, is_supervisor=False) as store:
        settings = ["PRAGMA wal_autocheckpoint = 60"] + ([f"PRAGMA synchronous = {synchronous}"] if synchronous else [])
        await engine._writer.run(lambda connection: [_raw(connection).execute(one) for one in settings] and None)
        chance = random.Random(4)

        async def session() -> None:
            for _ in range(6):
                size = chance.choice(SIZES)
                entry = make_entry("a@x", "b@x", content=HEADER + b"x" * size)
                run.size[entry.envelope.id] = entry.message.size
                deliveries = await store.keep(entry, soon(), claim={"next"} if chance.random() < 0.7 else ())
                run.events.append(Said(f"kept {entry.envelope.id}"))
                for delivery in deliveries:
                    run.events.append(Said(f"settling {entry.envelope.id}"))
                    await store.settle(delivery, each(delivery, Move.DELIVERED))
                    run.events.append(Said(f"done {entry.envelope.id}"))

        await asyncio.gather(*(session() for _ in range(8)))
    return run


def lost_in(run: Run, folder: Path, cuts: int, seed: int) -> list[str]:
    """What is wrong after each of `cuts` power cuts."""
    chance, wrong = random.Random(seed), []
    for number in range(cuts):
        where = folder / str(number)
        where.mkdir()
        events = run.events[: chance.randrange(len(run.events) // 20, len(run.events) + 1)]
        disk_after(events, chance, where)
        said: dict[str, set[str]] = {"kept": set(), "settling": set(), "done": set()}
        for event in events:
            if isinstance(event, Said):
                word, id = event.what.split()
                said[word].add(id)
        wrong += [f"cut {number} at {len(events)}: {one}" for one in _wrong(where / FILE, said, run.size)]
        shutil.rmtree(where)
    return wrong


def _wrong(path: Path, said: dict[str, set[str]], size: dict[str, int]) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return ["integrity"]
        messages = dict(database.execute("SELECT id, size FROM message"))
        recipients = dict(database.execute("SELECT message, count(*) FROM recipient GROUP BY message"))
        contents = dict(database.execute("SELECT message, sum(length(octets)) FROM content GROUP BY message"))
    wrong = [f"{id} is lost" for id in said["kept"] - said["settling"] - messages.keys()]
    wrong += [f"{id} is there again" for id in said["done"] & messages.keys()]
    wrong += [f"{id} is half there" for id in recipients.keys() ^ messages.keys() | contents.keys() ^ messages.keys()]
    wrong += [f"{id} is incomplete" for id in messages if recipients[id] != 2 or contents[id] != size[id]]
    return wrong


async def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await record(tmp_path / FILE, monkeypatch)
    assert sum(isinstance(event, Said) for event in run.events) > 48
    (tmp_path / "cuts").mkdir()
    assert lost_in(run, tmp_path / "cuts", CUTS, seed=1) == []


async def test_with_less_syncing_it_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the cuts above are real ones."""
    run = await record(tmp_path / FILE, monkeypatch, synchronous="NORMAL")
    (tmp_path / "cuts").mkdir()
    assert any("is lost" in one for one in lost_in(run, tmp_path / "cuts", 30, seed=1))


async def test_the_queue_goes_on_after_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        run = await record(tmp_path / FILE, patch)
    (tmp_path / "after").mkdir()
    middle = len(run.events) // 2
    disk_after(run.events[:middle], random.Random(2), tmp_path / "after")
    async with open_store(tmp_path / "after" / FILE, owner="next") as store:
        for queued in await store.select(Selection(), 1000):
            content = await store.content(queued.envelope.id)
            assert content is not None
            assert len(content) == queued.size
        for delivery in await store.claim("next", 1000):
            await store.settle(delivery, each(delivery, Move.DELIVERED))
        assert await store.select(Selection()) == ()
