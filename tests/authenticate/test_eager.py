import asyncio

import pytest

from relay.authenticate.eager import begin


async def test_what_never_waits_is_over_at_once_and_is_no_task() -> None:
    async def work() -> int:
        return 7

    before = asyncio.all_tasks()
    begun = begin(work())
    assert begun.done()
    assert await begun == 7
    assert asyncio.all_tasks() == before


async def test_what_waits_goes_on_as_a_task() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    seen = []

    async def work() -> str:
        for number, gate in enumerate(gates):
            seen.append(number)
            await gate.wait()
        return "done"

    begun = begin(work())
    assert seen == [0]  # it has begun before anybody waited for it
    assert not begun.done()
    for gate in gates:
        gate.set()
    assert await begun == "done"


async def test_the_future_it_waits_for_may_be_done_before_the_task_runs() -> None:
    answer = asyncio.get_running_loop().create_future()

    async def work() -> int:
        return 1 + await answer

    begun = begin(work())
    answer.set_result(1)
    assert await begun == 2


@pytest.mark.parametrize("waits", [False, True])
async def test_its_exception_is_raised_where_it_is_awaited(waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("bug")

    begun = begin(work())
    with pytest.raises(ValueError, match="bug"):
        await begun


async def test_an_exception_of_what_it_waits_for_reaches_it() -> None:
    answer = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await answer
        except OSError:
            await asyncio.sleep(0)
            return "repaired"
        return ""

    begun = begin(work())
    answer.set_exception(OSError())
    assert await begun == "repaired"


@pytest.mark.parametrize("started", [False, True])
async def test_it_can_be_cancelled_while_it_waits_and_cleans_up(started: bool) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    begun = begin(work())
    if started:
        await asyncio.sleep(0)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    assert ended == [True]


async def test_a_cancellation_may_be_answered_by_waiting_once_more() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            return "orderly"
        return ""

    begun = begin(work())
    await asyncio.sleep(0)
    begun.cancel()
    assert await begun == "orderly"
