"""What a relay with 100,000 waiting messages costs: its start, its memory, the answers to `relay queue`.

The messages of 2 KB wait for a hop that does not answer. A start lasts until `/readyz` says so; an answer from the
request to its last octet, without the start of the command. Times are medians.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.idle import resident
from relay.clock import SystemClock
from relay.queue.control import SOCKET, ask
from relay.queue.sqlite import FILE_NAME
from tests.support.peers import free_port
from tests.support.queued import DAY, HOUR, put, waiting
from tests.support.relay_process import RelayProcess, running_relay
from tests.support.storing import open_store

MESSAGES, AT_ONCE, ROUNDS = 100_000, 1000, 5
CONTENT = b"From: Ann <ann@example.org>\r\nSubject: hello\r\n\r\n" + b"0123456789abcde\r\n" * 120  # 2 KB

Row = tuple[str, float, str, float | None]  # what, figure, unit, bar

REQUESTS: dict[str, tuple[dict[str, Any], float | None]] = {
    "list, first page": ({"verb": "list", "limit": 50}, 100),
    "list, state held": ({"verb": "list", "limit": 50, "selection": {"state": "held"}}, None),
    "list, sender unknown": ({"verb": "list", "limit": 50, "selection": {"sender": "@nowhere.example"}}, None),
    "stats": ({"verb": "stats"}, None),
}


def tables() -> dict[str, Any]:
    return {
        "log": {"level": "info"},
        "listener": {"in": {"role": "submission", "allow": ["127.0.0.0/8"], "senders": ["*"]}},
        "route": {"all": {"hop": "next", "mode": "queue"}},
        "hop": {"next": {"host": ["127.0.0.1"], "port": free_port(), "tls": "none"}},
    }


async def fill(file: Path) -> None:
    clock = SystemClock()
    async with open_store(file) as store:
        now = clock.time()
        for first in range(0, MESSAGES, AT_ONCE):
            # Due over an hour and a day: what a hop that is down leaves behind.
            await asyncio.gather(
                *(
                    put(
                        store,
                        clock,
                        waiting(f"user{number}@example.net", due=now + HOUR + number),
                        age=DAY - number / 10,
                        content=CONTENT,
                    )
                    for number in range(first, first + AT_ONCE)
                )
            )


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def look(relay: RelayProcess, socket: Path) -> list[Row]:
    rows: list[Row] = [("resident memory", resident(relay.process.pid) / 1e6, "MB", 200)]
    for name, (request, bar) in REQUESTS.items():
        times = [timed(lambda request=request: ask(socket, request)) for _ in range(ROUNDS)]  # type: ignore[misc]
        rows.append((name, statistics.median(times), "ms", bar))
    return rows


def main() -> None:
    print(f"{'':24}{'':>10}{'':>4}{'bar':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty, full = folder / "empty", folder / "full"
        asyncio.run(fill(full / "data" / FILE_NAME))
        starts: dict[Path, list[float]] = {empty: [], full: []}
        rows: list[Row] = []
        for _ in range(ROUNDS):
            for place, times in starts.items():  # in turns: the machine has other work, too
                began = time.perf_counter()
                with running_relay(place, tables()) as relay:
                    times.append(time.perf_counter() - began)
                    rows = look(relay, place / "data" / SOCKET)
        first: list[Row] = [
            ("start, empty queue", statistics.median(starts[empty]), "s", None),
            ("start", statistics.median(starts[full]), "s", 3),
        ]
        for what, figure, unit, bar in first + rows:
            print(f"{what:24}{figure:>10.1f}{unit:>4}{'' if bar is None else f'{bar:g}':>8}".rstrip())
