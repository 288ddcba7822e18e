"""The depth of the queue as facts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.fact import Fact
from relay.queue.depth import PERIOD, tell_depth
from relay.queue.engine import Unavailable
from relay.queue.entry import Depth, Selection
from relay.queue.states import Move, State
from tests.support.clock import JumpingClock
from tests.support.queued import HOUR, opened, put, waiting


class Looks(JumpingClock):
    """A clock whose sleeps are counted, and stop the one who sleeps after as many as said."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left, self.slept = looks, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.left -= 1
        if not self.left:
            raise asyncio.CancelledError
        await super().sleep(seconds)


async def told(store: Any, looks: Looks) -> list[Fact]:
    facts: list[Fact] = []
    with pytest.raises(asyncio.CancelledError):
        await tell_depth(store, looks, facts.append)
    return facts


def depth(facts: Sequence[Fact]) -> list[tuple[object, ...]]:
    assert {(one.event, one.level, one.id) for one in facts} <= {("queue.depth", "debug", "")}
    return [tuple(one.values[name] for name in ("hop", "state", "recipients", "messages", "oldest")) for one in facts]


async def test_each_hop_and_state_is_told_with_the_age_of_its_oldest(tmp_path: Path) -> None:
    clock = Looks(1)
    async with opened(tmp_path, clock) as store:
        await put(store, clock, waiting("bob@example.net"), waiting("eve@example.net"), age=2 * HOUR)
        await put(store, clock, waiting("bob@example.net"), waiting("eve@example.com", "other"), age=HOUR)
        assert depth(await told(store, clock)) == [
            ("next", "waiting", 3, 2, 2 * HOUR),
            ("other", "waiting", 1, 1, HOUR),
        ]


async def test_what_has_gone_is_told_once_as_zero(tmp_path: Path) -> None:
    clock = Looks(1)
    async with opened(tmp_path, clock) as store:

        class Emptied:
            """Between the first look and the second everything is held, and then dropped."""

            looks = 0

            async def depth(self) -> tuple[Depth, ...]:
                self.looks += 1
                if self.looks > 1:
                    await store.move(Selection(), {2: Move.HOLD, 3: Move.DROP}.get(self.looks, Move.RETRY))
                return await store.depth()

        await put(store, clock, waiting("bob@example.net"), age=HOUR)
        clock.left = 4
        assert depth(await told(Emptied(), clock)) == [
            ("next", "waiting", 1, 1, HOUR),
            ("next", "held", 1, 1, HOUR + PERIOD),
            ("next", "waiting", 0, 0, 0.0),
            ("next", "held", 0, 0, 0.0),
        ]
    assert clock.slept == [PERIOD] * 4


async def test_a_queue_that_cannot_be_read_is_told_once_until_it_can() -> None:
    class Gone:
        answers = iter([True, False, False, True, False])

        async def depth(self) -> tuple[Depth, ...]:
            if not next(self.answers):
                raise Unavailable("the database is locked")
            return (Depth("next", State.HELD, 1, 1, 0.0),)

    facts = await told(Gone(), Looks(5))
    assert [one.event for one in facts] == ["queue.depth", "queue.trouble", "queue.depth", "queue.trouble"]
    assert "the database is locked" in str(facts[1].values["cause"])


async def test_a_clock_that_goes_back_makes_no_negative_age(tmp_path: Path) -> None:
    clock = Looks(1)
    async with opened(tmp_path, clock) as store:
        await put(store, clock, waiting("bob@example.net"), age=-HOUR)
        assert depth(await told(store, clock)) == [("next", "waiting", 1, 1, 0.0)]
