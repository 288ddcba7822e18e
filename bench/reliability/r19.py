"""R19: five times as many clients as there is room for: who is above the cap hears so, and what was taken is there."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import takewhile
from pathlib import Path

from bench.reliability.found import Found
from tests.support.crashing import crashing_relay, queueing
from tests.support.hostile_hop import CALM, hostile_hop
from tests.support.ledger import balance
from tests.support.peers import free_port
from tests.support.queue_file import emptied
from tests.support.submitter import Submitter

CAP, OFFERED = 40, 200
LONGEST, NORMAL = 5.0, 5.0  # seconds: p99 of what is taken; until all is as before


async def run(quick: bool) -> Found:
    seconds, port = 5.0 if quick else 20.0, free_port()
    with tempfile.TemporaryDirectory(prefix="relay-r19-") as folder, hostile_hop(CALM, port) as hop:
        given = queueing(port, limit={"connections": CAP, "memory": "64 MiB"})
        with crashing_relay(Path(folder), given) as relay:
            await relay.start()
            crowd = Submitter(relay.ports["in"], sessions=OFFERED, size=20_000, pause=0.2)
            until = time.monotonic() + seconds
            await crowd.run(takewhile(lambda _: time.monotonic() < until, range(10**9)))
            after = Submitter(relay.ports["in"], prefix="after")
            began = time.monotonic()
            calm = await after.once(CAP // 2)
            took = time.monotonic() - began
            await emptied(relay.data, patience=120.0)
            await relay.stop()
            found = balance([*crowd.tries, *after.tries], hop.copies, hop.refused, relay.doubts())
    p99 = statistics.quantiles(crowd.seconds, n=100)[98]
    faults = found.faults + [f"{found.copies} copies"] * bool(found.copies)
    if odd := set(crowd.replies) - {"250", "421", "452"}:
        faults.append(f"clients heard {odd}")
    if not crowd.replies["421"]:
        faults.append("nobody was turned away: it was no overload")
    if p99 > LONGEST:
        faults.append(f"p99 of what was taken: {p99:.1f} s")
    if set(calm) != {"250"} or took > NORMAL:
        faults.append(f"afterwards: {dict(calm)} in {took:.1f} s")
    figures = (
        f"{OFFERED} clients, room for {CAP}, {seconds:g} s: replies {dict(crowd.replies)}; p99 {p99:.2f} s;"
        f" {found.acknowledged} recipients acknowledged, {len(found.lost)} lost;"
        f" afterwards {dict(calm)} in {took:.1f} s"
    )
    return Found(figures, faults, quick)
