"""R2: 3,000 messages by three relays with one PostgreSQL queue, on disk, struck again and again."""

from __future__ import annotations

import random
import secrets
import tempfile
from collections import Counter
from pathlib import Path

from bench.reliability.found import Found, figures
from tests.support.hostile_hop import Weather
from tests.support.shared_run import Blow, shared_run

_BLOWS = {Blow.KILL: 8, Blow.FREEZE: 4, Blow.TERMINATE: 4, Blow.RESTART: 4}


async def run(quick: bool) -> Found:
    weather = Weather(delay=1.0, seed=secrets.randbits(32))
    print(f"seed {weather.seed}", flush=True)
    messages, blows = (300, list(_BLOWS)) if quick else (3000, list(Counter(_BLOWS).elements()))
    random.Random(weather.seed).shuffle(blows)
    blows.insert(len(blows) * 2 // 3, Blow.PROMOTE)
    with tempfile.TemporaryDirectory(prefix="relay-r2-") as folder:
        came = await shared_run(Path(folder), messages, blows, (1.0, 3.0), weather, on_disk=True)
    struck = ", ".join(f"{count} × {blow}" for blow, count in Counter(blows).items())
    return Found(f"3 relays; {struck}; {figures(came)}", came.faults, quick)
