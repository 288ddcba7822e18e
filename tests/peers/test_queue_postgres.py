"""Three relays with one PostgreSQL queue (R2, short form): whatever befalls them, or the database, nothing is lost.

The long form, with a standby that is promoted, is `make bench-reliability ARGS=R2`.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support.hostile_hop import Weather
from tests.support.shared_run import Blow, shared_run

pytestmark = pytest.mark.xdist_group("queue processes")

MESSAGES = 120
BLOWS = (Blow.KILL, Blow.TERMINATE, Blow.FREEZE, Blow.RESTART)


async def test_three_relays_with_one_database_lose_nothing_and_every_copy_has_a_reason(tmp_path: Path) -> None:
    weather = Weather(delay=0.3, seed=secrets.randbits(32))
    print(f"seed {weather.seed}")
    came = await shared_run(tmp_path, MESSAGES, BLOWS, (0.3, 0.6), weather)
    assert came.faults == [], came
    assert came.balance.acknowledged >= MESSAGES
    assert came.cuts, "the next hop was as bad as it should be"
