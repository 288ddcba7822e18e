"""Messages over a socketpair: in order, whole, answered; and what is heard when the other end goes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.errors import ConfigError, Problem
from relay.link import Link, LinkLost

PATIENCE = 20.0
PROBLEM = Problem("file", "key", "is wrong")


class End:
    """One end, which answers what it is asked with the same; `heard` is what it was told."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.lost = asyncio.Event()
        self.link = Link(self._answer, self.heard.append, self.lost.set)

    async def _answer(self, message: Any) -> Any:
        match message:
            case "refuse":
                raise ConfigError(PROBLEM, PROBLEM)
            case "fail":
                raise ValueError("a mistake")
            case "wait":
                await asyncio.sleep(3600)
        return message


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[End, End]]:
    ends, sockets = (End(), End()), socket.socketpair()
    for end, one in zip(ends, sockets, strict=True):
        await end.link.open(one)
    try:
        yield ends
    finally:
        for end in ends:
            end.link.close()
        for end in ends:
            await asyncio.wait_for(end.lost.wait(), PATIENCE)


async def test_both_ends_ask_and_are_answered() -> None:
    async with linked() as (one, other):
        large = bytes(5_000_000)
        answers = await asyncio.gather(
            *(one.link.ask(number, PATIENCE) for number in range(100)),
            other.link.ask(large, PATIENCE),
        )
    assert answers == [*range(100), large]


async def test_what_is_told_comes_in_order_and_before_what_is_asked_later() -> None:
    async with linked() as (one, other):
        for number in range(1000):
            one.link.tell(number)
        await one.link.ask("done", PATIENCE)
        assert other.heard == [*range(1000)]


async def test_a_refusal_has_its_problems_and_a_mistake_its_traceback() -> None:
    async with linked() as (one, _):
        with pytest.raises(ConfigError) as refused:
            await one.link.ask("refuse", PATIENCE)
        assert refused.value.problems == (PROBLEM, PROBLEM)
        with pytest.raises(LinkLost, match="ValueError: a mistake"):
            await one.link.ask("fail", PATIENCE)
        assert await one.link.ask("and on", PATIENCE) == "and on"


async def test_who_waits_for_an_end_that_goes_hears_of_it() -> None:
    async with linked() as (one, other):
        asking = asyncio.create_task(one.link.ask("wait", PATIENCE))
        await one.link.ask("it has come", PATIENCE)
        other.link.close()
        with pytest.raises(LinkLost):
            await asking
        await asyncio.wait_for(one.lost.wait(), PATIENCE)
        with pytest.raises(LinkLost):
            await one.link.ask("anybody?", PATIENCE)
        one.link.tell("nobody")


async def test_an_answer_that_comes_too_late_is_passed_over() -> None:
    async with linked() as (one, _):
        with pytest.raises(TimeoutError):
            await one.link.ask("wait", 0.01)
        assert await one.link.ask("next", PATIENCE) == "next"
