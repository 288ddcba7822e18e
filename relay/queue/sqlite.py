"""The queue in one SQLite file of this machine: a thread that writes, a thread that reads.

WAL and synchronous=FULL: a commit has returned when its octets are synced, with one fdatasync; NORMAL would
lose acknowledged mail in a power cut. The reader sees the last commit and holds nobody up. Both connections
follow the file: were it deleted or replaced under us, SQLite would go on writing to a file without a name.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from relay.clock import Clock
from relay.errors import ConfigError, Problem
from relay.queue.disk import Reserve
from relay.queue.engine import NoRoom, NotKept, Operation, Unavailable
from relay.queue.lock import Turn
from relay.queue.migrate import migrate
from relay.wal import BUSY, enter_wal

FILE_NAME = "queue.db"  # in the data folder
MUCH = 16_384  # pages (64 MiB) that may stay unused
TIDY = 1.0  # seconds between two looks at what could be tidied

# A full disk; a quota or a limit on file sizes; no room for the index of the WAL.
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# Our own mistake, or the message's: another one may go in.
_OURS = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError)

T = TypeVar("T")


class SqliteEngine:
    """An Engine (`engine.py`). `path` is the file; `clock` gives the time of the queue."""

    is_shared = False

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._reserve = Reserve(path.with_suffix(".reserve"))
        self._turn = Turn(path.parent, BUSY)
        self._tidies_at = 0.0  # on the monotonic clock
        self._writer = _Side(path, "BEGIN IMMEDIATE", "queue-writer", self._prepare)
        self._reader = _Side(path, "BEGIN", "queue-reader", self._only_read)

    async def open(self) -> None:
        """Open the file, made with mode 0600 (its folder with 0700) if it is missing. Raises ConfigError."""
        try:
            await self._writer.run(lambda connection: self._reserve.make())
        except NotKept as error:
            text = f"the queue cannot be opened: {error.cause}"
            raise ConfigError(Problem(str(self.path), "", text)) from error

    async def close(self) -> None:
        await self._reader.close()  # first: the last connection to go folds the WAL into the file
        await self._writer.close()
        self._turn.close()

    async def transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            with self._turn, connection.begin():
                now = self._clock.time()
                return [operation(connection, now) for operation in operations]

        try:
            results = await self._writer.run(work)
        except NoRoom:
            if not self._reserve.give_up():
                raise
            results = await self._writer.run(work)
        if self._clock.monotonic() >= self._tidies_at:
            self._writer.submit(self._tidy)
        return results

    async def read(self, operation: Operation[T]) -> T:
        def work(connection: Connection) -> T:
            with connection.begin():
                return operation(connection, self._clock.time())

        return await self._reader.run(work)

    # --- in the threads --------------------------------------------------------------------------

    def _prepare(self, connection: Connection) -> None:
        raw = _raw(connection)
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")  # a new file only
        with connection.begin():
            migrate(connection, str(self.path))
        enter_wal(raw)
        raw.execute("PRAGMA synchronous = FULL")
        # Debian's SQLite else writes zeros over each message that has gone: more octets than the message cost.
        raw.execute("PRAGMA secure_delete = OFF")
        raw.execute("PRAGMA wal_autocheckpoint = 4000")  # pages, 16 MiB: then they are copied to their place
        raw.execute("PRAGMA journal_size_limit = 67108864")  # a WAL that one large commit made longer is cut back

    def _tidy(self, connection: Connection) -> None:
        """Give the disk back what a queue that was long no longer needs, a little at a time; mind the reserve."""
        now, raw = self._clock.monotonic(), _raw(connection)
        self._tidies_at = now + TIDY
        self._reserve.make()
        (free,), (pages,) = (raw.execute(one).fetchone() for one in ("PRAGMA freelist_count", "PRAGMA page_count"))
        if free > MUCH and 2 * free > pages:
            raw.executescript("PRAGMA incremental_vacuum(2000)")  # `execute` would stop after one page
            self._tidies_at = now + 10 * (self._clock.monotonic() - now)

    def _only_read(self, connection: Connection) -> None:
        _raw(connection).execute("PRAGMA query_only = ON")


class _Side:
    """A connection and the thread it lives in. prepare: what a new connection needs first."""

    def __init__(self, path: Path, begin: str, name: str, prepare: Callable[[Connection], None]) -> None:
        self._path = path
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._engine = create_engine("sqlite+pysqlite://", creator=self._open, poolclass=NullPool)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        self._connection: Connection | None = None
        self._inode: tuple[int, int] | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Raises NotKept, or what `work` did wrong by itself."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._run(work))

    def submit(self, work: Callable[[Connection], None]) -> None:
        """Have it done without waiting; the next one tries again what could not be."""
        self._thread.submit(self._run, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return work(self._connected())
        except (DBAPIError, sqlite3.Error, OSError) as error:
            trouble = _trouble(error)
            if trouble is None:
                raise
            if not isinstance(trouble, NoRoom) and _code(error) & 0xFF not in _LOCKED:
                self._disconnect()  # a disk that came back is opened anew
            raise trouble from error
        except ConfigError as error:  # another program's file was put in its place
            self._disconnect()
            raise Unavailable(str(error)) from error

    def _connected(self) -> Connection:
        try:
            found = self._path.stat()
            unmoved = (found.st_dev, found.st_ino) == self._inode
        except FileNotFoundError:
            unmoved = False
        if self._connection is None or not unmoved:
            self._disconnect()
            return self._connect()
        return self._connection

    def _connect(self) -> Connection:
        if not self._path.exists():
            _create(self._path)
        connection = self._engine.connect()
        try:
            self._prepare(connection)
            found = self._path.stat()
        except BaseException:
            connection.close()
            raise
        self._connection, self._inode = connection, (found.st_dev, found.st_ino)
        return connection

    def _open(self) -> sqlite3.Connection:
        raw = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        raw.execute("PRAGMA cache_size = -8192")  # KiB
        return raw

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _create(path: Path) -> None:
    """An empty file whose name, too, survives a power cut: SQLite syncs what is in it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for folder in (path.parent, path.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _raw(connection: Connection) -> sqlite3.Connection:
    """For what must stand outside of a transaction, which SQLAlchemy would begin."""
    return cast(sqlite3.Connection, connection.connection.dbapi_connection)


def _trouble(error: Exception) -> NotKept | None:
    """What the store is told of it; None for what is no trouble of the disk's."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(origin, _OURS):
        return None
    cause = f"{type(origin).__name__}: {origin}"
    return NoRoom(cause) if _code(error) in _NO_ROOM else Unavailable(cause)


def _code(error: BaseException) -> int:
    """SQLite's extended result code, 0 for other errors."""
    code = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlite_errorcode", None)
    return code if isinstance(code, int) else 0
