"""Several relays that share a queue report at once: each mail has one report, whoever makes it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from relay.address import Address
from relay.capabilities import Capabilities
from relay.clock import SystemClock
from relay.config.models import Config
from relay.fact import Fact
from relay.message import Message
from relay.queue.entry import Entry, Selection
from relay.queue.postgres import PostgresEngine
from relay.queue.reporter import Reporter
from relay.queue.store import Store
from tests.support.postgres import Postgres, running_postgres
from tests.support.reports import MAIL, queued, read, recipient

pytestmark = pytest.mark.xdist_group("postgres")

RELAYS, MAILS = 3, 30
CONFIG = Config.model_validate(
    {
        "hostname": "mx.example.org",
        "listener": {"in": {"role": "submission", "port": 2525, "allow": ["10.0.0.0/8"], "senders": ["*"]}},
    }
)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


async def unsigned(message: Message, author: Address | None, id: str) -> Message:
    return message


async def test_each_mail_has_one_report(server: Postgres) -> None:
    clock, facts = SystemClock(), list[Fact]()
    ids = [f"0kqm0e2q5h7j4{number:03}" for number in range(MAILS)]
    url = server.new_database()
    async with AsyncExitStack() as stack:
        stores = []
        for number in range(RELAYS):
            engine = PostgresEngine(url, "relay.toml", clock, facts.append)
            store = Store(engine, f"relay {number}", 60.0, 5, clock, facts.append)
            await store.open(is_supervisor=True)
            stack.push_async_callback(store.close)
            stores.append(store)
        about = queued(recipient("bob@example.net"), recipient("büro@bücher.example"))
        for id in ids:
            envelope = replace(about.envelope, id=id)
            entry = Entry(envelope, Message.parse(MAIL), clock.time(), True, about.recipients)
            await stores[0].keep(entry, clock.monotonic() + 60)
        reporters = [
            Reporter(store, lambda: CONFIG, unsigned, lambda *_: "out", lambda _: Capabilities(), clock, facts.append)
            for store in stores
        ]
        await asyncio.gather(*(reporter.report_due() for reporter in reporters))
        reports = await stores[0].select(Selection())
        assert all(one.envelope.reverse_path is None for one in reports)
        told: Counter[str] = Counter()
        for one in reports:
            content = await stores[0].content(one.envelope.id)
            assert content is not None
            told.update(block["Final-Log-ID"] for block in read(bytes(content)).recipients)
        assert told == dict.fromkeys(ids, 2)
        assert sorted(fact.id for fact in facts if fact.event == "queue.reported") == ids
        assert [fact for fact in facts if fact.event == "queue.report_trouble"] == []
