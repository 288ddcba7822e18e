"""R6: a small disk that gets low, then full; and a limit on the size of files. No 250 then, and it heals by itself."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.reliability.found import Found
from tests.support.crashing import crashing_relay, queueing
from tests.support.hostile_hop import CALM, hostile_hop
from tests.support.ledger import balance
from tests.support.peers import free_port
from tests.support.queue_file import emptied
from tests.support.submitter import Submitter

DISK = 64 * 1024**2
LOW = 512 * 1024  # octets left: delivering writes more, out of the queue's reserve
HEALED = 5.0  # seconds
_UNLIMITED = resource.RLIM_INFINITY


async def run(quick: bool) -> Found:
    if os.geteuid() != 0:
        return Found("not run: only root can mount a small disk", is_short=True)
    figures: list[str] = []
    faults: list[str] = []
    port = free_port()
    given = queueing(port)
    given["listener"]["in"]["max_message_size"] = "256 KiB"
    with (
        tempfile.TemporaryDirectory(prefix="relay-r6-") as name,
        _small_disk(Path(name) / "data") as data,
        crashing_relay(Path(name), given) as relay,
    ):
        await relay.start()
        submitter = Submitter(relay.ports["in"])
        expect(faults, "plenty", await submitter.once(50), {"250"})  # there is no hop yet: they wait
        with _ballast(data, leave=LOW):
            expect(faults, "low", await submitter.once(20), {"452"})
            with hostile_hop(CALM, port) as hop:
                await emptied(data, patience=60.0)
                figures.append(f"{len(hop.copies)} of 50 delivered while the disk was low")
                found = balance(submitter.tries, hop.copies, hop.refused, relay.doubts())
                faults += found.faults + [f"{found.copies} copies"] * bool(found.copies)
        with hostile_hop(CALM, port) as hop:
            submitter = Submitter(relay.ports["in"], prefix="t")
            with _ballast(data, leave=0):
                expect(faults, "full", await submitter.once(20), {"452", "451"})
            figures.append(f"healed {await healed(submitter, faults):.1f} s after the disk had room again")
            resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, (1, _UNLIMITED))
            expect(faults, "no file may grow", await submitter.once(20), {"452", "451"})
            resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, (_UNLIMITED, _UNLIMITED))
            figures.append(f"{await healed(submitter, faults):.1f} s after files might grow again")
            expect(faults, "afterwards", await submitter.once(50), {"250"})
            await emptied(data, patience=60.0)
            await relay.stop()
            found = balance(submitter.tries, hop.copies, hop.refused, relay.doubts())
            faults += found.faults + [f"{found.copies} copies"] * bool(found.copies)
            figures.append(f"{found.acknowledged} recipients acknowledged, {len(found.lost)} lost")
    return Found("; ".join(figures), faults)


def expect(faults: list[str], when: str, replies: Counter[str], wanted: set[str]) -> None:
    if not set(replies) <= wanted:
        faults.append(f"{when}: {dict(replies)}")


async def healed(submitter: Submitter, faults: list[str]) -> float:
    """Seconds until a message is taken."""
    began = time.monotonic()
    while set(await submitter.once(1)) != {"250"}:
        if time.monotonic() > began + HEALED:
            faults.append(f"not healed within {HEALED:g} s")
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _ballast(data: Path, leave: int) -> Iterator[None]:
    """All of the disk but `leave` octets is taken until the block ends."""
    file = data / "ballast"
    with file.open("wb", buffering=0) as ballast:
        while (room := os.statvfs(data).f_bavail * os.statvfs(data).f_frsize - leave) > 0:
            try:
                ballast.write(bytes(min(room, 2**20)))
            except OSError:
                break
    try:
        yield
    finally:
        file.unlink()
