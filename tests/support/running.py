"""The whole relay in the test's own loop."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relay.app import App
from relay.clock import SystemClock
from relay.config.models import Config
from relay.fact import Fact


class Running:
    """A running relay: `port(listener)`, and the `facts` it recorded."""

    def __init__(self, app: App, facts: list[Fact]) -> None:
        self.app, self.facts = app, facts

    def port(self, listener: str) -> int:
        return self.app.addresses[listener][1]

    def events(self) -> list[str]:
        return [fact.event for fact in self.facts]

    def of(self, event: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.event == event]


@asynccontextmanager
async def running(tables: Mapping[str, Any], data: Path) -> AsyncIterator[Running]:
    """Run the relay on `tables` (as in config.toml) until the block ends. Ports default to free ones.

    Mail from loopback is not checked unless `policy` is given: no test asks the world's DNS.
    """
    defaults = {"hostname": "relay.test", "data": str(data), "web": {"port": 0}, "policy": {"skip": ["127.0.0.0/8"]}}
    given: dict[str, Any] = {**defaults, **tables}
    for listener in given["listener"].values():
        listener.setdefault("port", 0)
    facts: list[Fact] = []
    app = App(Config.model_validate(given), SystemClock(), facts.append)
    await app.start()
    try:
        yield Running(app, facts)
    finally:
        await app.stop()
