"""Facts are told in their order, with their time, behind what the turn of the loop still does."""

import asyncio
from collections.abc import Sequence

from relay.fact import Fact, Recorded
from relay.watch.facts import Facts
from tests.support.clock import JumpingClock


class Hearing:
    def __init__(self) -> None:
        self.clock = JumpingClock(100.0)
        self.heard: list[list[tuple[float, str]]] = []
        self.facts = Facts(self.clock, self._hear)

    def _hear(self, recorded: Sequence[Recorded]) -> None:
        self.heard.append([(time, fact.event) for time, fact in recorded])


async def test_one_turn_is_told_at_once_behind_it() -> None:
    one = Hearing()
    one.facts.record(Fact("a.b"))
    one.clock.jump(1)
    one.facts.record(Fact("a.c"))
    assert one.heard == []
    await asyncio.sleep(0)
    assert one.heard == [[(100.0, "a.b"), (101.0, "a.c")]]
    one.facts.record(Fact("a.d"))
    await asyncio.sleep(0)
    assert one.heard[1:] == [[(101.0, "a.d")]]


async def test_what_waits_can_be_told_now() -> None:
    one = Hearing()
    one.facts.record(Fact("a.b"))
    one.facts.tell()
    assert one.heard == [[(100.0, "a.b")]]
    await asyncio.sleep(0)
    assert len(one.heard) == 1


async def test_who_hears_may_record() -> None:
    heard: list[str] = []

    def hear(recorded: Sequence[Recorded]) -> None:
        heard.extend(fact.event for _, fact in recorded)
        if heard == ["a.b"]:
            facts.record(Fact("a.c"))

    facts = Facts(JumpingClock(), hear)
    facts.record(Fact("a.b"))
    await asyncio.sleep(0)
    assert heard == ["a.b"]
    await asyncio.sleep(0)
    assert heard == ["a.b", "a.c"]


def test_outside_of_a_loop_nothing_waits() -> None:
    one = Hearing()
    one.facts.record(Fact("a.b"))
    assert one.heard == [[(100.0, "a.b")]]
