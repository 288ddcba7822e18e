"""The journal: every fact about a message, kept for a while, so that `relay explain ID` can tell its story.

Facts are gathered in memory and written by a thread, many at a time and seldom synced: a power cut may
cost the last of it, never a message (no promise hangs on the journal). Those about one message that are
written at once are one row, which takes a third of the work of a row each. Aggregate reports will
read from here, by time: `authenticate.explained` (policy domain, published policy, identifiers, results),
`decide.decided` (disposition, override) and `accept.received` (envelope).

FAILS      Never to its callers: a journal that cannot be written says so once, by a fact, and facts are
           dropped until it can. A file that cannot be opened at start is a ConfigError.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from operator import itemgetter
from pathlib import Path

from relay.clock import Clock
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.jsonable import to_json
from relay.wal import BUSY, enter_wal

EXPLAINED = "authenticate.explained"  # the event whose values are the verdicts, as `explanation.kept` made them
CHECKED = "authenticate.checked"  # the event that has the same in brief
FILE_NAME = "journal.db"  # in the data folder
VERSION = 2  # of the schema, in PRAGMA user_version
FLUSH = 0.25  # seconds that a fact waits for company
MAX_WAITING = 20_000  # facts in memory; the oldest go when the disk does not keep up
SWEEP = 3600.0  # seconds between two looks for facts past their time

_SCHEMA = (
    # facts: [[time, event, level, values], ...], those about one id that were written at once. time: of the first.
    "CREATE TABLE told (number INTEGER PRIMARY KEY, time REAL NOT NULL, id TEXT NOT NULL, facts TEXT NOT NULL)",
    "CREATE INDEX told_by_id ON told (id)",
    "CREATE INDEX told_by_time ON told (time)",
    f"PRAGMA user_version={VERSION:d}",
)
# Version 1 had a row for each fact.
_FROM_1 = (
    "INSERT INTO told (time, id, facts)"
    " SELECT time, id, json_array(json_array(time, event, level, json(facts))) FROM fact"
    " WHERE json_valid(facts) ORDER BY number",
    "DROP TABLE fact",
)
_STEPS = {0: _SCHEMA, 1: _SCHEMA + _FROM_1, VERSION: ()}  # by the version that is found
_AT_ONCE = 250  # rows of one INSERT
_INSERT = "INSERT INTO told (time, id, facts) VALUES "
_SWEEP = "DELETE FROM told WHERE number IN (SELECT number FROM told WHERE time < ? ORDER BY time LIMIT ?)"
_SWEPT_AT_ONCE = 1000  # rows of one DELETE
_STORY = "SELECT facts FROM told WHERE id = ?"

Row = tuple[float, str, str]  # time, id, facts


class Journal:
    """keep: seconds that a fact stays. `record` is for any thread-less caller in the loop; it never waits.

    sweeps: of several processes that write to it, this one deletes what is past its time.
    """

    def __init__(self, path: Path, keep: float, clock: Clock, record: Record, *, sweeps: bool = True) -> None:
        self._path, self._keep, self._clock, self._tell = path, keep, clock, record
        self._waiting: deque[tuple[float, Fact]] = deque(maxlen=MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, "journal")
        self._database: sqlite3.Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._sweeps, self._swept = sweeps, 0.0
        self._in_trouble = False

    async def open(self) -> None:
        """Raises ConfigError."""
        try:
            await self._in_thread(self._connect)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(Problem(str(self._path), "", f"the journal cannot be opened: {error}")) from error

    def record(self, fact: Fact) -> None:
        """Keep `fact` if it is about a message or a session: the verdicts in full only, no other debug facts."""
        if not fact.id or self._database is None or fact.event == CHECKED:
            return
        if fact.level == "debug" and fact.event != EXPLAINED:
            return
        self._waiting.append((self._clock.time(), fact))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH, self._flush_soon)

    async def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        waiting = [*self._waiting]
        self._waiting.clear()
        try:
            await self._in_thread(self._write, _rows(waiting))
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:  # the latter two: a fact that is no JSON
            if not self._in_trouble:
                self._in_trouble = True
                self._tell(Fact("report.trouble", "", {"journal": str(error), "dropped": len(waiting)}, "error"))
        else:
            self._in_trouble = False

    async def close(self) -> None:
        """Write what waits and close the file."""
        if self._timer is not None:
            self._timer.cancel()
        if self._flushing is not None:
            await self._flushing
        if self._database is not None:
            await self.flush()
            await self._in_thread(self._database.close)
            self._database = None
        self._thread.shutdown()

    def _flush_soon(self) -> None:
        self._timer = None
        self._flushing = asyncio.ensure_future(self.flush())

    async def _in_thread(self, work: object, *given: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)  # type: ignore[arg-type]

    def _connect(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        # Each number of rows is a statement of its own: few are worth keeping.
        database = sqlite3.connect(self._path, check_same_thread=False, timeout=BUSY, cached_statements=4)
        try:
            enter_wal(database)
            database.execute("PRAGMA synchronous=NORMAL")  # in WAL mode: a sync at checkpoints only, and no damage
            _make_schema(database)
        except BaseException:
            database.close()
            raise
        self._database = database

    def _write(self, rows: list[Row]) -> None:
        database = self._database
        if database is None:
            return
        now = self._clock.time()
        with database:
            # One at a time (`executemany`) each would give up the GIL, and wait for the loop to get it back.
            for at in range(0, len(rows), _AT_ONCE):
                some = rows[at : at + _AT_ONCE]
                database.execute(_INSERT + ", ".join(["(?, ?, ?)"] * len(some)), [*chain.from_iterable(some)])
        if self._sweeps and now - self._swept > SWEEP:
            self._swept = now
            # In pieces, each a transaction of its own: other workers want to write too.
            swept = _SWEPT_AT_ONCE
            while swept == _SWEPT_AT_ONCE:
                with database:
                    swept = database.execute(_SWEEP, (now - self._keep, _SWEPT_AT_ONCE)).rowcount


def _make_schema(database: sqlite3.Connection) -> None:
    """Several workers may open a new file at once: one of them makes its tables, the others wait."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in _STEPS:
            raise OSError(f"it has schema {version}, this relay knows {VERSION}")
        for step in _STEPS[version]:
            database.execute(step)


def _rows(facts: Iterable[tuple[float, Fact]]) -> list[Row]:
    told: dict[str, list[tuple[float, str, str, Mapping[str, object]]]] = {}
    for time, fact in facts:
        told.setdefault(fact.id, []).append((time, fact.event, fact.level, fact.values))
    return [(some[0][0], id, to_json(some).decode()) for id, some in told.items()]


def story(path: Path, id: str) -> Iterator[tuple[float, Fact]]:
    """The facts about one message or session, in order, each with its time. For another process than the relay's.

    Raises FileNotFoundError if there is no journal.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)) as database:
        told = chain.from_iterable(json.loads(facts) for (facts,) in database.execute(_STORY, (id,)))
        for time, event, level, values in sorted(told, key=itemgetter(0)):
            yield time, Fact(event, id, values, level)
