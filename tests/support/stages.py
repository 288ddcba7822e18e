"""Stages that answer as the test says, and listeners that hand their mail to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from relay import reply
from relay.accept.listener import Listeners
from relay.accept.login import Logins
from relay.address import Address
from relay.capabilities import EVERYTHING, Capabilities
from relay.clock import SystemClock
from relay.config.models import Config
from relay.envelope import Envelope
from relay.fact import Fact
from relay.reply import Reply


class Scripted:
    """Takes everything, unless `answers` has a Reply or an exception for "sender", "recipient", "receive".

    received: envelope and content of each message that came; `arrived` is set with each.
    gate: when given, `receive` waits for it.
    """

    def __init__(self, **answers: Reply | Exception) -> None:
        self.answers: dict[str, Reply | Exception] = answers
        self.received: list[tuple[Envelope, bytes]] = []
        self.arrived = asyncio.Event()
        self.forgotten: list[Envelope] = []
        self.untold: list[tuple[bytes, Reply]] = []
        self.gate: asyncio.Event | None = None
        self.taken = EVERYTHING  # what the next hops take

    def sender(self, envelope: Envelope) -> Reply:
        return self._answer("sender", reply.SENDER_OK)

    def forget(self, envelope: Envelope) -> None:
        self.forgotten.append(envelope)

    async def unheard(self, envelope: Envelope, content: bytearray, reply: Reply) -> None:
        self.untold.append((bytes(content), reply))

    def capabilities(self, listener: str) -> Capabilities:
        return self.taken

    def recipient(self, envelope: Envelope, recipient: Address) -> Reply:
        return self._answer("recipient", reply.RECIPIENT_OK)

    async def receive(self, envelope: Envelope, content: bytearray) -> Reply:
        self.received.append((envelope, bytes(content)))
        self.arrived.set()
        if self.gate is not None:
            await self.gate.wait()
        return self._answer("receive", reply.accepted(envelope.id))

    @property
    def contents(self) -> list[bytes]:
        return [content for _, content in self.received]

    def _answer(self, stage: str, default: Reply) -> Reply:
        answer = self.answers.get(stage, default)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Listening:
    """Running listeners: `address(name)`, and the `facts` they recorded."""

    def __init__(self, listeners: Listeners, facts: list[Fact]) -> None:
        self.listeners, self.facts = listeners, facts

    def address(self, name: str) -> tuple[str, int]:
        return self.listeners.addresses[name]

    def of(self, event: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.event == f"accept.{event}"]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`, for at most 20 seconds."""
        await until(holds)


async def until(holds: Callable[[], bool], patience: float = 20.0) -> None:
    """Wait until `holds()`; fail when it does not in `patience` seconds."""
    async with asyncio.timeout(patience):
        while not holds():
            await asyncio.sleep(0.001)


def configured(tables: Mapping[str, Any]) -> Config:
    """`tables` as in config.toml; ports default to free ones."""
    given = {"hostname": "relay.test", **tables}
    listeners = {name: {"port": 0, **settings} for name, settings in given["listener"].items()}
    return Config.model_validate({**given, "listener": listeners})


@asynccontextmanager
async def listening(
    stages: Any,
    tables: Mapping[str, Any] | None = None,
    *,
    logins: Logins | None = None,
    drain: float = 5.0,
    own: Collection[str] = (),
) -> AsyncIterator[Listening]:
    """Listeners as in config.toml (default: one `capture`) on free ports, until the block ends.

    own: addresses that are taken for this machine's.
    """
    facts: list[Fact] = []
    listeners = Listeners(
        configured(tables or {"listener": {"capture": {"role": "capture"}}}),
        stages,
        logins,
        SystemClock(),
        facts.append,
        lambda ip: str(ip) in own,
    )
    await listeners.start()
    try:
        yield Listening(listeners, facts)
    finally:
        await listeners.drain(drain)
