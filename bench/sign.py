"""What a DKIM signature costs: in the event loop, in threads, for one message and for 20 at once.

`.venv/bin/python -m bench.sign` prints one table. `longest` is the longest time that the loop was held.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from relay.config.models import Algorithm
from relay.edit.key import SigningKey
from relay.edit.sign import signatures
from relay.message import Message
from relay.publish.keys import new_key

HEADER = (
    b"From: Ann <ann@example.org>\r\nTo: Bob <bob@example.com>\r\nSubject: Figures\r\nMessage-ID: <1@example.org>\r\n"
)
LINE = b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n"
ROUNDS = 5


def message(octets: int) -> Message:
    return Message.parse(HEADER + b"\r\n" + LINE * (octets // len(LINE)))


async def measure(job: Callable[[], Awaitable[object]], at_once: int, count: int) -> tuple[float, float, float]:
    """(milliseconds a message, CPU milliseconds a message, longest pause of the loop in milliseconds); medians."""
    rows = []
    for _ in range(ROUNDS):
        pauses = [0.0]

        async def beat(pauses: list[float] = pauses) -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0)
                pauses.append(time.perf_counter() - before)

        async def worker() -> None:
            for _ in range(count // at_once):
                await job()

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        row = [time.perf_counter() - wall, time.process_time() - cpu]
        beating = asyncio.create_task(beat())  # in a run of its own: a loop that never waits costs CPU
        await asyncio.gather(*(worker() for _ in range(at_once)))
        beating.cancel()
        rows.append([1000 * part / count for part in row] + [1000 * max(pauses)])
    return tuple(statistics.median(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rsa = new_key("example.org", "r", Algorithm.RSA, Path(folder) / "r.pem")
        ed25519 = new_key("example.org", "e", Algorithm.ED25519, Path(folder) / "e.pem")
    cases: list[tuple[str, int, list[SigningKey], int]] = [
        ("10 KB, RSA-2048", 10_000, [rsa], 400),
        ("10 KB, Ed25519", 10_000, [ed25519], 400),
        ("10 KB, both", 10_000, [rsa, ed25519], 400),
        ("100 KB, Ed25519", 100_000, [ed25519], 200),
        ("10 MB, both", 10_000_000, [rsa, ed25519], 20),
    ]
    print(f"{'':18}{'':10}{'':>8}  {'ms':>8}{'CPU ms':>8}{'longest':>9}")
    with ThreadPoolExecutor(2) as threads:
        loop = asyncio.get_running_loop()
        for name, octets, keys, count in cases:
            content = message(octets)

            async def in_loop(content: Message = content, keys: list[SigningKey] = keys) -> object:
                await asyncio.sleep(0)
                return signatures(content, keys, 0)

            async def in_thread(content: Message = content, keys: list[SigningKey] = keys) -> object:
                return await loop.run_in_executor(threads, signatures, content, keys, 0)

            for where, job in (("in loop", in_loop), ("2 threads", in_thread)):
                for at_once in (1, 20):
                    wall, cpu, longest = await measure(job, at_once, count)
                    print(f"{name:18}{where:10}{at_once:>8}  {wall:8.3f}{cpu:8.3f}{longest:9.2f}")


if __name__ == "__main__":
    uvloop.run(main())
