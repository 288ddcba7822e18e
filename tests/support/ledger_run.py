"""A ledger run: submissions all the time, lives of the relay that are ended amid them, a hop that keeps a book.

What came of it is a `Came`; its `faults` are what breaks a promise.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.crashing import CONNECTIONS as CONNECTIONS
from tests.support.crashing import CrashingRelay, crashing_relay, queueing
from tests.support.hostile_hop import HostileHop, Weather, hostile_hop
from tests.support.ledger import Balance, balance
from tests.support.peers import free_port
from tests.support.queue_file import states
from tests.support.submitter import Submitter

PATIENCE = 60.0  # seconds in which something must move while the queue empties


@dataclass(frozen=True, slots=True)
class Lives:
    """count: lives that are ended, one more follows. seconds: from ready to the end, at least and at most.

    killed: SIGKILL; otherwise SIGTERM. in_start: the share of kills that come before the relay is ready.
    """

    count: int
    seconds: tuple[float, float]
    killed: bool = True
    in_start: float = 0.0


@dataclass(slots=True)
class Came:
    """replies: to the client, by code; "" for none. copies: transactions the hop took. left: in the queue at the end.

    stops: seconds from each SIGTERM to the exit. cuts: connections that the hop cut.
    """

    balance: Balance
    replies: Counter[str]
    left: Counter[str]
    messages: int
    kills: int
    tries: int
    copies: int
    refused: int
    cuts: int
    seconds: float
    stops: list[float] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        left = [f"{count} recipients are {state} at the end" for state, count in self.left.items()]
        return [*self.balance.faults, *left, *self.troubles]


async def ledger_run(
    folder: Path,
    messages: int,
    lives: Lives,
    weather: Weather,
    amid: Callable[[CrashingRelay], Awaitable[None]] | None = None,
    **tables: Any,
) -> Came:
    """Submit all, end the relay amid it again and again, let it deliver the rest in peace, compare the books.

    amid: what else happens in each life that is stopped. tables: of the configuration.
    """
    chance, gate, permits = random.Random(weather.seed), asyncio.Semaphore(0), messages
    began, port = time.monotonic(), free_port()
    stops: list[float] = []
    with hostile_hop(weather, port) as hop, crashing_relay(folder, queueing(port, **tables)) as relay:
        submitter = Submitter(relay.ports["in"], seed=weather.seed, gate=gate)
        submitting = asyncio.create_task(submitter.run(range(messages)))
        try:
            for left in range(lives.count, 0, -1):
                relay.spawn()
                if chance.random() < lives.in_start:
                    await asyncio.sleep(chance.uniform(0.05, 0.8))
                else:
                    await relay.ready()
                    besides = asyncio.create_task(amid(relay)) if amid else None
                    share = permits // left
                    permits -= share
                    await _let_in(gate, share, chance.uniform(*lives.seconds))
                    if besides:
                        await besides
                if lives.killed:
                    relay.kill()
                else:
                    stops.append(await relay.stop())
            await relay.start()
            await _let_in(gate, permits, 0.0)
            await submitting
        finally:
            submitting.cancel()
            await asyncio.wait([submitting])
        await _emptied(relay, hop)
        left_over = states(relay.data)
        stops.append(await relay.stop())
        return Came(
            balance(submitter.tries, hop.copies, hop.refused, relay.doubts(), relay.kills),
            submitter.replies,
            left_over,
            messages,
            len(relay.kills),
            len(submitter.tries),
            len(hop.copies),
            len(hop.refused),
            hop.cuts,
            time.monotonic() - began,
            stops,
            relay.troubles(),
        )


async def reload_twice(relay: CrashingRelay) -> None:
    """A configuration that cannot be used, then a good one. AssertionError if either is not seen as what it is."""
    good = relay.config.read_text()
    assert not await relay.reload(good.replace("[queue]", "[queues]").replace("queue = {", "queues = {"))
    assert await relay.reload(good)


async def _let_in(gate: asyncio.Semaphore, messages: int, seconds: float) -> None:
    """New messages come all the time that a life lasts: its end is amid some."""
    until = time.monotonic() + seconds
    for number in range(messages, 0, -1):
        gate.release()
        await asyncio.sleep(max(0.0, (until - time.monotonic()) / number))


async def _emptied(relay: CrashingRelay, hop: HostileHop) -> None:
    """Until nothing but what is held is in the queue, or nothing has moved for PATIENCE."""
    moved, last = time.monotonic(), (-1, -1)
    while time.monotonic() < moved + PATIENCE:
        found = states(relay.data)
        if found.total() == found["held"]:
            return
        now = (found.total(), len(hop.copies))
        if now != last:
            moved, last = time.monotonic(), now
        await asyncio.sleep(0.1)
