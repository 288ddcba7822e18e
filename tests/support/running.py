"""The whole relay in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relay.app import App
from relay.clock import SystemClock
from relay.config.models import Config
from relay.fact import Fact, Recorded


class Running:
    """A running relay: `port(listener)`, and the `facts` it recorded."""

    def __init__(self, config: Config) -> None:
        self.facts: list[Fact] = []
        self._told = asyncio.Event()
        self.app = App(config, SystemClock(), self._hear)

    def _hear(self, recorded: Sequence[Recorded]) -> None:
        self.facts += [fact for _, fact in recorded]
        self._told.set()

    def port(self, listener: str) -> int:
        return self.app.addresses[listener][1]

    def events(self) -> list[str]:
        return [fact.event for fact in self.facts]

    def of(self, event: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.event == event]

    async def until(self, event: str) -> None:
        """Wait for a fact of that event, unless there is one."""
        while event not in self.events():
            await self.changed()

    async def changed(self) -> None:
        """Wait for the next fact."""
        self._told.clear()
        await self._told.wait()


@asynccontextmanager
async def running(tables: Mapping[str, Any], data: Path) -> AsyncIterator[Running]:
    """Run the relay on `tables` (as in config.toml) until the block ends. Ports default to free ones.

    Mail from loopback is not checked unless `policy` is given: no test asks the world's DNS.
    """
    defaults = {"hostname": "relay.test", "data": str(data), "web": {"port": 0}, "policy": {"skip": ["127.0.0.0/8"]}}
    given: dict[str, Any] = {**defaults, **tables}
    for listener in given["listener"].values():
        listener.setdefault("port", 0)
    relay = Running(Config.model_validate(given))
    await relay.app.start()
    try:
        yield relay
    finally:
        await relay.app.stop()
