"""Room in memory: bounded, in turn, and never so strict that a large message finds none."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from relay.queue.spool import Spool


async def test_what_does_not_fit_waits_until_room_is_given_back() -> None:
    spool = Spool(100)
    await spool.take(60)
    waiting = asyncio.create_task(spool.take(50))
    await asyncio.sleep(0)
    assert not waiting.done()
    spool.give(60)
    await waiting
    assert spool.taken == 50


async def test_a_message_larger_than_the_room_goes_alone() -> None:
    spool = Spool(100)
    await spool.take(10)
    large = asyncio.create_task(spool.take(1000))
    await asyncio.sleep(0)
    assert not large.done()
    spool.give(10)
    await large
    assert not spool.try_take(1)


async def test_a_large_one_is_not_overtaken_for_ever_by_small_ones() -> None:
    spool = Spool(100)
    await spool.take(50)
    large = asyncio.create_task(spool.take(100))
    await asyncio.sleep(0)
    assert not spool.try_take(1)
    small = asyncio.create_task(spool.take(1))
    await asyncio.sleep(0)
    spool.give(50)
    await large
    assert not small.done()
    spool.give(100)
    await small


async def test_who_gives_up_waiting_takes_nothing_with_him() -> None:
    spool = Spool(100)
    await spool.take(100)
    first, second, third = (asyncio.create_task(spool.take(80)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    spool.give(100)
    second.cancel()  # it has the room, and does not know yet
    await asyncio.gather(first, second, return_exceptions=True)
    await third
    assert spool.taken == 80


@given(st.lists(st.integers(0, 150), max_size=30), st.integers(1, 200))
def test_everybody_gets_his_turn_and_the_bound_holds(sizes: list[int], room: int) -> None:
    async def run() -> None:
        spool, done = Spool(room), 0

        async def one(size: int) -> None:
            nonlocal done
            await spool.take(size)
            assert spool.taken <= max(room, *sizes)
            await asyncio.sleep(0)
            spool.give(size)
            done += 1

        await asyncio.gather(*map(one, sizes))
        assert (done, spool.taken) == (len(sizes), 0)

    asyncio.run(run())
