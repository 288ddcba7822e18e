"""After every test: no stray task, and the descriptors that were open before it."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

uvloop.new_event_loop().close()  # libuv's signal pipe is opened once for the process and kept

SETTLE = 2.0  # seconds for closed connections to have gone on both sides
_FOLDER = Path("/proc/self/fd")


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up first and torn down last, so that what other fixtures leave is seen too."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_stray_tasks_or_descriptors")
        yield
        return
    before = _descriptors()
    yield
    if _opened_since(before):
        gc.collect()
    assert not _opened_since(before), f"descriptors left open: {_opened_since(before)}"


@pytest.fixture
async def no_stray_tasks_or_descriptors() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    own_tasks = asyncio.all_tasks()
    before = _descriptors()
    yield
    until = loop.time() + SETTLE
    while _stray(own_tasks) or _opened_since(before):
        if loop.time() > until:
            break
        gc.collect()
        await asyncio.sleep(0.01)
    assert not _stray(own_tasks), f"tasks left running: {_stray(own_tasks)}"
    assert not _opened_since(before), f"descriptors left open: {_opened_since(before)}"


def _stray(own_tasks: set[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() - own_tasks if task is not asyncio.current_task()]


def _descriptors() -> Counter[str]:
    """What each open descriptor is: sockets and the like by kind, since their numbers change."""
    kinds: Counter[str] = Counter()
    for entry in _FOLDER.iterdir() if _FOLDER.exists() else ():
        try:
            target = str(entry.readlink())
        except OSError:  # the one that listed the folder
            continue
        kinds[target.partition(":[")[0]] += 1
    return kinds


def _opened_since(before: Counter[str]) -> dict[str, int]:
    return dict(_descriptors() - before)
