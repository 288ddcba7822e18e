"""`kill -9` amid it all (R1, short form): nothing that was acknowledged is lost, and every copy has a reason.

The long form is `make bench-reliability ARGS=R1`. What breaks a promise is tested in tests/flows/test_queue_ledger.py.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support.hostile_hop import Weather
from tests.support.ledger_run import Lives, ledger_run

pytestmark = pytest.mark.xdist_group("queue processes")

MESSAGES, KILLS = 500, 5


async def test_kills_lose_nothing_and_every_copy_has_a_reason(tmp_path: Path) -> None:
    weather = Weather(delay=0.3, seed=secrets.randbits(32))
    print(f"seed {weather.seed}")
    queue = {"first_retry": "100ms", "max_retry": "300ms"}
    came = await ledger_run(tmp_path, MESSAGES, Lives(KILLS, (0.3, 0.9)), weather, queue=queue)
    assert came.faults == [], came
    assert came.kills == KILLS
    assert came.balance.acknowledged >= MESSAGES
    # It was as bad as it should be: there were refusals to report, and ends that nobody could know of.
    assert 0 < came.refused <= came.balance.reported + came.tries - MESSAGES
    assert came.balance.causes.keys() & {"queue.lapsed: crash"}, came
