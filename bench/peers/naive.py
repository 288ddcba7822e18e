"""The naive Python relay, `bench/naive.py`, in a process of its own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.network import HOST
from bench.peers.peer import LeftOut, Peer, Running, Task, Work
from tests.support.peers import free_port, listens, running, wait_until


@contextmanager
def _running(task: Task, folder: Path) -> Iterator[Running]:
    if task.queue:
        raise LeftOut("it has no queue")
    if task.work is Work.GATEWAY and importlib.util.find_spec("authheaders") is None:
        raise LeftOut("authheaders is not installed: .venv/bin/pip install authheaders")
    port = free_port()
    certificates = task.site.certificates
    command = [sys.executable, "-m", "bench.naive", str(port), str(task.sink), task.work, str(task.site.key)]
    if task.tls:
        command += [str(certificates.chain), str(certificates.key)]
    with running(command, log=folder / "log", ports=[]) as process:
        wait_until("the naive relay listens", lambda: process.poll() is not None or listens(port, HOST))
        yield Running(port, (process.pid,), folder / "log")


naive = Peer("naive Python", _running)
