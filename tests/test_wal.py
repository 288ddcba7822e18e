"""Several may turn to a write-ahead log at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest

from relay.wal import BUSY, enter_wal


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, timeout=0, isolation_level=None))


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection in the middle of reading a file without a write-ahead log."""
    with _opened(path) as reader:
        reader.execute("CREATE TABLE mail (number INTEGER)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM mail").fetchall()
        yield reader


def _mode(database: sqlite3.Connection) -> str:
    (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def test_it_waits_for_who_reads_the_file(tmp_path: Path) -> None:
    with _reading(tmp_path / "new.db") as reader, _opened(tmp_path / "new.db") as database:
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            reader.execute("COMMIT")

        enter_wal(database, pause)
        assert len(pauses) == 1
        assert _mode(database) == "wal"


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    with _reading(tmp_path / "new.db"), _opened(tmp_path / "new.db") as database:
        pauses: list[float] = []
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            enter_wal(database, pauses.append)
        assert sum(pauses) == pytest.approx(BUSY, abs=0.01)


def test_what_no_patience_helps_against_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"no database, though long enough to look like one " * 100)
    with _opened(tmp_path / "text.db") as database, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        enter_wal(database, lambda seconds: pytest.fail("it waited"))


def test_nothing_changes_for_a_file_that_has_one(tmp_path: Path) -> None:
    with _opened(tmp_path / "new.db") as first, _opened(tmp_path / "new.db") as second:
        enter_wal(first)
        first.execute("BEGIN IMMEDIATE")
        enter_wal(second, lambda seconds: pytest.fail("it waited"))
        assert _mode(second) == "wal"


def test_who_mends_the_file_after_a_crash_is_waited_for() -> None:
    class Recovering:
        """As a connection whose log another process is just reading back: SQLITE_BUSY_RECOVERY (261)."""

        tries = 0

        def execute(self, statement: str) -> None:
            if "journal_mode" in statement:
                self.tries += 1
                if self.tries < 3:
                    error = sqlite3.OperationalError("database is locked")
                    error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
                    raise error

    database, pauses = Recovering(), list[float]()
    enter_wal(cast(sqlite3.Connection, database), pauses.append)
    assert (database.tries, len(pauses)) == (3, 2)
