"""R30: two minutes at 50 messages a second, 5 % of them in trouble at the next hop: nothing grows."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.reliability.found import Found
from tests.support.crashing import CrashingRelay, crashing_relay, queueing
from tests.support.hostile_hop import Weather, hostile_hop
from tests.support.ledger import balance
from tests.support.peers import free_port
from tests.support.queue_file import FILE_NAME, emptied
from tests.support.submitter import Submitter

RATE, SETTLED = 50, 30.0  # messages a second; seconds until it is as warm as it gets
SLOPE, WAL = 1.0, 64.0  # MiB a minute; MiB
DESCRIPTORS, THREADS = 1.5, 1.5  # times as many at the end as when it was warm


@dataclass(frozen=True, slots=True)
class Sample:
    """seconds: since the beginning. rss, wal: MiB."""

    seconds: float
    rss: float
    wal: float
    descriptors: int
    threads: int


async def run(quick: bool) -> Found:
    seconds, warm = (30, 10.0) if quick else (120, SETTLED)
    weather = Weather(temporary=0.03, permanent=0.01, cut=0.002, delay=0.5, seed=secrets.randbits(32))
    print(f"seed {weather.seed}", flush=True)
    gate, port, samples = asyncio.Semaphore(0), free_port(), list[Sample]()
    with (
        tempfile.TemporaryDirectory(prefix="relay-r30-") as folder,
        hostile_hop(weather, port) as hop,
        crashing_relay(Path(folder), queueing(port)) as relay,
    ):
        await relay.start()
        submitter = Submitter(relay.ports["in"], gate=gate, seed=weather.seed)
        submitting = asyncio.create_task(submitter.run(range(RATE * seconds)))
        began = time.monotonic()
        for number in range(RATE * seconds):
            gate.release()
            if number % RATE == 0:
                samples.append(_sample(relay, time.monotonic() - began))
            await asyncio.sleep(max(0.0, began + (number + 1) / RATE - time.monotonic()))
        await submitting
        await emptied(relay.data, patience=120.0)
        await relay.stop()
        found, troubles = balance(submitter.tries, hop.copies, hop.refused, relay.doubts()), relay.troubles()
    then = [sample for sample in samples if sample.seconds >= warm]
    slope = statistics.linear_regression([one.seconds for one in then], [one.rss for one in then]).slope * 60
    wal = max(sample.wal for sample in samples)
    faults = [*found.faults, *troubles]
    if slope > SLOPE and not quick:
        faults.append(f"resident memory grows by {slope:.1f} MiB a minute")
    if wal > WAL:
        faults.append(f"the WAL had {wal:.0f} MiB")
    faults += _growth("descriptors", [one.descriptors for one in then], DESCRIPTORS)
    faults += _growth("threads", [one.threads for one in then], THREADS)
    figures = (
        f"{RATE * seconds} messages in {seconds} s; resident {then[0].rss:.0f} to {then[-1].rss:.0f} MiB,"
        f" {slope:+.2f} MiB a minute; WAL at most {wal:.1f} MiB; descriptors {then[0].descriptors} to"
        f" {then[-1].descriptors}, threads {then[0].threads} to {then[-1].threads}; {found.acknowledged} recipients"
        f" acknowledged, {len(found.lost)} lost, {found.copies} copies, {len(found.unexplained)} unexplained,"
        f" {len(found.damaged)} damaged"
    )
    return Found(figures, faults, quick)


def _growth(what: str, counts: Sequence[int], most: float) -> list[str]:
    """Between the first and the last quarter."""
    quarter = max(1, len(counts) // 4)
    first, last = statistics.median(counts[:quarter]), statistics.median(counts[-quarter:])
    return [f"{what}: {first:g}, later {last:g}"] if last > most * first else []


def _sample(relay: CrashingRelay, seconds: float) -> Sample:
    process = Path(f"/proc/{relay.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    wal = relay.data / f"{FILE_NAME}-wal"
    size = wal.stat().st_size if wal.exists() else 0
    descriptors = len(list((process / "fd").iterdir()))
    return Sample(seconds, int(status["VmRSS"].split()[0]) / 1024, size / 2**20, descriptors, int(status["Threads"]))
