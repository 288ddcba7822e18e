"""Builds every part from the configuration, starts them, and ends them in the right order.

Order of ending: the listeners stop taking connections and let what is in flight finish, then the
next hops close their kept connections, then the inbox closes, and the health page goes last, so
that `/readyz` says 503 for as long as the relay drains.
"""

from __future__ import annotations

import asyncio

from relay import __version__
from relay.accept.listener import Listeners
from relay.accept.login import Logins
from relay.clock import Clock, SystemClock
from relay.config.models import Config, HopKind, Role
from relay.edit.sign import Signer
from relay.fact import Fact, Record
from relay.forward.deliver import SmtpHop
from relay.inbox.store import FILE_NAME, Inbox
from relay.outcome import NextHop
from relay.pipeline import Pipeline
from relay.publish.keys import make_missing_keys
from relay.watch import logs
from relay.watch.metrics import Metrics
from relay.watch.web import Web

_PROBE = 2.0  # seconds that the start waits to hear what next hops take


class App:
    """The relay as a whole: `start`, then `stop`. `addresses` names where each listener really listens."""

    def __init__(self, config: Config, clock: Clock, log: Record) -> None:
        """log: takes every fact, besides the metrics. Raises ConfigError."""
        self._config, self._log = config, log
        self._metrics = Metrics()
        self._ready = False
        self._probes: asyncio.Future[list[None]] | None = None
        for fact in make_missing_keys(config.domain, clock):
            self.record(fact)
        self._inbox = self._make_inbox(clock)
        self._hops: dict[str, NextHop] = {}
        for name, hop in config.hop.items():
            if hop.kind is HopKind.SMTP:
                self._hops[name] = SmtpHop(name, hop, config.timeout, config.hostname, clock, self.record)
            elif self._inbox is not None:
                self._hops[name] = self._inbox
        logins = self._logins = Logins.read(config.login, clock) if config.login.file else None
        pipeline = Pipeline(
            config,
            self._hops,
            self._inbox,
            Signer(config.domain, clock, self.record),
            logins.senders if logins else None,
            clock,
            self.record,
        )
        self._listeners = Listeners(config, pipeline, logins, clock, self.record)
        self._web = Web(self._metrics.expose, lambda: {"listeners": self._ready}, config.hostname)

    def record(self, fact: Fact) -> None:
        """Where every fact goes."""
        self._metrics.record(fact)
        self._log(fact)

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        return self._listeners.addresses

    async def start(self) -> None:
        """Open the inbox, bind every port. Raises ConfigError, with nothing left open."""
        try:
            if self._inbox is not None:
                await self._inbox.open()
            web_port = await self._web.start(self._config.web.host, self._config.web.port)
            # A hop that takes long to answer is promised everything until it has.
            self._probes = asyncio.gather(*(hop.probe() for hop in self._hops.values()))
            await asyncio.wait([self._probes], timeout=_PROBE)
            await self._listeners.start()
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        values: dict[str, object] = {"version": __version__, "web": f"{self._config.web.host}:{web_port}"}
        for name, (host, port) in self.addresses.items():
            values[name] = f"{host}:{port}"
        self.record(Fact("app.started", "", values))
        for name, listener in self._config.listener.items():
            if listener.role is Role.GATEWAY:
                # This role will check SPF, DKIM, DMARC and ARC; it does not yet, and says so.
                self.record(Fact("app.unchecked", "", {"listener": name, "missing": "spf dkim dmarc arc"}, "warning"))

    async def stop(self) -> None:
        if self._ready:
            self.record(Fact("app.stopping"))
        self._ready = False
        await self._listeners.drain(self._config.timeout.drain)
        if self._probes is not None:
            self._probes.cancel()
            await asyncio.wait([self._probes])
        await asyncio.gather(*(hop.close() for hop in self._hops.values() if hop is not self._inbox))
        if self._inbox is not None:
            await self._inbox.close()
        if self._logins is not None:
            self._logins.close()
        await self._web.stop()
        self.record(Fact("app.stopped"))

    def _make_inbox(self, clock: Clock) -> Inbox | None:
        """One store for `capture` and for all hops of kind inbox; none if neither is configured."""
        names = [name for name, hop in self._config.hop.items() if hop.kind is HopKind.INBOX]
        if not names and all(listener.role is not Role.CAPTURE for listener in self._config.listener.values()):
            return None
        path = self._config.data / FILE_NAME
        return Inbox(path, names[0] if names else "inbox", self._config.inbox.keep, clock, self.record)


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    app = App(config, SystemClock(), logs.log)
    await app.start()
    try:
        await stop.wait()
    finally:
        await app.stop()
