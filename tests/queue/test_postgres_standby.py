"""A primary with a synchronous standby: 250 means that both have it, and the relay follows the one that is promoted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Connection, select

from relay.clock import SystemClock
from relay.fact import Fact
from relay.queue import postgres
from relay.queue.engine import CommitUnknown, NotKept, Operation
from relay.queue.postgres import PostgresEngine
from relay.queue.schema import mark
from tests.support.postgres import Postgres, running_postgres, running_standby

pytestmark = pytest.mark.xdist_group("postgres")

_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'relay'"


@pytest.fixture
def primary() -> Iterator[Postgres]:
    with running_postgres() as primary:
        yield primary


@pytest.fixture
def standby(primary: Postgres) -> Iterator[Postgres]:
    with running_standby(primary) as standby:
        yield standby


@asynccontextmanager
async def opened(*servers: Postgres, facts: list[Fact] | None = None) -> AsyncIterator[PostgresEngine]:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    url = servers[0].url.replace(f"127.0.0.1:{servers[0].port}", hosts)
    record = facts.append if facts is not None else lambda fact: None
    engine = PostgresEngine(url, "relay.toml", SystemClock(), record)
    try:
        await engine.open()
        yield engine
    finally:
        await engine.close()


def put(name: str) -> Operation[None]:
    def work(connection: Connection, now: float) -> None:
        connection.execute(mark.insert().values(name=name, value=""))

    return work


def names(connection: Connection, now: float) -> list[str]:
    return list(connection.scalars(select(mark.c.name).order_by(mark.c.name)))


async def waits(primary: Postgres, count: int = 1) -> None:
    while primary.sql(_WAITS) != str(count):
        await asyncio.sleep(0.01)


async def test_what_no_standby_confirms_is_unknown_and_leaves_no_one_waiting(
    primary: Postgres, standby: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(primary) as engine:
        await engine.transact([put("a")])
        assert standby.sql("SELECT count(*) FROM mark") == "1"
    monkeypatch.setattr(postgres, "SILENCE", 0.5)
    async with opened(primary) as engine:
        standby.signal_all(stop=True)
        try:
            for name in "bc":
                with pytest.raises(CommitUnknown):
                    await engine.transact([put(name)])
            await waits(primary, 0)
        finally:
            standby.signal_all(stop=False)
        await engine.transact([put("d")])
        assert await engine.read(names) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_wait_that_an_administrator_ends_is_no_confirmation(
    primary: Postgres, standby: Postgres, how: str
) -> None:
    """To the first the server answers COMMIT, and warns."""
    async with opened(primary) as engine:
        standby.signal_all(stop=True)
        try:
            commit = asyncio.create_task(engine.transact([put("a")]))
            await waits(primary)
            primary.sql(_WAITS.replace("count(*)", f"{how}(pid)"))
            with pytest.raises(CommitUnknown):
                await commit
        finally:
            standby.signal_all(stop=False)


@pytest.mark.parametrize("order", [1, -1])
async def test_a_promoted_standby_has_all_that_was_acknowledged_and_is_found(
    primary: Postgres, standby: Postgres, order: int
) -> None:
    facts: list[Fact] = []
    acknowledged: list[str] = []
    async with opened(*(primary, standby)[::order], facts=facts) as engine, opened(primary, standby) as other:

        async def write(name: str, engine: PostgresEngine) -> None:
            for number in range(100_000):
                try:
                    await engine.transact([put(f"{name}{number}")])
                except NotKept:
                    await asyncio.sleep(0.01)
                    continue
                acknowledged.append(f"{name}{number}")

        writers = [asyncio.create_task(write(name, one)) for name, one in (("a", engine), ("b", other), ("c", engine))]
        try:
            while len(acknowledged) < 50:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(primary.crash)
            before = len(acknowledged)
            await asyncio.to_thread(standby.promote)
            while len(acknowledged) < before + 50:
                await asyncio.sleep(0.01)
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
        assert set(acknowledged) <= set(await engine.read(names))
    place = f"127.0.0.1:{standby.port}"
    changes = [fact.values["host"] for fact in facts if fact.event == "queue.primary"]
    assert changes[-1:] == [place]
