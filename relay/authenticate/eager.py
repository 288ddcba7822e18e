"""A coroutine begun at once: what Python 3.12 calls an eager task.

A check whose questions DNS has answered before never waits, and is then over without a task, which would cost more
than its answers do.

TRUSTS     that the coroutine does not look for the task it runs in before it first waits: no `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def begin(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Run `work` until it waits for something; from there on it is a task. An exception of its own is in the future."""
    try:
        waits_for = work.send(None)
    except StopIteration as end:
        return over(end.value)
    except Exception as error:
        failed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed
    task = asyncio.get_running_loop().create_task(_rest(work, waits_for))
    task.add_done_callback(lambda _: work.close())  # one that is cancelled before it runs never comes to `work`
    return task


def over(result: T) -> asyncio.Future[T]:
    """What needed no work, or none that waited."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


async def _rest(work: Coroutine[Any, Any, T], waits_for: object) -> T:
    return await _resumed(work, waits_for)


@coroutine
def _resumed(work: Coroutine[Any, Any, T], waits_for: object) -> Generator[object, None, T]:
    """The rest of `work`, which has handed out the future `waits_for`."""
    try:
        yield waits_for
    except BaseException as error:  # a cancellation, most of all
        try:
            waits_for = work.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        return (yield from _resumed(work, waits_for))
    return (yield from work.__await__())
