"""R1: 10,000 messages, 44 kills amid them, a hostile next hop; the books are compared."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from bench.reliability.found import Found, figures
from tests.support.hostile_hop import Weather
from tests.support.ledger_run import CONNECTIONS, Lives, ledger_run


async def run(quick: bool) -> Found:
    messages, lives = (500, Lives(5, (0.5, 1.5))) if quick else (10_000, Lives(44, (0.5, 3.0), in_start=0.1))
    weather = Weather(seed=secrets.randbits(32))
    print(f"seed {weather.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="relay-r1-") as folder:
        came = await ledger_run(Path(folder), messages, lives, weather)
    faults = came.faults
    by_kills = sum(count for cause, count in came.balance.causes.items() if "ambiguous" not in cause)
    if by_kills > came.kills * CONNECTIONS * 3:  # recipients of a message at most
        faults.append(f"{by_kills} copies by {came.kills} kills")
    return Found(f"{came.kills} kills; {came.cuts} connections cut by the hop; {figures(came)}", faults, quick)
