"""The file: whose it is, what happens when its disk or another process is in the way, and that all of it heals."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import reply
from relay.clock import SystemClock
from relay.errors import ConfigError
from relay.fact import Fact
from relay.queue import sqlite
from relay.queue.disk import Disk
from relay.queue.engine import NoRoom, NotKept, Operation, Unavailable
from relay.queue.entry import Selection
from relay.queue.sqlite import SqliteEngine
from relay.queue.states import Move
from relay.queue.store import Store
from tests.support.storing import CONTENT, HEADER, each, make_entry, open_store, soon


@pytest.fixture
def facts() -> list[Fact]:
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "queue.db"


async def kept(store: Store, content: bytes = CONTENT) -> str:
    entry = make_entry(content=content)
    await store.keep(entry, soon())
    return entry.envelope.id


async def ids(store: Store) -> list[str]:
    return [one.envelope.id for one in await store.select(Selection(), 1000)]


async def limit_pages(store: Store, pages: int) -> None:
    def limit(connection: sqlite.Connection) -> None:
        sqlite._raw(connection).execute(f"PRAGMA max_page_count = {pages}").fetchall()

    assert isinstance(store._engine, SqliteEngine)
    await store._engine._writer.run(limit)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is in the middle of a transaction."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


# --- the file ------------------------------------------------------------------------------------


async def test_nobody_else_reads_it(path: Path) -> None:
    async with open_store(path) as store:
        await kept(store)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
        names = sorted(one.name for one in path.parent.iterdir())
        assert names == ["queue.db", "queue.db-shm", "queue.db-wal", "queue.reserve"]
    assert sorted(one.name for one in path.parent.iterdir()) == ["queue.db", "queue.reserve"]  # the WAL is folded in


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("CREATE TABLE x (y)", "another program"),
        ("CREATE TABLE alembic_version (version_num TEXT)", "another program"),
    ],
)
async def test_a_file_of_another_program_is_left_alone(path: Path, statement: str, text: str) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(statement)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=text):
        async with open_store(path):
            pass
    assert path.read_bytes() == before


async def test_a_file_of_a_newer_relay_is_left_alone(path: Path) -> None:
    async with open_store(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.commit()
    with pytest.raises(ConfigError, match="newer relay"):
        async with open_store(path):
            pass


@pytest.mark.parametrize("content", [b"no database at all, and long enough to be taken for one" * 100, None])
async def test_what_cannot_be_opened_is_named(path: Path, content: bytes | None) -> None:
    path.parent.mkdir()
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(ConfigError, match=r"queue\.db: the queue cannot be opened"):
        async with open_store(path):
            pass


OPEN = """
import asyncio, sys
from pathlib import Path
from tests.support.storing import open_store

async def main():
    async with open_store(Path(sys.argv[1])):
        print("alembic" in sys.modules)

asyncio.run(main())
"""


def test_alembic_is_loaded_only_for_a_step(path: Path) -> None:
    told = [
        subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, timeout=60, check=True).stdout
        for _ in range(2)
    ]
    assert told == [b"True\n", b"False\n"]


async def test_a_deleted_file_is_made_anew(path: Path) -> None:
    """SQLite would go on writing to the file without a name, and the 250 would be a lie."""
    async with open_store(path) as store:
        await kept(store)
        shutil.rmtree(path.parent)
        id = await kept(store)
        assert await ids(store) == [id]
        with contextlib.closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT id FROM message").fetchall() == [(id,)]


async def test_a_file_in_the_way_of_the_folder_is_451_and_heals(path: Path) -> None:
    async with open_store(path) as store:
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        with pytest.raises(NotKept) as caught:
            await kept(store)
        assert caught.value.reply == reply.INTERNAL
        path.parent.unlink()
        assert [await kept(store)] == await ids(store)


async def test_another_programs_file_in_its_place_is_451(path: Path) -> None:
    async with open_store(path) as store:
        await kept(store)
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE x (y)")
        with pytest.raises(Unavailable, match="another program"):
            await kept(store)
        path.unlink()
        assert [await kept(store)] == await ids(store)


async def test_the_log_stays_short(path: Path) -> None:
    """R30: below 64 MiB, while readers come and go."""
    large = HEADER + b"x" * 1_000_000
    async with open_store(path) as store:
        for _ in range(10):
            await asyncio.gather(*(kept(store, large) for _ in range(12)), *(ids(store) for _ in range(12)))
            for delivery in await store.claim("next", 100):
                await store.settle(delivery, each(delivery, Move.DELIVERED))
        assert path.with_name("queue.db-wal").stat().st_size < 64 * 1024**2


async def test_a_queue_that_was_long_gives_the_disk_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "MUCH", 100)
    async with open_store(path) as store:
        await asyncio.gather(*(kept(store, HEADER + b"x" * 1_000_000) for _ in range(20)))
        await store.move(Selection(), Move.DROP)
        until = time.monotonic() + 20
        while True:
            await store.renew()
            pages = await store._engine.read(lambda connection, now: connection.exec_driver_sql("PRAGMA page_count"))
            if pages.scalar() < 300:
                break
            assert time.monotonic() < until


# --- R6: no room ---------------------------------------------------------------------------------


async def test_a_full_disk_is_452_and_what_is_queued_is_still_delivered(path: Path, facts: list[Fact]) -> None:
    async with open_store(path, facts=facts) as store:
        first = await kept(store)
        await limit_pages(store, 30)
        entry = make_entry(content=HEADER + b"." * 1_000_000)
        with pytest.raises(NoRoom) as caught:
            await store.keep(entry, soon())
        assert str(caught.value.reply).startswith("452 4.3.1 ")
        assert [(fact.event, fact.id, fact.level) for fact in facts if fact.level != "debug"][-1] == (
            ("queue.trouble", entry.envelope.id, "error")
        )
        (delivery,) = await store.claim("next", 10)
        assert delivery.queued.envelope.id == first
        assert await store.settle(delivery, each(delivery, Move.DELIVERED)) == frozenset()
        assert await ids(store) == []
        await limit_pages(store, 1_000_000)
        await store.keep(entry, soon())
        assert await ids(store) == [entry.envelope.id]


async def test_a_message_that_does_not_fit_does_not_hold_up_its_neighbours(path: Path) -> None:
    async with open_store(path) as store:
        await limit_pages(store, 60)
        large = HEADER + b"." * 1_000_000
        results = await asyncio.gather(kept(store), kept(store, large), kept(store), return_exceptions=True)
        assert isinstance(results[1], NoRoom)
        assert await ids(store) == sorted([str(results[0]), str(results[2])])


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from relay.queue.engine import NotKept
from tests.support.storing import HEADER, make_entry, open_store, soon

async def keep(store):
    try:
        await store.keep(make_entry(content=HEADER + b"." * 1_000_000), soon())
    except NotKept as trouble:
        print(trouble.reply)
    else:
        print("kept")

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        await keep(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await keep(store)

asyncio.run(main())
"""


def test_a_limit_on_file_sizes_is_452_and_heals(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, timeout=60)
    assert ended.stdout.decode().splitlines() == [str(reply.DISK_FULL), "kept"], ended.stderr


async def test_a_disk_that_is_nearly_full_is_452_before_anything_is_written(path: Path) -> None:
    disk = Disk(path.parent, 0, 0)
    async with open_store(path, disk=disk) as store:
        first = await kept(store)
        disk._most = 1 << 60
        with pytest.raises(NoRoom, match="nearly full"):
            await kept(store)
        (delivery,) = await store.claim("next", 10)
        assert delivery.queued.envelope.id == first
        assert await store.settle(delivery, each(delivery, Move.DELIVERED)) == frozenset()
        disk._most = 0
        await kept(store)


# --- R7: locked, slow ----------------------------------------------------------------------------


async def test_a_locked_file_is_451_and_heals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.05)
    async with open_store(path) as store:
        with locked(path):
            results = await asyncio.gather(*(kept(store) for _ in range(5)), return_exceptions=True)
            assert {type(one) for one in results} == {Unavailable}
            assert await ids(store) == []  # readers are not held up
        await kept(store)


async def test_a_short_lock_is_waited_for_with_the_loop_running(path: Path) -> None:
    async with open_store(path) as store:
        with locked(path):
            waiting = asyncio.create_task(kept(store))
            lag = 0.0
            for _ in range(30):
                before = time.monotonic()
                await asyncio.sleep(0.01)
                lag = max(lag, time.monotonic() - before - 0.01)
            assert not waiting.done()
        assert [await waiting] == await ids(store)
        assert lag < 1  # whoever waits in the loop waits for 5 s, since the lock is released in it


async def test_a_message_that_waited_too_long_is_not_kept(path: Path) -> None:
    """No row behind a 451: what the client sends again is no second copy."""
    async with open_store(path) as store:
        with locked(path):
            patient = asyncio.create_task(store.keep(make_entry(), soon()))
            late = asyncio.create_task(store.keep(make_entry(), time.monotonic() + 0.05))
            await asyncio.sleep(0.2)
        await patient
        with pytest.raises(Unavailable, match="no time left"):
            await late
        assert len(await ids(store)) == 1


class SlowEngine(SqliteEngine):
    """Half a second for each commit."""

    async def transact(self, operations: list[Operation[object]]) -> list[object]:  # type: ignore[override]
        await asyncio.sleep(0.5)
        return await super().transact(operations)


async def test_a_slow_disk_is_shared_by_all_who_wait(path: Path) -> None:
    facts: list[Fact] = []
    async with open_store(path, engine=SlowEngine(path, SystemClock()), facts=facts) as store:
        began = time.monotonic()
        await asyncio.gather(*(kept(store) for _ in range(100)))
        assert time.monotonic() - began < 5
        assert len(await ids(store)) == 100
    commits = [fact.values["operations"] for fact in facts if fact.event == "queue.committed"]
    assert len([one for one in commits if one != 1]) <= 2
