"""Mail put straight into a queue in a file, as an operator would find it there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from relay.address import Address
from relay.clock import Clock, SystemClock
from relay.envelope import Client, Envelope, new_id
from relay.fact import Fact, Record
from relay.message import Message
from relay.queue.entry import Entry, Recipient
from relay.queue.sqlite import FILE_NAME, SqliteEngine
from relay.queue.states import State
from relay.queue.store import Store
from tests.support.delivery import PLAIN

HOUR, DAY = 3600.0, 86400.0


def nobody(fact: Fact) -> None:
    """Who does not listen to facts."""


@asynccontextmanager
async def opened(data: Path, clock: Clock | None = None, record: Record = nobody) -> AsyncIterator[Store]:
    """The store of a queue in `data`, as a relay that runs alone opens it."""
    clock = clock or SystemClock()
    store = Store(SqliteEngine(data / FILE_NAME, clock), "test", 60.0, 5, clock, record)
    await store.open(is_supervisor=True)
    try:
        yield store
    finally:
        await store.close()


def waiting(address: str, hop: str = "next", *, state: State = State.WAITING, due: float = 0.0) -> Recipient:
    """A recipient that was tried once; its hop said 451."""
    said = "451 4.3.0 try later"
    return Recipient(to_address(address), hop, state, 0, 1, due=due, expires=due + DAY, tried=due - 300, reply=said)


async def put(
    store: Store,
    clock: Clock,
    *recipients: Recipient,
    sender: str | None = "ann@example.org",
    age: float = 0.0,
    content: bytes = PLAIN,
    helo: str = "app.example.org",
) -> str:
    """A message that came `age` seconds ago; its id."""
    arrived = clock.time() - age
    client = Client("app", "submission", ip_address("192.0.2.1"), 4000, helo=helo, login="ann")
    reverse_path = to_address(sender) if sender else None
    envelope = Envelope(new_id(arrived), client, reverse_path, recipients=[one.address for one in recipients])
    entry = Entry(envelope, Message.parse(content), arrived, reverse_path is not None, recipients)
    await store.keep(entry, clock.monotonic() + 60.0)
    return envelope.id


def to_address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)
