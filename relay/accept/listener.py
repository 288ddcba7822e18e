"""The listening sockets: bound all or none, given new settings while they listen, drained in order.

STANDARDS  RFC 8314 (implicit TLS), RFC 5321 §3.8 (421 when stopping).
TRUSTS     that the configuration was checked.
FAILS      ConfigError naming each listener whose address or certificate cannot be used; then all is as before.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from relay.accept import tls
from relay.accept.counts import SharedCounts
from relay.accept.failures import Failures
from relay.accept.limits import Ip, Load
from relay.accept.login import Logins
from relay.accept.ports import BACKLOG, bind
from relay.accept.service import Service, Stages
from relay.accept.smtp import Smtp
from relay.clock import Clock
from relay.config.models import Config
from relay.config.networks import this_machine
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.part import Part

_Place = tuple[str, int, str]  # host and port as configured, and the listener's name where any port will do


@dataclass(slots=True)
class _Endpoint:
    """What listens at one place. service: for connections from now on."""

    service: Service
    sockets: list[socket.socket]
    servers: list[asyncio.Server] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.sockets[0].getsockname()[:2]
        return host, port

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for bound in self.sockets:
            self.servers.append(await loop.create_server(self._protocol, sock=bound, backlog=BACKLOG))

    def _protocol(self) -> Smtp:
        return Smtp(self.service)

    def close(self) -> None:
        for server in self.servers:
            server.close()
        if not self.servers:
            for bound in self.sockets:
                bound.close()


class Generation:
    """The sessions that began with one configuration."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = tuple(services)

    async def ended(self) -> None:
        """The last of them has gone, and what it had received is settled: its stages are needed no more."""
        for service in self._services:
            while service.connections or service.handlers:
                if service.handlers:
                    await asyncio.wait(service.handlers)
                else:
                    service.is_empty.clear()
                    await service.is_empty.wait()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Listeners of a configuration that is not in force yet."""

    config: Config
    services: list[Service]
    endpoints: dict[_Place, _Endpoint]


class Listeners:
    """All listeners of the configuration.

    addresses: each listener's host and port, real after `start`.
    """

    def __init__(
        self,
        config: Config,
        stages: Stages,
        logins: Logins | None,
        clock: Clock,
        record: Record,
        is_own: Callable[[Ip], bool] | None = None,
        *,
        part: Part | None = None,
    ) -> None:
        """is_own: an address is this machine's; asked about clients that a load balancer names.

        part: None for all of the relay; else other workers listen on the same ports.
        """
        self._first = config, stages, logins
        self._clock, self._record = clock, record
        self._is_own = is_own or this_machine().is_own
        part = part or Part()
        self._is_shared = part.count > 1
        counts = SharedCounts(part.memory, part.number) if part.memory is not None else None
        self.load = Load(config.limit, config.stress, config.delay.max_sleeping, self._note_stress, counts)
        self._failures = Failures(config.login, clock, part.telling)
        self._endpoints: dict[_Place, _Endpoint] = {}
        self._services: list[Service] = []  # those that take connections, and those of earlier ones still open
        self.addresses: dict[str, tuple[str, int]] = {}

    async def start(self) -> None:
        """Bind every listener. Raises ConfigError with every one that cannot be, and leaves none bound."""
        await self.replace(*self._first)

    async def replace(self, config: Config, stages: Stages, logins: Logins | None) -> Generation:
        """`prepare` and `commit`."""
        return await self.commit(await self.prepare(config, stages, logins))

    async def prepare(self, config: Config, stages: Stages, logins: Logins | None) -> Prepared:
        """All that can fail: new places are bound, but nobody is answered there yet. `commit` or `abandon` it.

        Raises ConfigError, and nothing has changed.
        """
        return Prepared(config, *self._build(config, stages, logins))

    async def abandon(self, prepared: Prepared) -> None:
        """All stays as it is."""
        for endpoint in prepared.endpoints.values():
            endpoint.close()

    async def commit(self, prepared: Prepared) -> Generation:
        """From now on sessions begin with these; returned are those that do not, which keep what they have.

        A socket stays open where host and port stay the same (another host for the same port is a
        conflict with ourselves: change both, or start anew). A listener that is gone takes no more,
        its idle sessions hear 421.
        """
        config, services, endpoints = prepared.config, prepared.services, prepared.endpoints
        before = Generation(self._services)
        kept = {place: self._endpoints[place] for place in endpoints if place in self._endpoints}
        new = [endpoint for place, endpoint in endpoints.items() if place not in kept]
        gone = [endpoint for place, endpoint in self._endpoints.items() if place not in kept]
        for place, endpoint in kept.items():
            endpoint.service = endpoints[place].service
        for endpoint in gone:
            endpoint.close()
            endpoint.service.is_draining = True
            self._shut_down([endpoint.service], patient=True)
        self.load.update(config.limit, config.stress, config.delay.max_sleeping)
        self._failures.update(config.login)
        self._endpoints = endpoints | kept
        still_open = [one for one in self._services if one.connections or one.handlers]
        self._services = services + still_open
        self.addresses = {endpoint.service.name: endpoint.address for endpoint in self._endpoints.values()}
        for endpoint in new:
            await endpoint.serve()
        return before

    async def drain(self, seconds: float) -> None:
        """Stop: no new connections, idle sessions end with 421 at once.

        Messages that are being sent to us have `seconds`; those handed to `Stages.receive` are
        waited for without end, because to leave them is to duplicate mail: their deadlines are its own.
        """
        for endpoint in self._endpoints.values():
            endpoint.close()
        self._endpoints.clear()
        for service in self._services:
            service.is_draining = True
        self._shut_down(self._services, patient=True)
        await self._handlers(seconds)
        self._shut_down(self._services, patient=False)
        # Replies still under way have the write deadline, which every closing connection set itself.
        await Generation(self._services).ended()

    def _build(
        self, config: Config, stages: Stages, logins: Logins | None
    ) -> tuple[list[Service], dict[_Place, _Endpoint]]:
        """Raises ConfigError with every listener that cannot be."""
        problems: list[Problem] = []
        services: list[Service] = []
        endpoints: dict[_Place, _Endpoint] = {}
        for name, settings in config.listener.items():
            place = (settings.host, settings.port, "" if settings.port else name)
            try:
                context = tls.context(name, settings)
                service = Service(
                    *(name, settings, config, stages, logins, self._clock, self._record),
                    *(self.load, self._failures, self._is_own, context),
                )
                known = place in self._endpoints
                sockets = [] if known else bind(name, settings.host, settings.port, is_shared=self._is_shared)
            except ConfigError as error:
                problems += error.problems
                continue
            services.append(service)
            endpoints[place] = _Endpoint(service, sockets)
        if problems:
            for endpoint in endpoints.values():
                endpoint.close()
            raise ConfigError(*problems)
        return services, endpoints

    def _note_stress(self, on: bool) -> None:
        values = {"on": on, "connections": self.load.connections}
        self._record(Fact("accept.stress", "", values, "warning" if on else "info"))

    def _shut_down(self, services: Iterable[Service], *, patient: bool) -> None:
        for connection in chain.from_iterable(list(service.connections) for service in services):
            connection.shut_down(patient=patient)

    async def _handlers(self, seconds: float) -> None:
        tasks = [*chain.from_iterable(service.handlers for service in self._services)]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
