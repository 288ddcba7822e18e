"""Clean stops and reloads under load (R29, short form): nothing is lost, nothing comes twice, every client is told."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from bench.reliability.r29 import faults
from tests.support.hostile_hop import Weather
from tests.support.ledger_run import Lives, ledger_run, reload_twice

pytestmark = pytest.mark.xdist_group("queue processes")

MESSAGES, STOPS = 300, 3


async def test_clean_stops_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    weather = Weather(cut=0.0, delay=0.5, seed=secrets.randbits(32))
    print(f"seed {weather.seed}")
    queue = {"first_retry": "100ms", "max_retry": "300ms"}
    lives = Lives(STOPS, (0.3, 0.9), killed=False)
    came = await ledger_run(tmp_path, MESSAGES, lives, weather, amid=reload_twice, queue=queue)
    assert faults(came) == [], came
    assert len(came.stops) == STOPS + 1
    assert came.copies > 0
