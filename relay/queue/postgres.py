"""The queue in a PostgreSQL database that several relays share.

STANDARDS  PostgreSQL's manual §30.4 (synchronous_commit), §27.2.8 (synchronous standbys), appendix A (SQLSTATE).
TRUSTS     the server, once TLS has shown who it is; not that it is there, nor that it answers. None of its texts is
           logged but the first line of an error, for its detail quotes rows.
FAILS      `open` with ConfigError, and everything else with NotKept. An answer to COMMIT that did not come, or that
           no standby confirmed, is CommitUnknown. Whatever was gone is connected to again by the next call.

Every commit is synced where `synchronous_commit` says: on the server, and on its synchronous standbys
where it has any. Every session asks for that by itself, so that no role's or database's setting undoes it.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import asyncpg
from sqlalchemy import Connection, event, func, select
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from relay.clock import Clock
from relay.config.database import Database, SslMode, parse_database, place
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.queue.engine import CommitUnknown, NoRoom, NotKept, Operation, Unavailable
from relay.queue.migrate import migrate

SESSIONS = 4  # to the server: one commits while others claim, settle and read
CONNECT = 5.0  # seconds for a host to answer, log in included
STATEMENT = 20.0  # seconds; the server ends it then. Less than a lease
SILENCE = 25.0  # seconds until a server that says nothing, to COMMIT too, is given up
LOCK = 10.0  # seconds for a row that another relay has locked
IDLE = 10.0  # seconds; amid a transaction: whoever is frozen there must not hold its rows
START = 30.0  # seconds that `open` waits for a server that is starting too
AGAIN = 0.5  # seconds between its attempts
TRIES = 3  # of a transaction that was rolled back for a reason that passes

# Of a session; what is asked for here outranks what is set for the database and the role.
_SETTINGS = {
    "application_name": "relay",
    "synchronous_commit": "on",
    "client_min_messages": "warning",  # `_Session` listens for one
    "statement_timeout": f"{STATEMENT:g}s",
    "lock_timeout": f"{LOCK:g}s",
    "idle_in_transaction_session_timeout": f"{IDLE:g}s",
    "jit": "off",  # our statements are done before it is
}
_MIGRATING = {**_SETTINGS, "statement_timeout": "0", "lock_timeout": "0"}
_MIGRATION = 0x72656C6179  # "relay": the advisory lock of whoever changes the schema

_NOW = select(func.extract("epoch", func.clock_timestamp()))
_IS_SAFE = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"

_DISK_FULL = "53100"
_READ_ONLY = "25006"  # the server became a standby and kept our session
# Rolled back, and the next attempt may fare better: a deadlock, a conflict, a session ended from outside.
_PASSES = {_READ_ONLY, "40P01", "40001", "25P03", "57P01", "57P02", "57P05", "08000", "08003", "08006"}
_NOT_YET = {"57P03", "53300"}  # the server is starting; it has too many sessions
# Classes that say something about the server and nothing about the statement: connection, transaction state,
# rollback, resources, locks, the operator, the system, the server's own bugs.
_OF_SERVER = {"08", "25", "40", "53", "55", "57", "58", "F0", "XX"}
# What connecting may raise.
_TROUBLE = (OSError, TimeoutError, PoolTimeoutError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)

T = TypeVar("T")


class _Session(asyncpg.Connection):  # type: ignore[misc]
    """A session that hears when a commit was not confirmed by a standby: the server says so in a mere warning."""

    __slots__ = ("is_unconfirmed",)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.is_unconfirmed = False
        self.add_log_listener(_heard)


def _heard(session: _Session, message: Any) -> None:
    """To COMMIT there is but one warning: the wait for the standbys was ended by a cancel or a shutdown."""
    if message.severity_en == "WARNING":
        session.is_unconfirmed = True


class PostgresEngine:
    """An Engine (`engine.py`). url: with its password; source: where it was set, for a ConfigError."""

    is_shared = True

    def __init__(self, url: str, source: str, clock: Clock, record: Record) -> None:
        try:
            self._database = parse_database(url)
        except ValueError as error:
            raise ConfigError(Problem(source, "queue.url", str(error))) from None
        self._source, self._clock, self._record = source, clock, record
        self._primary = self._database.hosts[0]
        self._tls: ssl.SSLContext | bool = False
        self._engine: AsyncEngine | None = None

    def __str__(self) -> str:
        return str(self._database)

    async def open(self) -> None:
        if self._engine is not None:
            return
        try:
            self._tls = _tls(self._database)
        except (OSError, ssl.SSLError) as error:
            text = f"the certificates that the url names cannot be used: {error}"
            raise ConfigError(Problem(self._source, "queue.url", text)) from error
        engine = self._pool(_MIGRATING, 1, None)
        try:
            await self._migrate(engine)
        finally:
            await engine.dispose()
        self._engine = self._pool(_SETTINGS, SESSIONS, SILENCE)

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    async def transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            now = float(connection.execute(_NOW).scalar_one())
            return [operation(connection, now) for operation in operations]

        async def attempt() -> list[Any]:
            async with self._connected().connect() as connection:
                results = await _run(connection, work)
                await _commit(connection)
                return results

        return await self._tried(attempt)

    async def read(self, operation: Operation[T]) -> T:
        def work(connection: Connection) -> T:
            return operation(connection, float(connection.execute(_NOW).scalar_one()))

        async def attempt() -> T:
            snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            async with self._connected().execution_options(**snapshot).connect() as connection:
                return await _run(connection, work)

        return await self._tried(attempt)

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            raise Unavailable("the queue is closed")
        return self._engine

    async def _tried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What comes of `attempt`, made again while it was rolled back for a reason that passes."""
        number = 1
        while True:
            try:
                return await attempt()
            except DBAPIError as error:
                if _is_of_statement(error):
                    _of_driver(error).detail = None  # it may quote a row, and the traceback goes into a log
                    raise
                if number == TRIES or not (error.connection_invalidated or _state(error) in _PASSES):
                    raise _not_kept(error) from error
            except (*_TROUBLE, ConfigError) as error:
                raise _not_kept(error) from error
            number += 1

    async def _migrate(self, engine: AsyncEngine) -> None:
        """Bring the schema up to date, one relay after the other. Raises ConfigError."""

        def work(connection: Connection) -> None:
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION)))
            migrate(connection, str(self))

        until = self._clock.monotonic() + START
        while True:
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(work)
                return
            except _TROUBLE as error:
                if not _may_come_up(error) or self._clock.monotonic() >= until:
                    text = f"the database {self} cannot be used: {_first_line(error)}"
                    raise ConfigError(Problem(self._source, "queue.url", text)) from error
            await self._clock.sleep(AGAIN)

    # --- sessions --------------------------------------------------------------------------------

    def _pool(self, settings: dict[str, str], sessions: int, silence: float | None) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: self._connect(settings, silence),
            isolation_level="READ COMMITTED",  # SKIP LOCKED wants no snapshot
            pool_size=sessions,
            max_overflow=0,
            pool_timeout=STATEMENT,
            hide_parameters=True,  # addresses and octets of messages
        )
        event.listen(engine.sync_engine, "checkout", _only_open)
        return engine

    async def _connect(self, settings: dict[str, str], silence: float | None) -> _Session:
        """A session on the primary: the host that was it the last time, or the next that is."""
        hosts = self._database.hosts
        at = hosts.index(self._primary)
        troubles = []
        for host in hosts[at:] + hosts[:at]:
            try:
                session = await self._session(host, settings, silence)
            except _TROUBLE as error:
                troubles.append((host, error))
                continue
            if host != self._primary:
                self._record(Fact("queue.primary", values={"host": place(*host)}, level="warning"))
                self._primary = host
            return session
        if not any(_may_come_up(error) for _, error in troubles):
            raise troubles[0][1]
        raise OSError("; ".join(f"{place(*host)}: {_first_line(error)}" for host, error in troubles))

    async def _session(self, host: tuple[str, int], settings: dict[str, str], silence: float | None) -> _Session:
        try:
            session: _Session = await asyncpg.connect(
                host=host[0],
                port=host[1],
                user=self._database.user,
                password=self._database.password,
                database=self._database.name,
                ssl=self._tls,
                timeout=CONNECT,
                command_timeout=silence,
                server_settings=settings,
                target_session_attrs="read-write",
                connection_class=_Session,
            )
        except asyncpg.TargetServerAttributeNotMatched as error:
            raise OSError("it takes no writes, as a standby does not") from error
        fsync, commit = await session.fetchrow(_IS_SAFE)
        if fsync != "on" or commit not in ("on", "remote_apply"):
            session.terminate()
            text = f"{place(*host)} runs with fsync = {fsync} and synchronous_commit = {commit}; both must be on"
            raise ConfigError(Problem(self._source, "queue.url", text))
        return session


async def _run(connection: AsyncConnection, work: Callable[[Connection], T]) -> T:
    try:
        return await connection.run_sync(work)
    except DBAPIError as error:
        if _state(error) == _READ_ONLY:
            await connection.invalidate()
        raise


async def _commit(connection: AsyncConnection) -> None:
    """Commit what `connection` has done.

    Raises CommitUnknown: nobody knows, or no standby has it. Raises others: it was rolled back.
    """
    session = cast("_Session", (await connection.get_raw_connection()).driver_connection)
    if session.is_closed():
        raise asyncpg.ConnectionDoesNotExistError("the session ended before the commit")
    session.is_unconfirmed = False
    try:
        await connection.commit()
    except (OSError, TimeoutError, DBAPIError) as error:
        # An ERROR is the answer of a server that lives and has rolled back; a FATAL or PANIC leaves it open.
        if _severity(error) == "ERROR":
            raise
        await connection.invalidate()
        raise CommitUnknown(_first_line(error)) from error
    if session.is_unconfirmed:
        await connection.invalidate()
        raise CommitUnknown("no standby has confirmed the commit")


def _only_open(connection: Any, *_: object) -> None:
    """A session that the server has ended meanwhile is replaced before it is used."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _tls(database: Database) -> ssl.SSLContext | bool:
    if database.ssl_mode is SslMode.DISABLE:
        return False
    context = ssl.create_default_context(cafile=database.root)
    context.check_hostname = database.ssl_mode is SslMode.VERIFY_FULL
    if database.ssl_mode is SslMode.REQUIRE:
        context.verify_mode = ssl.CERT_NONE
    if database.certificate is not None:
        context.load_cert_chain(database.certificate, database.key)
    return context


def _not_kept(error: Exception) -> NotKept:
    kind = NoRoom if _state(error) == _DISK_FULL else Unavailable
    return kind(_first_line(error))


def _is_of_statement(error: DBAPIError) -> bool:
    """The server is well and says that a statement of ours, or a value in it, is wrong."""
    return not error.connection_invalidated and _state(error)[:2] not in {"", *_OF_SERVER}


def _may_come_up(error: Exception) -> bool:
    """The server is not there yet, as after a power cut; unlike one that refuses us."""
    if isinstance(error, (DBAPIError, asyncpg.PostgresError)):
        return _state(error) in _NOT_YET or _state(error) in _PASSES
    return isinstance(error, (OSError, TimeoutError)) and not isinstance(error, ssl.SSLError)


def _of_driver(error: Exception) -> Any:
    """The driver's error inside SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _state(error: Exception) -> str:
    return str(getattr(_of_driver(error), "sqlstate", None) or "")


def _severity(error: Exception) -> str:
    return str(getattr(_of_driver(error), "severity_en", None) or "")


def _first_line(error: Exception) -> str:
    """For our log, and without the row that PostgreSQL may quote below it."""
    found = _of_driver(error)
    text = str(getattr(found, "message", None) or found).partition("\n")[0]
    return f"{type(found).__name__}: {text}" if text else type(found).__name__
