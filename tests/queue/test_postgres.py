"""The engine on a PostgreSQL server of its own: what a commit means there, and what it makes of a server in trouble."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from relay.clock import SystemClock
from relay.errors import ConfigError
from relay.fact import Fact
from relay.queue import postgres
from relay.queue.engine import CommitUnknown, NoRoom, NotKept, Operation, Unavailable
from relay.queue.postgres import PostgresEngine
from relay.queue.schema import mark
from tests.support.certificates import Certificates, make_certificates
from tests.support.postgres import PASSWORD, Postgres, running_postgres
from tests.support.wire import Cut, Wire

pytestmark = pytest.mark.xdist_group("postgres")

Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Postgres]:
    with running_postgres(certificates) as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.new_database()


@asynccontextmanager
async def opened(url: str, facts: list[Fact] | None = None) -> AsyncIterator[PostgresEngine]:
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


def run(statement: str) -> Operation[Any]:
    """The first value of the answer, None when there is none."""

    def work(connection: Connection, now: float) -> Any:
        answer = connection.execute(text(statement))
        return answer.scalar() if answer.returns_rows else None

    return work


def names(connection: Connection, now: float) -> list[str]:
    return list(connection.scalars(select(mark.c.name).order_by(mark.c.name)))


# --- transactions --------------------------------------------------------------------------------


async def test_a_transaction_is_there_as_a_whole_or_not_at_all(url: str) -> None:
    async with opened(url) as engine:
        assert await engine.transact([put("a"), run("SELECT 7"), put("b")]) == [None, 7, None]
        with pytest.raises(Exception, match="duplicate key") as caught:
            await engine.transact([put("c"), put("a")])
        assert not isinstance(caught.value, NotKept)  # the server is well; the operation is not
        with pytest.raises(ZeroDivisionError):
            await engine.transact([put("d"), lambda connection, now: 1 / 0])
        assert await engine.read(names) == ["a", "b"]


async def test_what_was_committed_outlives_the_server(url: str, server: Postgres) -> None:
    async with opened(url) as engine:
        await engine.transact([put("a")])
        await asyncio.to_thread(server.crash)
        await asyncio.to_thread(server.start)
        await engine.transact([put("b")])  # nobody had to open it again
        assert await engine.read(names) == ["a", "b"]


async def test_a_reader_sees_one_snapshot_and_writes_nothing(url: str) -> None:
    async with opened(url) as engine, opened(url) as other:
        await other.transact([put("a")])

        loop = asyncio.get_running_loop()
        meanwhile: list[asyncio.Task[Any]] = []

        def twice(connection: Connection, now: float) -> tuple[list[str], list[str]]:
            before = names(connection, now)
            meanwhile.append(loop.create_task(other.transact([put("b")])))
            connection.execute(text("SELECT pg_sleep(0.2)"))
            return before, names(connection, now)

        assert await engine.read(twice) == (["a"], ["a"])
        await meanwhile[0]
        assert await engine.read(names) == ["a", "b"]
        with pytest.raises(NotKept, match="read-only"):
            await engine.read(put("c"))


async def test_time_is_the_servers(url: str, server: Postgres) -> None:
    async with opened(url) as engine:
        before = float(server.sql("SELECT extract(epoch FROM clock_timestamp())"))
        [first] = await engine.transact([lambda connection, now: now])
        second = await engine.read(lambda connection, now: now)
        after = float(server.sql("SELECT extract(epoch FROM clock_timestamp())"))
        assert before < first < second < after


async def test_errors_quote_no_row(url: str) -> None:
    async with opened(url) as engine:
        await engine.transact([run("CREATE TABLE one (body text CHECK (body <> 'body-canary'))")])
        broken = text("INSERT INTO one VALUES (:body)").bindparams(body="body-canary")
        with pytest.raises(Exception, match="check constraint") as caught:
            await engine.transact([lambda connection, now: connection.execute(broken)])
        told = "".join(traceback.format_exception(caught.value))
        assert "SQL parameters hidden" in told
        assert "body-canary" not in told


# --- what is asked of a session --------------------------------------------------------------------


async def test_every_session_waits_for_the_disk_whatever_the_role_was_given(url: str, server: Postgres) -> None:
    server.sql("ALTER ROLE relay SET synchronous_commit = off")
    server.sql("ALTER ROLE relay SET client_min_messages = error")
    try:
        async with opened(url) as engine:
            assert await engine.transact([run("SHOW synchronous_commit")]) == ["on"]
            assert await engine.transact([run("SHOW client_min_messages")]) == ["warning"]
    finally:
        server.sql("ALTER ROLE relay RESET ALL")


async def test_a_server_without_fsync_is_refused(url: str, server: Postgres) -> None:
    server.configure(fsync="off")
    try:
        with pytest.raises(ConfigError, match="fsync = off"):
            async with opened(url):
                pass
    finally:
        server.configure(fsync="on")


async def test_a_statement_that_takes_too_long_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres._SETTINGS, "statement_timeout", "100ms")
    async with opened(url) as engine:
        with pytest.raises(Unavailable, match="statement timeout"):
            await engine.transact([put("a"), run("SELECT pg_sleep(60)")])
        assert await engine.read(names) == []


# --- the moment of the commit ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_commit_without_an_answer_is_unknown(url: str, server: Postgres, cut: Cut) -> None:
    async with Wire(server.port) as wire, opened(wire.through(url)) as engine:
        await engine.transact([put("a")])
        wire.cut = cut
        with pytest.raises(CommitUnknown):
            await engine.transact([put("b")])
        wire.cut = None
        # The same words to us, and two things that may have happened.
        assert await engine.read(names) == (["a"] if cut is Cut.BEFORE else ["a", "b"])
        await engine.transact([put("c")])


async def test_a_session_ended_amid_its_commit_is_unknown(url: str, server: Postgres) -> None:
    async with opened(url) as engine:
        await engine.transact([run(statement) for statement in _SLOW_COMMIT])
        commit = asyncio.create_task(engine.transact([put("a")]))
        while (
            server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND state = 'active'") == "0"
        ):
            await asyncio.sleep(0.01)
        assert server.terminate_connections() > 0
        with pytest.raises(CommitUnknown):
            await commit


async def test_a_commit_that_the_server_refuses_is_known_not_to_have_happened(url: str) -> None:
    async with opened(url) as engine:
        await engine.transact([run(statement) for statement in _BAD_COMMIT])
        with pytest.raises(Exception, match="not this one") as caught:
            await engine.transact([put("a")])
        assert not isinstance(caught.value, CommitUnknown)
        assert await engine.read(names) == []


_DEFERRED = (
    "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mark DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION "
)
_FUNCTION = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$"
_SLOW_COMMIT = (_FUNCTION.format("PERFORM pg_sleep(60);"), _DEFERRED + "late()")
_BAD_COMMIT = (_FUNCTION.format("RAISE EXCEPTION 'not this one';"), _DEFERRED + "late()")
_FULL_DISK = (_FUNCTION.format("RAISE disk_full;"), _DEFERRED + "late()")


# --- trouble -----------------------------------------------------------------------------------------


async def test_a_full_disk_has_a_name_of_its_own(url: str) -> None:
    async with opened(url) as engine:
        await engine.transact([run(statement) for statement in _FULL_DISK])
        with pytest.raises(NoRoom):
            await engine.transact([put("a")])


async def test_connections_that_were_ended_between_transactions_are_not_noticed(url: str, server: Postgres) -> None:
    async with opened(url) as engine:
        for name in "abc":
            await asyncio.gather(*(engine.transact([put(f"{name}{number}")]) for number in range(4)))
            assert server.terminate_connections() == 4
        assert len(await engine.read(names)) == 12


async def test_a_connection_that_ends_amid_a_transaction_makes_it_begin_again(url: str, server: Postgres) -> None:
    runs = []

    def fatal_at_first(connection: Connection, now: float) -> None:
        runs.append(now)
        if len(runs) == 1:
            server.terminate_connections()

    async with opened(url) as engine:
        await engine.transact([put("a"), fatal_at_first, put("b")])
        assert len(runs) == 2
        assert await engine.read(names) == ["a", "b"]


async def test_of_two_in_a_deadlock_both_get_through(url: str) -> None:
    async with opened(url) as engine:
        await engine.transact([put("a"), put("b")])

        def lock(name: str) -> Operation[Any]:
            return run(f"UPDATE mark SET value = value || 'x' WHERE name = '{name}'")

        pause = run("SELECT pg_sleep(0.2)")
        await asyncio.gather(
            engine.transact([lock("a"), pause, lock("b")]), engine.transact([lock("b"), pause, lock("a")])
        )
        assert await engine.read(run("SELECT string_agg(value, ' ') FROM mark")) == "xx xx"


async def test_a_server_that_is_gone_is_answered_at_once_and_used_again_when_it_is_back(
    url: str, server: Postgres
) -> None:
    async with opened(url) as engine:
        await engine.transact([put("a")])
        await asyncio.to_thread(server.crash)
        try:
            for _ in range(20):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await engine.transact([put("b")])
                assert time.monotonic() - began < 2.0
        finally:
            await asyncio.to_thread(server.start)
        await engine.transact([put("c")])
        assert await engine.read(names) == ["a", "c"]


async def test_a_server_that_says_nothing_is_given_up_and_blocks_nobody_else(
    url: str, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SILENCE", 0.3)
    monkeypatch.setattr(postgres, "CONNECT", 0.3)
    async with opened(url) as engine:
        await engine.transact([put("a")])
        server.signal_all(stop=True)
        try:
            with pytest.raises(Unavailable):
                await engine.transact([put("b")])
            with pytest.raises(Unavailable):
                await engine.read(names)
        finally:
            server.signal_all(stop=False)
        await engine.transact([put("c")])
        assert await engine.read(names) == ["a", "c"]


async def test_a_relay_frozen_amid_a_transaction_holds_its_rows_for_a_while_only(
    url: str, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SETTINGS, "idle_in_transaction_session_timeout", "200ms")
    change = "UPDATE mark SET value = value || 'x' WHERE name = 'a'"
    runs = []

    def freezes_at_first(connection: Connection, now: float) -> None:
        runs.append(now)
        if len(runs) == 1:
            server.sql(change, database=url.rpartition("/")[2])  # waits for the row, and our loop with it

    async with opened(url) as engine:
        await engine.transact([put("a")])
        await engine.transact([run(change), freezes_at_first, run(change)])
        assert len(runs) == 2
        assert await engine.read(run("SELECT value FROM mark")) == "xxx"


# --- opening -----------------------------------------------------------------------------------------


async def test_many_relays_can_open_a_new_database_at_once(url: str) -> None:
    engines = [PostgresEngine(url, "relay.toml", SystemClock(), lambda fact: None) for _ in range(5)]
    try:
        await asyncio.gather(*(engine.open() for engine in engines))
        assert await engines[4].read(names) == []
        await engines[0].open()
        assert await engines[0].read(run("SELECT count(*) FROM alembic_version")) == 1
    finally:
        for engine in engines:
            await engine.close()


async def test_a_database_of_another_program_is_left_alone(url: str, server: Postgres) -> None:
    server.sql("CREATE TABLE invoice (number int)", database=url.rpartition("/")[2])
    with pytest.raises(ConfigError, match="another program"):
        async with opened(url):
            pass


async def test_a_server_that_is_starting_too_is_waited_for(url: str, server: Postgres) -> None:
    await asyncio.to_thread(server.crash)
    engine = PostgresEngine(url, "relay.toml", SystemClock(), lambda fact: None)
    opening = asyncio.create_task(engine.open())
    await asyncio.sleep(0.1)
    assert not opening.done()
    await asyncio.to_thread(server.start)
    try:
        await opening
    finally:
        await engine.close()


async def test_a_server_that_does_not_come_up_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "START", 0.0)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1: ConnectionRefusedError") as caught:
        async with opened(f"postgresql://relay:{PASSWORD}@127.0.0.1:1/relay"):
            pass
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("change", [("relay:", "relay:not-"), ("/relay-", "/none-"), ("//relay:", "//nobody:")])
async def test_a_server_that_refuses_us_ends_the_start_at_once(url: str, change: tuple[str, str]) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        async with opened(url.replace(*change)):
            pass
    assert time.monotonic() - began < postgres.START / 2
    assert PASSWORD not in str(caught.value)
    assert caught.value.problems[0].key == "queue.url"


async def test_what_is_closed_says_so(url: str) -> None:
    async with opened(url) as engine:
        await engine.close()
        with pytest.raises(Unavailable, match="closed"):
            await engine.transact([put("a")])


# --- TLS ---------------------------------------------------------------------------------------------

_ENCRYPTED = run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


async def test_tls_is_as_the_url_says(url: str, certificates: Certificates) -> None:
    named = f"?sslmode=verify-full&sslrootcert={certificates.ca}"
    for parameters, is_encrypted in (("", False), ("?sslmode=require", True), (named, True)):
        async with opened(url + parameters) as engine:
            assert await engine.read(_ENCRYPTED) is is_encrypted


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_server_that_nobody_vouches_for_is_refused(url: str, mode: str, tmp_path: Path) -> None:
    others = make_certificates(tmp_path)
    for parameters in (f"?sslmode={mode}", f"?sslmode={mode}&sslrootcert={others.ca}"):
        with pytest.raises(ConfigError, match="certificate verify failed"):
            async with opened(url + parameters):
                pass


async def test_a_certificate_for_another_name_is_refused(
    url: str, certificates: Certificates, server: Postgres
) -> None:
    elsewhere = url.replace("@127.0.0.1:", "@127.0.0.2:") + f"?sslrootcert={certificates.ca}&sslmode="
    async with Wire(server.port, host="127.0.0.2", port=server.port):
        with pytest.raises(ConfigError, match="certificate verify failed"):
            async with opened(elsewhere + "verify-full"):
                pass
        async with opened(elsewhere + "verify-ca") as engine:
            assert await engine.read(_ENCRYPTED) is True


async def test_a_file_of_authorities_that_is_not_there_is_said_at_once(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certificates that the url names"):
        async with opened(f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/none.pem"):
            pass
