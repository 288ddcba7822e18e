"""Write-ahead logging of a SQLite file, which lets readers go on while one connection writes.

FAILS      sqlite3.OperationalError (SQLITE_BUSY) when others keep the file for longer than the wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

BUSY = 5.0  # seconds to wait for a lock that another process holds
_PAUSE = 0.005  # seconds


def enter_wal(database: sqlite3.Connection, pause: Callable[[float], None] = time.sleep) -> None:
    """Have `database` use a write-ahead log. Outside of a transaction; in a thread, for it may wait.

    The change needs the file for itself, and SQLite asks no busy handler for that: of several relays
    that open a new file at once, some would fail.
    """
    database.execute("PRAGMA busy_timeout = 0")  # where it does ask, each try would take as long as all together
    try:
        for left in reversed(range(round(BUSY / _PAUSE))):
            try:
                database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not left:  # without what it is busy with
                    raise
            pause(_PAUSE)
    finally:
        database.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")
