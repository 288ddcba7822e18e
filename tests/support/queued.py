"""Mail that lies in a queue in a file, as an operator finds it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from relay.address import Address
from relay.clock import Clock
from relay.queue.entry import Recipient
from relay.queue.sqlite import FILE_NAME
from relay.queue.store import Store
from tests.support.delivery import PLAIN
from tests.support.storing import make_entry, open_store

HOUR, DAY = 3600.0, 86400.0


def opened(data: Path, clock: Clock | None = None) -> AbstractAsyncContextManager[Store]:
    """The store of a queue in `data`, as a relay that runs alone opens it."""
    return open_store(data / FILE_NAME, clock=clock)


def waiting(address: str, hop: str = "next", *, due: float = 0.0) -> Recipient:
    """A recipient that was tried once; its hop said 451."""
    said = "451 4.3.0 try later"
    return Recipient(to_address(address), hop, attempts=1, due=due, expires=due + DAY, tried=due - 300, reply=said)


async def put(
    store: Store,
    clock: Clock,
    *recipients: Recipient,
    sender: str | None = "ann@example.org",
    age: float = 0.0,
    content: bytes = PLAIN,
    helo: str = "app.example.org",
) -> str:
    """A message that came `age` seconds ago, from a client that had logged in as `ann`; its id."""
    reverse_path = to_address(sender) if sender else None
    entry = make_entry(now=clock.time() - age, content=content, sender=reverse_path)
    entry.envelope.client = replace(entry.envelope.client, helo=helo, login="ann")
    await store.keep(replace(entry, recipients=recipients), clock.monotonic() + 60.0)
    return entry.envelope.id


def to_address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)
