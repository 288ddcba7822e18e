"""R29: clean stops and reloads, half of them of what cannot be used, under load: nothing lost, nothing twice."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from bench.reliability.found import Found, figures
from tests.support.hostile_hop import Weather
from tests.support.ledger_run import Came, Lives, ledger_run, reload_twice

LONGEST = 30.0  # seconds from SIGTERM to the end


async def run(quick: bool) -> Found:
    messages, lives = (
        (400, Lives(3, (0.5, 1.0), killed=False)) if quick else (4000, Lives(10, (1.0, 3.0), killed=False))
    )
    weather = Weather(cut=0.0, seed=secrets.randbits(32))
    print(f"seed {weather.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="relay-r29-") as folder:
        came = await ledger_run(Path(folder), messages, lives, weather, amid=reload_twice)
    stops = f"{len(came.stops)} SIGTERM, the longest took {max(came.stops):.1f} s; {2 * lives.count} SIGHUP, half bad"
    return Found(f"{stops}; {figures(came)}", faults(came), quick)


def faults(came: Came) -> list[str]:
    """Beyond those of any run: a clean stop makes no copy, tells every client, and takes its time, but not long."""
    found = came.faults
    if came.balance.copies:
        found.append(f"{came.balance.copies} copies: {dict(came.balance.causes)}")
    if came.balance.unacknowledged:
        found.append(f"{came.balance.unacknowledged} recipients have what their client heard no 250 for")
    if odd := set(came.replies) - {"250", "421", ""}:  # "": no relay was there, or it ended before the dot
        found.append(f"clients heard {odd}")
    if max(came.stops) > LONGEST:
        found.append(f"a stop took {max(came.stops):.1f} s")
    return found
