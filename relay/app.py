"""Builds every part from the configuration, starts them, swaps them on reload, and ends them in the right order.

Order of ending: the listeners stop taking connections and let what is in flight finish, then the
next hops close their kept connections, then the inbox closes, and the health page goes last, so
that `/readyz` says 503 for as long as the relay drains.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relay import __version__
from relay.accept.listener import Listeners
from relay.accept.login import Logins
from relay.address import domain_key
from relay.clock import Clock
from relay.config.hop import HopKind
from relay.config.models import Config, Role
from relay.decide.duplicates import Duplicates
from relay.decide.rate import Rates
from relay.decide.recipients import Recipients, read_recipients
from relay.decide.verification import Verification
from relay.edit.sign import Signer
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Recorded
from relay.forward.deliver import SmtpHop
from relay.forward.remembered import Remembered
from relay.forward.route import INBOX
from relay.gateway import Gateway
from relay.handover import Handover
from relay.inbox.store import FILE_NAME as INBOX_FILE
from relay.inbox.store import Inbox
from relay.outcome import NextHop
from relay.part import Part
from relay.pipeline import Pipeline
from relay.publish.keys import make_missing_keys
from relay.queueing import Queueing
from relay.report.journal import FILE_NAME as JOURNAL
from relay.report.journal import Journal
from relay.resolver import Resolver
from relay.submission import Submission
from relay.supervisor import Workers
from relay.watch import totals
from relay.watch.facts import Facts
from relay.watch.metrics import Metrics

if TYPE_CHECKING:
    from relay.watch.web import Web

_PROBE = 2.0  # seconds that a start or reload waits to hear what next hops take
# What is opened once: a reload that changes it is refused.
_FIXED = ("data", "dns", "duplicates", "inbox", "journal", "queue", "web", "workers")


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """All that one reading of the configuration made. Sessions keep the one they began with."""

    config: Config
    hops: Mapping[str, NextHop]
    logins: Logins | None
    signer: Signer
    pipeline: Pipeline

    async def probe(self) -> None:
        """Hear what each hop takes; one that is slow to answer is promised everything until it has."""
        probes = [asyncio.create_task(hop.probe()) for hop in self.hops.values()]
        try:
            if probes:
                await asyncio.wait(probes, timeout=_PROBE)
        finally:
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    def hurry(self) -> None:
        """Deliveries that wait for a hop before their final dot end with 451."""
        for hop in self.hops.values():
            if isinstance(hop, SmtpHop):
                hop.hurry()

    async def close(self) -> None:
        """Close the connections kept to next hops; the inbox stays open for the next generation."""
        await asyncio.gather(*(hop.close() for hop in self.hops.values() if isinstance(hop, SmtpHop)))
        if self.logins is not None:
            self.logins.close()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Another configuration, for which all is made that can fail."""

    made: Generation
    listeners: Any  # as `prepare` of Listeners or of Workers made it

    @property
    def config(self) -> Config:
        return self.made.config


class App:
    """The relay as a whole, or the part of it that one process does: `start`, `reload` at will, `stop`."""

    def __init__(
        self, config: Config, clock: Clock, log: Callable[[Sequence[Recorded]], None], part: Part | None = None
    ) -> None:
        """log: takes every fact, besides the metrics. part: None for all of it. Raises ConfigError."""
        self._clock, self._log, self._facts = clock, log, Facts(clock, self._write_down)
        self._part = part = part or Part()
        self.metrics = Metrics()
        self._remembered, self._rates = Remembered(clock, part.telling), Rates(clock, self.record, part.memory)
        self._verification = Verification(clock, self.record)
        self._duplicates = Duplicates(clock, config.duplicates.keep, part.telling)
        self._ready = False
        self._before: dict[Generation, asyncio.Task[None]] = {}  # generations whose sessions have not all ended
        # One store for `capture` and for all hops of kind inbox. It is there even if nothing is kept in it yet,
        # since a reload may change that.
        self._inbox = Inbox(config.data / INBOX_FILE, "inbox", config.inbox.keep, clock, self.record)
        self._resolver = Resolver(config.dns.nameservers, config.timeout.dns, clock=clock)
        self._journal = Journal(config.data / JOURNAL, config.journal.keep, clock, self.record, sweeps=part.keeps_house)
        self._queueing = Queueing(config, lambda: self._now, clock, self.record, part)
        self._now = self._build(config, _read_recipients(config))
        self._listeners = self._make_listeners(config)
        self._web: Web | None = None
        if part.oversees:
            from relay.watch.web import Web  # with aiohttp: a fifth of the start, which workers do without

            self._web = Web(self._expose, self._parts, config.hostname)

    def record(self, fact: Fact) -> None:
        """Where every fact goes."""
        self._journal.record(fact)
        self._facts.record(fact)

    def _write_down(self, recorded: Sequence[Recorded]) -> None:
        self._log(recorded)
        for _, fact in recorded:
            self.metrics.record(fact)

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where each listener really listens."""
        return self._listeners.addresses

    @property
    def owner(self) -> str:
        """Of our claims in the queue."""
        return self._queueing.store.owner

    async def start(self) -> None:
        """Open the inbox, bind every port. Raises ConfigError, with nothing left open."""
        config = self._now.config
        try:
            if _keeps(config):
                await self._inbox.open()
            await self._journal.open()
            await self._queueing.open()
            web_port = await self._web.start(config.web.host, config.web.port) if self._web else 0
            await self._now.probe()
            await self._queueing.start()
            await self._listeners.start()
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        if self._part.oversees:
            self._tell("app.started", {"version": __version__, "web": f"{config.web.host}:{web_port}"})

    async def reload(self, config: Config) -> None:
        """Serve new sessions by `config`. Raises ConfigError, and then nothing has changed."""
        await self.commit(await self.prepare(config))

    async def prepare(self, config: Config) -> Prepared:
        """All of a reload that can fail; `commit` or `abandon` it. Raises ConfigError, and then nothing has changed."""
        changed = [key for key in _FIXED if getattr(config, key) != getattr(self._now.config, key)]
        if changed:
            raise ConfigError(*(Problem("", key, "cannot change while the relay runs: restart it") for key in changed))
        # A million recipients take a second to read.
        made = self._build(config, await asyncio.to_thread(_read_recipients, config))
        try:
            if _keeps(config):
                await self._inbox.open()
            await made.probe()
            return Prepared(made, await self._listeners.prepare(config, made.pipeline, made.logins))
        except BaseException:
            await made.close()
            raise

    async def commit(self, prepared: Prepared) -> None:
        """New sessions go by it."""
        sessions = await self._listeners.commit(prepared.listeners)
        before, self._now = self._now, prepared.made
        self._before[before] = asyncio.create_task(self._retire(before, sessions.ended()))
        self._queueing.wake()
        if self._part.oversees:
            self._tell("config.reloaded", {})
        self._facts.tell()  # by the log that was configured before

    async def abandon(self, prepared: Prepared) -> None:
        """All stays as it is."""
        await self._listeners.abandon(prepared.listeners)
        await prepared.made.close()

    async def stop(self) -> None:
        if self._ready and self._part.oversees:
            self.record(Fact("app.stopping"))
        self._ready = False
        seconds = self._now.config.timeout.drain
        timers = [asyncio.get_running_loop().call_later(seconds, one.hurry) for one in (self._now, *self._before)]
        await asyncio.gather(self._listeners.drain(seconds), self._queueing.drain(seconds))
        for timer in timers:
            timer.cancel()
        await self._verification.close()
        await asyncio.gather(self._now.close(), *self._before.values())
        await self._queueing.close()
        await self._resolver.close()
        await self._inbox.close()
        if self._web is not None:
            await self._web.stop()
        if self._part.oversees:
            self.record(Fact("app.stopped"))
        await self._journal.close()
        self._facts.tell()

    def kill(self) -> None:
        """End our workers at once; this process is about to."""
        self._facts.tell()
        if isinstance(self._listeners, Workers):
            self._listeners.kill()

    def _make_listeners(self, config: Config) -> Listeners | Workers:
        part = self._part
        if not part.serves:
            queueing = self._queueing
            return Workers(config, part, self._clock, self.record, queueing.free, lambda: queueing.inherited)
        pipeline, logins = self._now.pipeline, self._now.logins
        return Listeners(config, pipeline, logins, self._clock, self.record, part=part)

    def _build(self, config: Config, recipients: Mapping[str, Recipients]) -> Generation:
        """All parts that can be made without opening a port. Raises ConfigError."""
        for fact in make_missing_keys(config.domain, self._clock):
            self.record(fact)
        hops: dict[str, NextHop] = {INBOX: self._inbox} | {
            name: self._inbox
            if hop.kind is HopKind.INBOX
            else SmtpHop(name, hop, config.timeout, config.hostname, self._clock, self.record)
            for name, hop in config.hop.items()
        }
        logins = Logins.read(config.login, self._clock) if config.login.file else None
        signer = Signer(config.domain, self._clock, self.record)
        submission = Submission(config, signer, self._clock, self.record)
        sealing = signer.keys(domain_key(config.domain[config.policy.seal].name))[0] if config.policy.seal else None
        gateway = Gateway(config, self._resolver, sealing, self._clock, self.record)
        senders = logins.senders if logins else None
        handover = Handover(
            config, hops, self._queueing.worker, self._remembered, self._clock, random.random, self.record
        )
        pipeline = Pipeline(
            config,
            hops,
            submission,
            gateway,
            handover,
            senders,
            recipients,
            self._remembered,
            self._duplicates,
            self._rates,
            self._verification,
            self._clock,
            self.record,
        )
        return Generation(config, hops, logins, signer, pipeline)

    async def _retire(self, generation: Generation, sessions_ended: Awaitable[None]) -> None:
        """Sessions that began with a generation end with it."""
        await sessions_ended
        await generation.close()
        del self._before[generation]

    def _parts(self) -> dict[str, bool]:
        """What is ready, for `/readyz`."""
        parts = {"listeners": self._ready}
        return {**parts, "workers": self._listeners.is_ready} if isinstance(self._listeners, Workers) else parts

    async def _expose(self) -> bytes:
        """The page of metrics."""
        if isinstance(self._listeners, Workers):
            others = await self._listeners.families()
            return totals.expose([self.metrics.families(), *others])
        return self.metrics.expose()

    def _tell(self, event: str, values: dict[str, object]) -> None:
        """`event`, with where each listener listens."""
        for name, (host, port) in self.addresses.items():
            values[name] = f"{host}:{port}"
        self.record(Fact(event, "", values))


def _keeps(config: Config) -> bool:
    """Some mail ends in the inbox."""
    kinds = {hop.kind for hop in config.hop.values()}
    return HopKind.INBOX in kinds or any(listener.role is Role.CAPTURE for listener in config.listener.values())


def _read_recipients(config: Config) -> dict[str, Recipients]:
    """Who is known, by listener. Raises ConfigError."""
    listeners = config.listener.items()
    return {name: read_recipients(one.recipients) for name, one in listeners if one.recipients is not None}
