"""The queue's SQLite file, read from beside the relay that uses it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

FILE_NAME = "queue.db"  # in the data folder


def states(data: Path) -> Counter[str]:
    """How many recipients are in each state."""
    if not (data / FILE_NAME).exists():
        return Counter()
    with closing(sqlite3.connect(f"file:{data / FILE_NAME}?mode=ro", uri=True, timeout=30)) as connection:
        return Counter(dict(connection.execute("SELECT state, count(*) FROM recipient GROUP BY state")))


def integrity(data: Path) -> str:
    """`ok`, or what SQLite found."""
    with closing(sqlite3.connect(data / FILE_NAME, timeout=30)) as connection:
        return "; ".join(line for (line,) in connection.execute("PRAGMA integrity_check"))


async def emptied(data: Path, patience: float = 20.0) -> Counter[str]:
    """Until nothing is in the queue but what is held. AssertionError if it takes longer than `patience` seconds."""
    until = time.monotonic() + patience
    while (found := states(data)).total() != found["held"]:
        assert time.monotonic() < until, f"still in the queue: {found}"
        await asyncio.sleep(0.01)
    return found
