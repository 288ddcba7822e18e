"""R7: the queue's file locked for 5 s, then every fsync half a second late: 451 or a wait, and the loop goes on."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path

from bench.reliability.found import Found
from tests.support.crashing import CrashingRelay, crashing_relay, queueing
from tests.support.hostile_hop import CALM, hostile_hop
from tests.support.ledger import balance
from tests.support.peers import free_port
from tests.support.queue_file import FILE_NAME, emptied
from tests.support.submitter import Submitter

LOCKED, SLOW, CALM_SECONDS = 5.0, 5.0, 3.0
LAG = 0.1  # seconds that a NOOP may take beyond what it takes when nothing is wrong
_DELAY = ("-f", "--seccomp-bpf", "-D", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync")
_LATE = ("-e", "inject=fdatasync,fsync:delay_enter=500000")


async def run(quick: bool) -> Found:
    port = free_port()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="relay-r7-") as folder, hostile_hop(CALM, port) as hop:
        given = queueing(port, limit={"junk": 10**6})
        with crashing_relay(Path(folder), given) as relay:
            submitters = [Submitter(relay.ports["in"], prefix=prefix, sessions=10, size=10_000) for prefix in "abc"]
            await relay.start()
            calm = await _under_load(relay, submitters[0], CALM_SECONDS)
            with closing(sqlite3.connect(relay.data / FILE_NAME, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                unlock = asyncio.get_running_loop().call_later(LOCKED, other.rollback)
                locked = await _under_load(relay, submitters[1], LOCKED + 1)
                unlock.cancel()
            await emptied(relay.data, patience=60.0)
            await relay.stop()
            slow = None
            if strace := shutil.which("strace"):
                relay.spawn(strace, *_DELAY, *_LATE)
                await relay.ready()
                slow = await _under_load(relay, submitters[2], SLOW)
                await emptied(relay.data, patience=120.0)
                await relay.stop()
            tries = [one for submitter in submitters for one in submitter.tries]
            found = balance(tries, hop.copies, hop.refused, relay.doubts())
    faults += found.faults
    replies = submitters[1].replies + submitters[2].replies
    if odd := set(replies) - {"250", "451"}:
        faults.append(f"clients heard {odd}")
    for name, lag in (("locked", locked), ("slow", slow)):
        if lag is not None and lag > calm + LAG:
            faults.append(f"{name}: a NOOP took {lag * 1000:.0f} ms; {calm * 1000:.0f} ms when nothing was wrong")
    lags = " / ".join("-" if lag is None else f"{lag * 1000:.0f} ms" for lag in (calm, locked, slow))
    figures = (
        f"replies {dict(submitters[1].replies)} while locked, {dict(submitters[2].replies)} while slow; longest NOOP"
        f" {lags} (calm / locked / slow); {found.acknowledged} recipients acknowledged, {len(found.lost)} lost"
    )
    return Found(figures, faults, is_short=slow is None)


async def _under_load(relay: CrashingRelay, submitter: Submitter, seconds: float) -> float:
    """Submit for so long; the longest that a session without mail waited for an answer meanwhile, in seconds."""
    until = time.monotonic() + seconds
    with _pinging(relay.ports["in"]) as waits:
        await submitter.run(takewhile(lambda _: time.monotonic() < until, range(10**6)))
    return max(waits)


@contextmanager
def _pinging(port: int) -> Iterator[list[float]]:
    """From a thread of its own: our own loop may be busy."""
    waits: list[float] = []
    over = threading.Event()

    def ping() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as said:
            said.readline()
            while not over.wait(0.02):
                began = time.monotonic()
                connection.sendall(b"NOOP\r\n")
                said.readline()
                waits.append(time.monotonic() - began)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()
