"""Room in memory: bounded, in turn, never all of it for one hop, and never so strict that a message finds none."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from relay.queue.spool import Spool


async def test_what_does_not_fit_waits_until_room_is_given_back() -> None:
    spool = Spool(100)
    await spool.take("next", 60)
    waiting = asyncio.create_task(spool.take("next", 50))
    await asyncio.sleep(0)
    assert not waiting.done()
    spool.give("next", 60)
    await waiting
    assert spool.taken == 50


async def test_a_message_larger_than_the_room_goes_alone() -> None:
    spool = Spool(100)
    await spool.take("next", 10)
    large = asyncio.create_task(spool.take("next", 1000))
    await asyncio.sleep(0)
    assert not large.done()
    spool.give("next", 10)
    await large
    assert not spool.try_take("next", 1)


async def test_a_large_one_is_not_overtaken_for_ever_by_small_ones() -> None:
    spool = Spool(100)
    await spool.take("next", 50)
    large = asyncio.create_task(spool.take("next", 100))
    await asyncio.sleep(0)
    assert not spool.try_take("next", 1)
    small = asyncio.create_task(spool.take("next", 1))
    await asyncio.sleep(0)
    spool.give("next", 50)
    await large
    assert not small.done()
    spool.give("next", 100)
    await small


async def test_a_hop_that_does_not_move_leaves_room_for_another() -> None:
    spool = Spool(100)
    while spool.try_take("stuck", 10):
        pass
    assert spool.taken == 50
    await spool.take("stuck", 25)
    stuck = asyncio.create_task(spool.take("stuck", 1))
    await asyncio.sleep(0)
    assert not stuck.done()
    await spool.take("other", 20)
    assert not spool.try_take("other", 20)
    spool.give("stuck", 25)
    await stuck


async def test_who_has_nothing_in_it_gets_in_though_it_is_full() -> None:
    spool = Spool(100)
    await spool.take("a", 1000)
    await spool.take("b", 60)
    assert spool.taken == 1060


async def test_who_gives_up_waiting_takes_nothing_with_him() -> None:
    spool = Spool(100)
    await spool.take("next", 100)
    first, second, third = (asyncio.create_task(spool.take("next", 70)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    spool.give("next", 100)
    second.cancel()  # it has the room, and does not know yet
    await asyncio.gather(first, second, return_exceptions=True)
    await third
    assert spool.taken == 70


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 150)), max_size=30), st.integers(1, 200))
def test_everybody_gets_his_turn_and_the_bound_holds(wanted: list[tuple[str, int]], room: int) -> None:
    async def run() -> None:
        spool, done = Spool(room), 0
        # All that fits, or one message of each hop.
        bound = max(room, *(size for _, size in wanted), 0) + max((size for _, size in wanted), default=0)

        async def one(hop: str, size: int) -> None:
            nonlocal done
            await spool.take(hop, size)
            assert spool.taken <= bound
            await asyncio.sleep(0)
            spool.give(hop, size)
            done += 1

        await asyncio.gather(*(one(hop, size) for hop, size in wanted))
        assert (done, spool.taken) == (len(wanted), 0)

    asyncio.run(run())
