"""The inbox: a next hop of our own that keeps every message in one SQLite file.

250 is answered once the message is committed and synced (WAL, synchronous=FULL). One thread does all
SQLite work; deliveries that come while it commits are committed together next: one fsync for all.
Another process (`relay inbox`) may open the same file meanwhile.

TRUSTS     nothing in a message: it is a blob. The display texts beside it are for reading only.
FAILS      `deliver` never raises: a full disk is 452 4.3.1, a locked or broken file 451 4.3.0, and the
           next delivery tries again. A file that cannot be opened at start is a ConfigError.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from relay import reply
from relay.address import Address
from relay.capabilities import EVERYTHING, Capabilities
from relay.clock import Clock
from relay.envelope import Envelope
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.inbox.mime import display
from relay.message import Message
from relay.outcome import Outcome, Result
from relay.wal import BUSY, enter_wal

FILE_NAME = "inbox.db"  # in the data folder
VERSION = 1  # of the schema, in PRAGMA user_version
# A full disk; a quota or a limit on file sizes; no room for the index of the WAL.
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
AT_ONCE = 100  # messages deleted in one transaction: the relay's own commits get in between

_TABLE = """
CREATE TABLE message (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    time REAL NOT NULL,
    hop TEXT NOT NULL,
    listener TEXT NOT NULL,
    ip TEXT NOT NULL,
    helo TEXT NOT NULL,
    tls TEXT,
    login TEXT,
    reverse_path TEXT,
    recipients TEXT NOT NULL,
    size INTEGER NOT NULL,
    author TEXT NOT NULL,
    subject TEXT NOT NULL,
    date TEXT NOT NULL,
    message_id TEXT NOT NULL,
    content BLOB NOT NULL
)
"""
_INDEX = "CREATE INDEX message_by_id ON message (id)"
# The blob is made empty and then filled piece by piece, so that a large message is never copied whole.
# It is the last column: SQLite keeps a zeroblob unexpanded only there.
_INSERT = """
INSERT INTO message (id, time, hop, listener, ip, helo, tls, login, reverse_path, recipients, size,
                     author, subject, date, message_id, content)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, zeroblob(?))
"""
_DROP_OLDEST = """
DELETE FROM message WHERE number <= (SELECT number FROM message ORDER BY number DESC LIMIT 1 OFFSET ?)
"""
_COLUMNS = """
SELECT id, time, hop, listener, ip, helo, tls, login, reverse_path, recipients, size,
       author, subject, date, message_id FROM message
"""
_LIST = _COLUMNS + "ORDER BY number DESC LIMIT ? OFFSET ?"
_GET = _COLUMNS + "WHERE id = ? ORDER BY number DESC LIMIT 1"
_SOURCE = "SELECT content FROM message WHERE id = ? ORDER BY number DESC LIMIT 1"
_DELETE = "DELETE FROM message WHERE id = ?"
_DELETE_SOME = "DELETE FROM message WHERE number IN (SELECT number FROM message WHERE number <= ? LIMIT ?)"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a message in the inbox, its content aside.

    time: seconds since the epoch. tls: `TLSv1.3`, None for clear text. reverse_path: None is `<>`.
    author, subject, date, message_id: the fields From, Subject, Date and Message-ID, decoded for reading.
    """

    id: str
    time: float
    hop: str
    listener: str
    ip: str
    helo: str
    tls: str | None
    login: str | None
    reverse_path: str | None
    recipients: tuple[str, ...]
    size: int
    author: str
    subject: str
    date: str
    message_id: str


@dataclass(slots=True)
class _Waiting:
    """A delivery on its way to the disk. done: None, or why it could not be kept."""

    envelope: Envelope
    message: Message
    recipients: Sequence[Address]
    until: float
    done: asyncio.Future[Exception | None]


class Inbox:
    """A NextHop (`outcome.py`). `path` is the file; `keep` how many messages stay in it."""

    def __init__(self, path: Path, name: str, keep: int, clock: Clock, record: Record) -> None:
        self.path = path
        self.name = name
        self._keep = keep
        self._clock = clock
        self._record = record
        self._database: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"inbox-{name}")
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._is_open = False

    async def open(self) -> None:
        """Open the file, made with mode 0600 (its folder with 0700) if it is missing. Raises ConfigError.

        What is open already stays open. `close` is due in any case.
        """
        if self._is_open:
            return
        try:
            await self._in_thread(self._connect)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(Problem(str(self.path), "", f"the inbox cannot be opened: {error}")) from error
        self._is_open = True

    @property
    def capabilities(self) -> Capabilities:
        return EVERYTHING

    async def probe(self) -> None:
        """There is nothing to find out."""

    async def ask(self, envelope: Envelope, recipient: Address, until: float) -> Outcome:
        """It takes mail for anybody."""
        return Outcome(recipient, Result.DELIVERED, reply.RECIPIENT_OK, self.name)

    async def close(self) -> None:
        """Finish what was handed over, then close the file."""
        if self._is_open:
            self._is_open = False
            if self._writer is not None:
                await self._writer
            await self._in_thread(self._disconnect)
        self._thread.shutdown()

    async def deliver(
        self,
        envelope: Envelope,
        message: Message,
        recipients: Sequence[Address],
        until: float,
        *,
        each: bool = False,
    ) -> tuple[Outcome, ...]:
        """Keep the message. DELIVERED means that it is synced to disk."""
        began = self._clock.monotonic()
        waiting = _Waiting(envelope, message, recipients, until, asyncio.get_running_loop().create_future())
        if self._is_open:
            self._waiting.append(waiting)
            if self._writer is None or self._writer.done():
                self._writer = asyncio.create_task(self._write_all(), name=f"inbox {self.name}")
            trouble = await waiting.done
        else:
            trouble = RuntimeError("the inbox is closed")
        elapsed = round((self._clock.monotonic() - began) * 1000, 1)
        if trouble is None:
            values = {"hop": self.name, "recipients": len(recipients), "size": message.size, "elapsed_ms": elapsed}
            self._record(Fact("inbox.stored", envelope.id, values))
            answer = reply.accepted(envelope.id)
            return tuple(Outcome(one, Result.DELIVERED, answer, self.name) for one in recipients)
        answer = _answer(trouble)
        cause = f"{type(trouble).__name__}: {trouble}"
        values = {"hop": self.name, "reply": str(answer), "cause": cause, "elapsed_ms": elapsed}
        if not isinstance(trouble, (sqlite3.Error, OSError)):
            values["traceback"] = "".join(traceback.format_exception(trouble))
        self._record(Fact("inbox.trouble", envelope.id, values, "error"))
        return tuple(Outcome(one, Result.TEMPORARY, answer, self.name, cause=cause) for one in recipients)

    async def list(self, limit: int = 100, offset: int = 0) -> tuple[Stored, ...]:
        """The messages, newest first."""
        rows = await self._in_thread(lambda: self._connected().execute(_LIST, (limit, offset)).fetchall())
        return tuple(_stored(row) for row in rows)

    async def get(self, id: str) -> Stored | None:
        row = await self._in_thread(lambda: self._connected().execute(_GET, (id,)).fetchone())
        return _stored(row) if row else None

    async def source(self, id: str) -> bytes | None:
        """The message's octets as they were delivered."""
        row = await self._in_thread(lambda: self._connected().execute(_SOURCE, (id,)).fetchone())
        return bytes(row[0]) if row else None

    async def delete(self, ids: Sequence[str] | None) -> int:
        """Delete these messages, or all of them (None); how many there were."""
        return await self._in_thread(lambda: self._delete(ids))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _write_all(self) -> None:
        """Commit what is waiting, all of it at once, until nothing is."""
        while self._waiting:
            # A cancelled delivery was told nothing: it need not be kept.
            batch = [waiting for waiting in self._waiting if not waiting.done.done()]
            self._waiting.clear()
            results = await self._in_thread(lambda batch=batch: self._commit(batch))  # type: ignore[misc]
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.done.done():
                    waiting.done.set_result(result)

    # --- in the thread ---------------------------------------------------------------------------

    def _commit(self, batch: Sequence[_Waiting]) -> Sequence[Exception | None]:
        """For each one None, or why it is not kept. If they cannot go together, each goes alone."""
        now = self._clock.monotonic()
        timely = [waiting for waiting in batch if waiting.until > now]
        if len(timely) < len(batch):
            results = iter(self._commit(timely) if timely else ())
            return [next(results) if one.until > now else TimeoutError("no time left for the disk") for one in batch]
        try:
            with self._transaction() as database:
                for waiting in batch:
                    self._insert(database, waiting)
                database.execute(_DROP_OLDEST, (self._keep,))
        except Exception as error:
            if len(batch) == 1 or _code(error) & 0xFF == sqlite3.SQLITE_BUSY:
                return [error] * len(batch)
            return [self._commit([waiting])[0] for waiting in batch]
        return [None] * len(batch)

    def _insert(self, database: sqlite3.Connection, waiting: _Waiting) -> None:
        envelope, message, client = waiting.envelope, waiting.message, waiting.envelope.client
        texts = []
        for name in (b"from", b"subject", b"date", b"message-id"):
            found = message.all(name)
            texts.append(display(found[0].value) if found else "")
        row = (
            envelope.id,
            self._clock.time(),
            self.name,
            client.listener,
            str(client.ip),
            client.helo,
            client.tls.version if client.tls else None,
            client.login,
            None if envelope.reverse_path is None else str(envelope.reverse_path),
            json.dumps([str(one) for one in waiting.recipients]),
            message.size,
            *texts,
            message.size,
        )
        number = database.execute(_INSERT, row).lastrowid or 0
        with database.blobopen("message", "content", number) as blob:
            for piece in message.chunks():
                blob.write(piece)

    def _delete(self, ids: Sequence[str] | None) -> int:
        deleted = 0
        if ids is not None:
            with self._transaction() as database:
                deleted = sum(database.execute(_DELETE, (id,)).rowcount for id in ids)
        else:
            # Up to the newest of now: mail that comes in meanwhile was not meant.
            newest = self._connected().execute("SELECT max(number) FROM message").fetchone()[0]
            count = AT_ONCE
            while newest is not None and count == AT_ONCE:
                with self._transaction() as database:
                    count = database.execute(_DELETE_SOME, (newest, AT_ONCE)).rowcount
                deleted += count
        database = self._connected()
        while database.execute("PRAGMA freelist_count").fetchone()[0]:
            database.executescript("PRAGMA incremental_vacuum(1000)")  # `execute` would stop after one page
        return deleted

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = self._connected()
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # SQLite rolls back by itself on a full disk
                database.execute("ROLLBACK")
            raise

    def _connected(self) -> sqlite3.Connection:
        """The connection; a new one if the file was deleted or replaced under us.

        SQLite would go on writing to a file without a name, and 250 would mean nothing.
        """
        try:
            found = self.path.stat()
            unmoved = (found.st_dev, found.st_ino) == self._inode
        except FileNotFoundError:
            unmoved = False
        if self._database is None or not unmoved:
            self._disconnect()
            return self._connect()
        return self._database

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # a new file only
            database.execute("BEGIN IMMEDIATE")
            self._check_schema(database)
            database.execute("COMMIT")
            enter_wal(database)
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            database.close()
            raise
        found = self.path.stat()
        self._database, self._inode = database, (found.st_dev, found.st_ino)
        return database

    def _check_schema(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version > VERSION or (version == 0 and tables):
            what = "written by a newer relay" if version else "a database of another program"
            raise ConfigError(Problem(str(self.path), "", f"the inbox cannot be opened: it is {what}"))
        if version == 0:
            database.execute(_TABLE)
            database.execute(_INDEX)
            database.execute("PRAGMA user_version = 1")

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def _code(error: Exception) -> int:
    """SQLite's extended result code, 0 for other errors."""
    code = getattr(error, "sqlite_errorcode", None)
    return code if isinstance(code, int) else 0


def _answer(trouble: Exception) -> reply.Reply:
    if _code(trouble) in NO_ROOM:
        return reply.DISK_FULL
    if isinstance(trouble, TimeoutError):
        return reply.HOP_TIMEOUT
    return reply.INTERNAL


def _stored(row: Sequence[object]) -> Stored:
    values = list(row)
    values[9] = tuple(json.loads(str(values[9])))
    return Stored(*values)  # type: ignore[arg-type]
