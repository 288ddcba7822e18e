"""No relay at all: the load goes straight to the sink. What the load and the sink themselves can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import Peer, Running, Task


@contextmanager
def _running(task: Task, folder: Path) -> Iterator[Running]:
    yield Running(task.sink, ())


direct = Peer("no relay", _running)
