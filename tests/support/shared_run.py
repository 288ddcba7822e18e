"""A ledger run of several relays that share one PostgreSQL queue, amid everything that may befall them and it.

Like `ledger_run.py`: submissions all the time, a hostile hop that keeps a book, and in the end the books are compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.support.crashing import CrashingRelay, crashing_relay, queueing
from tests.support.hostile_hop import HostileHop, Weather, hostile_hop
from tests.support.ledger import balance
from tests.support.ledger_run import Came
from tests.support.peers import free_port
from tests.support.postgres import Postgres, running_postgres, running_standby
from tests.support.submitter import Submitter

PATIENCE = 60.0  # seconds in which something must move while the queue empties
LEASE = 2.0  # seconds
FROZEN = 2.5 * LEASE  # seconds: two leases are over when a relay goes on
_STATES = "SELECT coalesce(json_object_agg(state, n), '{}') FROM (SELECT state, count(*) n FROM recipient GROUP BY 1) s"


class Blow(StrEnum):
    """What happens to one of the relays, or to the database."""

    KILL = "kill -9"
    FREEZE = "SIGSTOP"  # past two leases
    TERMINATE = "pg_terminate_backend"  # of all sessions
    RESTART = "restart -m immediate"
    PROMOTE = "promotion"  # the primary dies, its synchronous standby takes over


@dataclass(slots=True)
class _Shared:
    """relays: all with one queue. database: the primary, now; standby: until it is promoted."""

    relays: Sequence[CrashingRelay]
    database: Postgres
    standby: Postgres | None
    chance: random.Random

    async def suffer(self, blow: Blow) -> None:
        """Returns when whatever was struck is back."""
        relay = self.chance.choice(self.relays)
        match blow:
            case Blow.KILL:
                relay.kill()
                await relay.start()
            case Blow.FREEZE:
                os.kill(relay.pid, signal.SIGSTOP)
                await asyncio.sleep(FROZEN)
                os.kill(relay.pid, signal.SIGCONT)
            case Blow.TERMINATE:
                assert await asyncio.to_thread(self.database.terminate_connections) > 0
            case Blow.RESTART:
                await asyncio.to_thread(self.database.crash)
                await asyncio.sleep(self.chance.uniform(0.0, 1.0))
                await asyncio.to_thread(self.database.start)
            case Blow.PROMOTE:
                assert self.standby is not None
                await asyncio.to_thread(self.database.crash)
                await asyncio.to_thread(self.standby.promote)
                self.database, self.standby = self.standby, None

    def states(self) -> Counter[str]:
        """How many recipients are in each state."""
        return Counter(json.loads(self.database.sql(_STATES)))

    async def emptied(self, hop: HostileHop) -> None:
        """Until nothing but what is held is in the queue, or nothing has moved for PATIENCE."""
        moved, last = time.monotonic(), (-1, -1)
        while time.monotonic() < moved + PATIENCE:
            found = await asyncio.to_thread(self.states)
            if found.total() == found["held"]:
                return
            if (now := (found.total(), len(hop.copies))) != last:
                moved, last = time.monotonic(), now
            await asyncio.sleep(0.1)

    def troubles(self) -> list[str]:
        """Mistakes of our own, whatever befell us."""
        return [
            line
            for relay in self.relays
            for line in relay.log.read_text(errors="replace").splitlines()
            if "Traceback" in line
        ]


async def shared_run(
    folder: Path,
    messages: int,
    blows: Sequence[Blow],
    pause: tuple[float, float],
    weather: Weather,
    *,
    relays: int = 3,
    on_disk: bool = False,
    **queue: Any,
) -> Came:
    """Submit all to all relays, strike them meanwhile, let them deliver the rest in peace, compare the books.

    pause: seconds between two blows, at least and at most. queue: settings of `[queue]`.
    """
    chance, began = random.Random(weather.seed), time.monotonic()
    gates = [asyncio.Semaphore(0) for _ in range(relays)]
    shares = [len(range(number, messages, relays)) for number in range(relays)]
    with _started(folder, relays, weather, on_disk, Blow.PROMOTE in blows, queue) as (shared, hop):
        shared.chance = chance
        await asyncio.gather(*(relay.start() for relay in shared.relays))
        submitters = [
            Submitter(relay.ports["in"], seed=weather.seed + number, sessions=8, gate=gate, prefix="abcdefgh"[number])
            for number, (relay, gate) in enumerate(zip(shared.relays, gates, strict=True))
        ]
        submitting = [asyncio.create_task(one.run(range(share))) for one, share in zip(submitters, shares, strict=True)]
        try:
            for left, blow in zip(range(len(blows), 0, -1), blows, strict=True):
                some = [share // (left + 1) for share in shares]
                shares = [share - more for share, more in zip(shares, some, strict=True)]
                letting = asyncio.create_task(_let_in(gates, some, pause[1]))
                await asyncio.sleep(chance.uniform(*pause))
                await shared.suffer(blow)
                await letting
            await _let_in(gates, shares, 0.0)
            await asyncio.gather(*submitting)
        finally:
            for one in submitting:
                one.cancel()
            await asyncio.gather(*submitting, return_exceptions=True)
        await shared.emptied(hop)
        left_over = shared.states()
        stops = [await relay.stop() for relay in shared.relays]
        tries = [one for submitter in submitters for one in submitter.tries]
        doubts = [doubt for relay in shared.relays for doubt in relay.doubts()]
        kills = [kill for relay in shared.relays for kill in relay.kills]
        return Came(
            balance(tries, hop.copies, hop.refused, doubts, kills),
            sum((submitter.replies for submitter in submitters), Counter()),
            left_over,
            messages,
            len(kills),
            len(tries),
            len(hop.copies),
            len(hop.refused),
            hop.cuts,
            time.monotonic() - began,
            stops,
            shared.troubles(),
        )


@contextmanager
def _started(
    folder: Path, relays: int, weather: Weather, on_disk: bool, with_standby: bool, queue: dict[str, Any]
) -> Iterator[tuple[_Shared, HostileHop]]:
    port = free_port()
    with ExitStack() as stack:
        primary = stack.enter_context(running_postgres(on_disk=on_disk))
        standby = stack.enter_context(running_standby(primary, on_disk=on_disk)) if with_standby else None
        hosts = [f"127.0.0.1:{one.port}" for one in (primary, standby) if one]
        settings = {
            "url": primary.url.replace(hosts[0], ",".join(hosts)),
            "lease": f"{LEASE:g}s",
            "first_retry": "200ms",
            "max_retry": "1s",
            **queue,
        }
        hop = stack.enter_context(hostile_hop(weather, port))
        nodes = [
            stack.enter_context(crashing_relay(folder / f"relay{number}", queueing(port, queue=settings)))
            for number in range(relays)
        ]
        yield _Shared(nodes, primary, standby, random.Random()), hop


async def _let_in(gates: Sequence[asyncio.Semaphore], messages: Sequence[int], seconds: float) -> None:
    """New messages come all the time: what happens is amid some."""
    until = time.monotonic() + seconds
    for left in range(max(messages), 0, -1):
        for gate, count in zip(gates, messages, strict=True):
            if count >= left:
                gate.release()
        await asyncio.sleep(max(0.0, (until - time.monotonic()) / left))
