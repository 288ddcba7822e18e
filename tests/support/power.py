"""Power cuts: what SQLite writes is recorded, and the disk made anew as a cut at any moment may have left it.

A file is what was synced, and of what was written since its last sync any part, in sectors: a disk may have
written them in any order, or torn one write in two. A file that was deleted is gone: SQLite syncs the folder.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512  # octets that a disk writes whole


@dataclass(frozen=True, slots=True)
class Write:
    file: str
    offset: int
    octets: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    file: str


@dataclass(frozen=True, slots=True)
class Delete:
    file: str


@dataclass(frozen=True, slots=True)
class Said:
    """Something was promised."""

    what: str


Event = Write | Truncate | Sync | Delete | Said


class Recorder(apsw.VFS):
    """A file system for SQLite, on top of its own. events: in their order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self.events, name, flags)

    def xDelete(self, name: str, syncs: bool) -> None:
        super().xDelete(name, syncs)
        self.events.append(Delete(Path(name).name))

    def connect(self, path: Path) -> Connection:
        return Connection(apsw.Connection(str(path), vfs=self.name))


class _File(apsw.VFSFile):
    def __init__(self, events: list[Event], name: Any, flags: list[int]) -> None:
        self._events = events
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "").name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._events.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._events.append(Truncate(self._name, size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._events.append(Sync(self._name))


def disk_after(events: Sequence[Event], random: random.Random, folder: Path) -> None:
    """Write to `folder` what a power cut behind these events may have left."""
    synced: dict[str, bytearray] = {}
    pending: dict[str, list[Write | Truncate]] = {}
    for event in events:
        if isinstance(event, Sync):
            for one in pending.pop(event.file, []):
                _apply(synced.setdefault(event.file, bytearray()), one)
        elif isinstance(event, Delete):
            synced.pop(event.file, None)
            pending.pop(event.file, None)
        elif not isinstance(event, Said):
            pending.setdefault(event.file, []).append(event)
    for file, unsynced in pending.items():
        share = random.choice((0.0, 0.5, 0.9, 1.0))
        for one in unsynced:
            for part in _sectors(one):
                if random.random() < share:
                    _apply(synced.setdefault(file, bytearray()), part)
    for file, octets in synced.items():
        (folder / file).write_bytes(octets)


def _sectors(one: Write | Truncate) -> Iterator[Write | Truncate]:
    if isinstance(one, Truncate):
        yield one
        return
    at = 0
    while at < len(one.octets):
        end = min(len(one.octets), at + SECTOR - (one.offset + at) % SECTOR)
        yield Write(one.file, one.offset + at, one.octets[at:end])
        at = end


def _apply(octets: bytearray, one: Write | Truncate) -> None:
    if isinstance(one, Truncate):
        del octets[one.size :]
        octets.extend(bytes(one.size - len(octets)))
        return
    octets.extend(bytes(max(0, one.offset - len(octets))))
    octets[one.offset : one.offset + len(one.octets)] = one.octets


class Connection:
    """What SQLAlchemy and the engine use of a `sqlite3.Connection`, over apsw's: only apsw lets Python be the disk."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.isolation_level: str | None = None
        connection.set_busy_timeout(5000)

    def cursor(self) -> Cursor:
        return Cursor(self._connection)

    def execute(self, statement: str, values: Sequence[object] = ()) -> Cursor:
        cursor = self.cursor()
        cursor.execute(statement, values)
        return cursor

    def executescript(self, statements: str) -> None:
        self._connection.execute(statements).fetchall()

    def commit(self) -> None:
        if self._connection.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def create_function(self, *arguments: object, **options: object) -> None:
        """SQLAlchemy's REGEXP; nothing here uses it."""


class Cursor:
    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self.description: tuple[tuple[Any, ...], ...] | None = None
        self.rowcount = -1
        self.lastrowid = 0

    def execute(self, statement: str, values: Sequence[object] = ()) -> Cursor:
        cursor, before = self._connection.cursor(), self._connection.total_changes()

        def describe(cursor: apsw.Cursor, statement: str, values: object) -> bool:
            found = cursor.get_description()
            self.description = tuple((name, None, None, None, None, None, None) for name, _ in found) or None
            return True

        cursor.exec_trace = describe
        self._rows = iter(list(cursor.execute(statement, tuple(values))))
        self.rowcount = self._connection.total_changes() - before
        return self

    def executemany(self, statement: str, many: Iterable[Sequence[object]]) -> None:
        self._connection.cursor().executemany(statement, [tuple(values) for values in many])
        self.description = None

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        return [row for row, _ in zip(self._rows, range(size), strict=False)]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def close(self) -> None: ...


def unique_name() -> str:
    return f"recorder-{os.getpid()}-{random.getrandbits(48):x}"
