"""Messages for a store, and stores for messages."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from relay.address import Address
from relay.clock import Clock, SystemClock
from relay.envelope import Client, Envelope, new_id
from relay.fact import Fact
from relay.message import Message
from relay.queue.engine import Engine
from relay.queue.entry import Delivery, Entry, Recipient, Settlement
from relay.queue.sqlite import SqliteEngine
from relay.queue.states import Move
from relay.queue.store import Store

HEADER = b"From: Ann <ann@example.org>\r\nSubject: hello\r\n\r\n"
CONTENT = HEADER + b"One line.\r\n"
LEASE, CRASHES, FIRST_RETRY = 60.0, 3, 300.0
DAY = 86400.0


def make_entry(
    *recipients: str,
    now: float | None = None,
    content: bytes = CONTENT,
    sender: Address | None = Address("ann", "example.org"),  # noqa: B008
    **values: Any,
) -> Entry:
    """recipients: `bob@example.net` or `bob@example.net next`, where `next` is the hop. values: of each Recipient."""
    arrived = time.time() if now is None else now
    values = {"due": arrived, "expires": arrived + 5 * DAY, **values}
    made = []
    for one in recipients or ("bob@example.net",):
        address, _, hop = one.partition(" ")
        made.append(Recipient(Address(*address.split("@")), hop or "next", **values))
    client = Client("in", "submission", ip_address("192.0.2.1"), 40000, helo="app.example.org")
    envelope = Envelope(new_id(arrived), client, sender, recipients=[one.address for one in made])
    return Entry(envelope, Message.parse(content), arrived, sender is not None, tuple(made))


def soon() -> float:
    return time.monotonic() + 60.0


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    owner: str = "one",
    clock: Clock | None = None,
    facts: list[Fact] | None = None,
    engine: Engine | None = None,
    is_supervisor: bool = True,
    **values: Any,
) -> AsyncIterator[Store]:
    """A store over the file at `path`, closed in order."""
    clock, facts = clock or SystemClock(), [] if facts is None else facts
    engine = engine or SqliteEngine(path, clock)
    values = {"first_retry": FIRST_RETRY, **values}
    store = Store(engine, owner, LEASE, CRASHES, clock, facts.append, **values)
    try:
        await store.open(is_supervisor=is_supervisor)
        yield store
    finally:
        await store.close()


def each(delivery: Delivery, move: Move, **values: Any) -> Sequence[Settlement]:
    """The same settlement for all recipients of a delivery."""
    settlement = Settlement(0, move, 1, **values)
    return [replace(settlement, number=one.number) for one in delivery.queued.recipients]
