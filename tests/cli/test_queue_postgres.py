"""`relay queue` without a relay, on a queue in PostgreSQL: others may run, and nothing is locked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli.queue import queue
from relay.clock import SystemClock
from relay.queue.postgres import PostgresEngine
from relay.queue.store import Store
from tests.cli.test_queue import CONFIG
from tests.support.postgres import PASSWORD, Postgres, running_postgres
from tests.support.queued import HOUR, put, waiting

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a database of its own, which the configuration names."""
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    url = server.new_database()
    (tmp_path / "config.toml").touch(0o600)
    (tmp_path / "config.toml").write_text(CONFIG + f'queue.url = "{url}"\n')
    return url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(queue, arguments)


def test_the_database_is_asked_where_no_relay_runs_here(url: str, tmp_path: Path) -> None:
    clock = SystemClock()

    async def fill() -> tuple[str, str]:
        store = Store(PostgresEngine(url, "", clock, lambda fact: None), "far away", 60.0, 5, clock, lambda fact: None)
        await store.open(is_supervisor=False)
        try:
            ann = await put(store, clock, waiting("ann@example.net", due=clock.time() - 1), age=HOUR)
            bob = await put(store, clock, waiting("bob@example.net", due=clock.time() + HOUR))
            assert await store.claim("next", 1)  # another relay is delivering to ann
            return ann, bob
        finally:
            await store.close()

    ann, bob = asyncio.run(fill())
    assert [found["id"] for found in json.loads(run("list", "--json").stdout)] == [ann, bob]
    result = run("hold", "--all", "--json")
    assert json.loads(result.stdout) == {"recipients": 1, "messages": 1, "others": {"active": 1}}
    states = {found["id"]: found["recipients"][0]["state"] for found in json.loads(run("list", "--json").stdout)}
    assert states == {ann: "active", bob: "held"}
    assert "hello" in run("show", bob, "--source").stdout
    assert run("release", "--recipient", "bob@example.net").exit_code == 0
    assert run("drop", bob).exit_code == 0
    assert run("drop", bob).exit_code == 1
    assert not (tmp_path / "data" / "queue.lock").exists()


def test_a_database_that_is_gone_is_1_and_its_password_is_not_told(url: str, server: Postgres) -> None:
    server.stop()
    try:
        result = run("stats")
    finally:
        server.start()
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr
    assert PASSWORD not in result.output
