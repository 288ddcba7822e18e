"""All parts of the queue, put together, and their beginning and end.

The supervisor of a queue in a file holds its lock; it reports, answers `relay queue` and tells the depth. With
PostgreSQL every relay does, and what two of them do at once the database settles. Workers deliver, and tell the
supervisor when there may be something to report; it tells them what an operator wants tried now.

Order of ending: the worker begins nothing more and waits for what is behind its final dot; then reporter and
socket; the store last, after all that was handed over is on disk.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from relay.address import Address
from relay.clock import Clock
from relay.config.hop import HopKind
from relay.config.models import Config
from relay.edit.sign import Signer
from relay.envelope import Envelope
from relay.errors import ConfigError
from relay.fact import Fact, Record
from relay.forward.route import choose
from relay.outcome import NextHop
from relay.part import Part
from relay.queue.commands import Commands
from relay.queue.control import SOCKET, Control
from relay.queue.depth import tell_depth
from relay.queue.disk import Disk
from relay.queue.engine import Engine, NotKept
from relay.queue.lock import FILE_NAME as LOCK
from relay.queue.lock import Lock
from relay.queue.reporter import REST, Reporter
from relay.queue.schedule import Schedule
from relay.queue.store import Store
from relay.queue.worker import Worker

FILE_NAME = "queue.db"  # in the data folder
LOCK_POLL = 0.1  # seconds
LOCK_PATIENCE = 2.0  # seconds: a `relay queue` that changes something is about to let it go
INBOX_AT_ONCE = 100  # deliveries to our own store, which commits them together

_WAKE_REPORTER = frozenset(("queue.failed", "queue.kept"))  # a first attempt may have left some to report


class Current(Protocol):
    """What one reading of the configuration made; a reload makes another."""

    @property
    def config(self) -> Config: ...
    @property
    def hops(self) -> Mapping[str, NextHop]: ...
    @property
    def signer(self) -> Signer: ...


class _Derived(NamedTuple):
    """limits: connections that the worker may have to each hop, by name."""

    config: Config
    schedule: Schedule
    limits: Mapping[str, int]


class Queueing:
    """now: what is in force. `worker` takes new messages; `store` is what `relay queue` looks into."""

    def __init__(self, config: Config, now: Callable[[], Current], clock: Clock, record: Record, part: Part) -> None:
        """Raises ConfigError where the database cannot be what it is said to be."""
        self._config, self._now, self._record, self._part = config, now, record, part
        self._say = part.telling.join("queue", self._hear, lasts=False)
        self._telling: asyncio.TimerHandle | None = None  # that there may be something to report
        settings = config.queue
        self.store = make_store(config, clock, self._tell)
        self._lock = Lock(config.data / LOCK) if part.oversees and not self.store.is_shared else None
        self.worker = Worker(
            self.store,
            lambda: now().hops,
            lambda: self._derived().limits,
            lambda: self._derived().schedule,
            clock,
            self._tell,
            random.random,
            settings.spool,
            settings.lease,
        )
        self._reporter = Reporter(
            self.store,
            lambda: now().config,
            lambda message, author, id: now().signer.sign(message, author, id),
            self._route,
            lambda hop: now().hops[hop].capabilities,
            clock,
            self._tell,
        )
        commands = Commands(
            self.store,
            extend=lambda: now().config.queue.give_up,
            wake=self.wake,
            flush=self._flush,
            record=self._tell,
        )
        self._control = Control(config.data / SOCKET, commands, self._tell)
        self._depth: asyncio.Task[None] | None = None
        self._made: _Derived | None = None
        self._is_open = False
        self._clock = clock

    async def open(self) -> None:
        """Lock, migrate, repair. `close` is due in any case. Raises ConfigError."""
        self._is_open = True
        if self._lock is not None:
            await self._acquire(self._lock)
        await self.store.open(is_supervisor=self._part.oversees)

    async def start(self) -> None:
        """Deliver. The next hops are there. Raises ConfigError."""
        if self._part.oversees:
            await self._control.start()
            self._reporter.start()
            self._depth = asyncio.create_task(tell_depth(self.store, self._clock, self._record), name="queue depth")
        if self._part.serves:
            await self.worker.start()

    @property
    def inherited(self) -> Sequence[int]:
        """Descriptors that keep what is ours as long as any worker lives."""
        descriptor = self._lock.descriptor if self._lock is not None else None
        return () if descriptor is None else (descriptor,)

    async def free(self, owner: str) -> None:
        """A worker has ended: others may try what it had claimed."""
        try:
            freed = await self.store.lapse(owner=owner)
        except NotKept:
            return  # its leases run out
        if freed:
            self.wake()

    def wake(self) -> None:
        """A reload, or an operator, may have made something due."""
        if self._part.serves:
            self.worker.wake()
        if self._part.oversees:
            self._reporter.wake()
            self._say("wake")

    async def drain(self, seconds: float) -> None:
        """No more deliveries begin; those that run end, or are told to hurry by their hops."""
        if self._part.serves:
            await self.worker.drain(seconds)

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._telling is not None:
            self._telling.cancel()
        await self._control.stop()
        await self._reporter.stop()
        if self._depth is not None:
            self._depth.cancel()
            with suppress(asyncio.CancelledError):
                await self._depth
        await self.store.close()
        if self._lock is not None:
            self._lock.release()

    async def _acquire(self, lock: Lock) -> None:
        """Raises ConfigError. Workers whose supervisor died first finish what they are at, however long it takes."""
        until, is_told = self._clock.monotonic() + LOCK_PATIENCE, False
        while True:
            try:
                return lock.acquire()
            except ConfigError:
                is_orphaned = lock.is_orphaned()
                if not is_orphaned and self._clock.monotonic() >= until:
                    raise
            if is_orphaned and not is_told:
                is_told = True
                text = "the workers of a relay that ended finish what is in flight"
                self._record(Fact("queue.waiting", "", {"cause": text}, "warning"))
            await self._clock.sleep(LOCK_POLL)

    def _flush(self, hop: str) -> None:
        if self._part.serves:
            self.worker.flush(hop)
        self._say("flush", hop)

    def _hear(self, word: str, hop: str = "") -> None:
        """Another process says it."""
        if word == "report" and self._part.oversees:
            self._reporter.wake()
        elif word == "wake" and self._part.serves:
            self.worker.wake()
        elif word == "flush" and self._part.serves:
            self.worker.flush(hop)

    def _tell(self, fact: Fact) -> None:
        self._record(fact)
        if fact.event not in _WAKE_REPORTER:
            return
        if self._part.oversees:
            self._reporter.wake()
        elif self._telling is None and self._is_open:
            self._telling = asyncio.get_running_loop().call_later(REST, self._say_report)

    def _say_report(self) -> None:
        self._telling = None
        self._say("report")

    def _derived(self) -> _Derived:
        """Asked several times a message, and made once a configuration."""
        config = self._now().config
        if self._made is None or self._made.config is not config:
            kept = HopKind.INBOX
            limits = {name: INBOX_AT_ONCE if hop.kind is kept else hop.connections for name, hop in config.hop.items()}
            self._made = _Derived(config, Schedule.of(config.queue, config.bounce), limits)
        return self._made

    def _route(self, envelope: Envelope, recipient: Address) -> str | None:
        config = self._now().config
        if config.bounce.hop is not None:
            return config.bounce.hop
        route = choose(config.route, envelope, recipient)
        return route.hop if route is not None else None


def make_store(config: Config, clock: Clock, record: Record) -> Store:
    """The store that `[queue]` describes, not open yet. Raises ConfigError."""
    settings = config.queue
    most = max(listener.max_message_size for listener in config.listener.values())
    owner = f"{config.hostname}:{os.getpid()}:{secrets.token_hex(4)}"
    engine = _engine(config, clock, record)
    disk = None if engine.is_shared else Disk(config.data, settings.min_free, most)
    return Store(
        engine, owner, settings.lease, settings.crashes, clock, record, first_retry=settings.first_retry, disk=disk
    )


def _engine(config: Config, clock: Clock, record: Record) -> Engine:
    settings = config.queue
    if settings.url is not None:
        url = settings.url.get_secret_value()
    elif settings.url_file is not None:
        url = settings.url_file.read_text("utf-8").rstrip("\r\n")  # `config/queue_checks.py` has seen to it
    else:
        from relay.queue.sqlite import SqliteEngine

        return SqliteEngine(config.data / FILE_NAME, clock)
    from relay.queue.postgres import PostgresEngine  # asyncpg is an extra

    return PostgresEngine(url, "", clock, record)
