"""The listening sockets: bound all or none, drained in order.

STANDARDS  RFC 8314 (implicit TLS), RFC 8996 (TLS 1.2 at least), RFC 5321 §3.8 (421 when stopping).
TRUSTS     that the configuration was checked.
FAILS      ConfigError naming the listener whose address or certificate cannot be used.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from itertools import chain

from relay.accept.limits import Load
from relay.accept.login import Logins
from relay.accept.session import Service, Stages
from relay.accept.smtp import Smtp
from relay.clock import Clock
from relay.config.models import Config, Listener, ListenTls
from relay.errors import ConfigError, Problem
from relay.fact import Record

BACKLOG = 512  # connections the kernel holds until we take them


class Listeners:
    """All listeners of the configuration.

    addresses: each listener's host and port, real after `start`.
    """

    def __init__(self, config: Config, stages: Stages, logins: Logins | None, clock: Clock, record: Record) -> None:
        self._config = config
        self.load = Load(config.limit, config.delay.max_sleeping)
        self._services = [
            Service(name, settings, config, stages, logins, clock, record, self.load)
            for name, settings in config.listener.items()
        ]
        self._servers: list[asyncio.Server] = []
        self.addresses: dict[str, tuple[str, int]] = {}

    async def start(self) -> None:
        """Bind every listener. Raises ConfigError with every one that cannot be, and leaves none bound."""
        problems: list[Problem] = []
        for service in self._services:
            try:
                service.context = _context(service.name, service.settings)
                await self._bind(service)
            except ConfigError as error:
                problems += error.problems
        if problems:
            for server in self._servers:
                server.close()
            self._servers.clear()
            self.addresses.clear()
            raise ConfigError(*problems)

    async def drain(self, seconds: float) -> None:
        """Stop: no new connections, idle sessions end with 421 at once.

        Messages that are being sent to us have `seconds`; those handed to `Stages.receive` are
        waited for without end, because to leave them is to duplicate mail: their deadlines are its own.
        """
        for server in self._servers:
            server.close()
        self._servers.clear()
        for service in self._services:
            service.is_draining = True
        self._shut_down(patient=True)
        await self._handlers(seconds)
        self._shut_down(patient=False)
        await self._handlers(None)
        # Replies still under way have the write deadline, which every closing connection set itself.
        for service in self._services:
            if service.connections:
                await service.is_empty.wait()

    def _shut_down(self, *, patient: bool) -> None:
        for connection in chain.from_iterable(list(service.connections) for service in self._services):
            connection.shut_down(patient=patient)

    async def _handlers(self, seconds: float | None) -> None:
        tasks = [*chain.from_iterable((*service.handlers, *service.deliveries) for service in self._services)]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _bind(self, service: Service) -> None:
        settings = service.settings
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Smtp(service), settings.host, settings.port, backlog=BACKLOG
            )
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror or error}"
            problem = Problem("", f"listener.{service.name}.port", f"{settings.host}:{settings.port} {why}")
            raise ConfigError(problem) from error
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        self.addresses[service.name] = (host, port)


def _context(name: str, settings: Listener) -> ssl.SSLContext | None:
    """A context for each listener: a session ticket of one is worth nothing at another."""
    if settings.tls is ListenTls.NONE:
        return None
    if settings.certificate is None:
        raise ConfigError(Problem("", f"listener.{name}.certificate", "is needed for TLS"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(Problem("", f"listener.{name}.certificate", f"cannot be used: {error}")) from error
    return context
