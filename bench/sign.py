"""What a DKIM signature costs: all in the event loop, or as the Signer does it, RSA and large bodies in threads.

`make bench ARGS=sign`. `busy` is a loop that spends WORK on each message
besides; `ms` is wall-clock time a message, `CPU` the process's, `pause` the longest that the loop was held.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from relay.address import Address
from relay.clock import SystemClock
from relay.config.models import Domain
from relay.edit.sign import Signer
from relay.edit.signature import signatures
from relay.message import Message
from relay.publish.keys import make_missing_keys

HEADER = (
    b"From: Ann <ann@example.org>\r\nTo: Bob <bob@example.com>\r\nSubject: Figures\r\nMessage-ID: <1@example.org>\r\n"
)
LINE = b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n"
AUTHOR = Address("ann", "example.org")
WORK = 0.00025  # seconds; about what else the relay does for a message
ROUNDS = 5
CASES = (("10 KB", 10_000, 400), ("100 KB", 100_000, 200), ("10 MB", 10_000_000, 20))
ALGORITHMS = {"RSA": ("rsa-sha256",), "Ed25519": ("ed25519-sha256",), "both": ("rsa-sha256", "ed25519-sha256")}

Job = Callable[[], Awaitable[object]]


def message(octets: int) -> Message:
    return Message.parse(HEADER + b"\r\n" + LINE * (octets // len(LINE)))


def signer(folder: Path, algorithms: tuple[str, ...]) -> Signer:
    key = {name: {"selector": name, "file": folder / name, "algorithm": name, "generate": True} for name in algorithms}
    domains = {"example": Domain.model_validate({"name": "example.org", "key": key})}
    for _ in make_missing_keys(domains, SystemClock()):
        pass
    return Signer(domains, SystemClock(), lambda fact: None)


async def spent(job: Job, at_once: int, count: int) -> tuple[float, float]:
    """(wall, CPU) milliseconds a message."""

    async def worker() -> None:
        for _ in range(count // at_once):
            await asyncio.sleep(0)
            await job()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return 1000 * (time.perf_counter() - wall) / count, 1000 * (time.process_time() - cpu) / count


async def longest_pause(job: Job) -> float:
    """Milliseconds that the loop was held at most while `job` ran a few times."""
    longest = 0.0
    for _ in range(10):
        running = asyncio.ensure_future(job())
        while not running.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
    return 1000 * longest


async def print_table() -> None:
    print(f"{'body':8}{'keys':9}{'RSA in':9}{'loop':6}{'at once':>8}{'ms':>9}{'CPU':>9}{'pause':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for keys, algorithms in ALGORITHMS.items():
            threads = signer(Path(folder), algorithms)
            for body, octets, count in CASES:
                content = message(octets)

                async def in_loop(content: Message = content, threads: Signer = threads) -> object:
                    return content.prepend(*signatures(content, threads.keys("example.org"), 0))

                async def in_threads(content: Message = content, threads: Signer = threads) -> object:
                    return await threads.sign(content, AUTHOR, "")

                for where, sign in (("loop", in_loop), ("threads", in_threads)):
                    pause = await longest_pause(sign)

                    async def busy(sign: Job = sign) -> object:
                        end = time.perf_counter() + WORK
                        while time.perf_counter() < end:
                            pass
                        return await sign()

                    for load, job in (("idle", sign), ("busy", busy)):
                        for at_once in (1, 20):
                            rounds = [await spent(job, at_once, count) for _ in range(ROUNDS)]
                            wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
                            row = f"{body:8}{keys:9}{where:9}{load:6}{at_once:>8}{wall:9.3f}{cpu:9.3f}"
                            print(row + f"{pause:9.2f}", flush=True)


def main() -> None:
    uvloop.run(print_table())
