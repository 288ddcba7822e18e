"""A burst of new mail goes first, for a while."""

from __future__ import annotations

import asyncio

import pytest

from relay.queue import burst
from relay.queue.burst import CROWD, PAUSE, Burst

PATIENCE = 30.0


async def test_a_few_messages_are_no_burst() -> None:
    one = Burst(lambda: None)
    for _ in range(CROWD - 1):
        one.begin_message()
    assert not one.is_first
    one.end_message()
    one.begin_message()
    assert not one.is_first


async def test_a_crowd_is_one_until_it_has_been_over_for_a_while() -> None:
    ended, began = asyncio.Event(), asyncio.get_running_loop().time()
    one = Burst(ended.set)
    for _ in range(CROWD):
        one.begin_message()
    for _ in range(CROWD):
        one.end_message()
    assert one.is_first, "they have their 250, and more may come"
    await asyncio.wait_for(ended.wait(), PATIENCE)
    assert not one.is_first
    assert asyncio.get_running_loop().time() - began >= PAUSE


async def test_a_crowd_that_stays_is_first_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "LONGEST", 0.2)
    ended = asyncio.Event()
    one = Burst(ended.set)
    for _ in range(CROWD):
        one.begin_message()

    async def crowd() -> None:
        while not ended.is_set():
            one.begin_message()
            one.end_message()
            await asyncio.sleep(0.001)

    await asyncio.wait_for(crowd(), PATIENCE)
    one.begin_message()
    assert not one.is_first, "the same crowd"
    one.close()
