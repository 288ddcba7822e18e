"""The supervisor in the test's own loop, its workers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay import supervisor
from relay.app import App
from relay.clock import SystemClock
from relay.config.models import Config
from relay.fact import Fact, Recorded
from relay.part import Part

PATIENCE = 30.0


class Supervised:
    """A relay of two workers, and the facts that its supervisor recorded."""

    def __init__(self, data: Path) -> None:
        self.facts: list[Fact] = []
        self._told = asyncio.Event()
        given = {
            "hostname": "relay.test",
            "data": str(data),
            "workers": 2,
            "listener": {"capture": {"role": "capture", "port": 0}},
            "web": {"port": 0},
        }
        self.app = App(Config.model_validate(given), SystemClock(), self._hear, Part(False, True, 0, 2))

    def _hear(self, recorded: Sequence[Recorded]) -> None:
        self.facts += [fact for _, fact in recorded]
        self._told.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [dict(fact.values) for fact in self.facts if fact.event == event]

    async def until(self, event: str, times: int) -> dict[str, Any]:
        """The last fact of `event`, once there have been so many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.of(event)) < times:
                self._told.clear()
                await self._told.wait()
        return self.of(event)[-1]


@asynccontextmanager
async def supervised(data: Path) -> AsyncIterator[Supervised]:
    relay = Supervised(data)
    await relay.app.start()
    try:
        yield relay
    finally:
        await relay.app.stop()


async def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PING", 0.1)
    monkeypatch.setattr(supervisor, "HUNG", 3.0)
    async with supervised(tmp_path) as relay:
        hung = relay.of("supervisor.worker_started")[0]
        os.kill(hung["process"], signal.SIGSTOP)
        ended = await relay.until("supervisor.worker_ended", 1)
        assert (ended["worker"], ended["signal"]) == (hung["worker"], "SIGKILL")
        assert ended["cause"] == "it was silent for 3 s"
        assert (await relay.until("supervisor.worker_started", 3))["worker"] == hung["worker"]


async def test_one_that_ends_soon_is_started_later_and_later(tmp_path: Path) -> None:
    async with supervised(tmp_path) as relay:
        for times, pause in enumerate((0.5, 1.0, 2.0), 1):
            process = relay.of("supervisor.worker_started")[-1]["process"]
            os.kill(process, signal.SIGKILL)
            ended = await relay.until("supervisor.worker_ended", times)
            assert (ended["process"], ended["retry_seconds"]) == (process, pause)
            if times < 3:
                await relay.until("supervisor.worker_started", 2 + times)
    assert len(relay.of("supervisor.worker_started")) == 4  # a stop does not wait for a start that is due


async def test_sigterm_has_a_worker_drain_and_another_take_its_place(tmp_path: Path) -> None:
    """As an operator may do to one; a service manager does it to all at once."""
    async with supervised(tmp_path) as relay:
        process = relay.of("supervisor.worker_started")[-1]["process"]
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the others are the supervisor's
            os.kill(process, number)
        ended = await relay.until("supervisor.worker_ended", 1)
        assert (ended["process"], ended["code"]) == (process, 0)
        await relay.until("supervisor.worker_started", 3)
