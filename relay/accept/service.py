"""What the sessions of one listener share: settings, certificates, logins, the stages behind them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from relay.accept.failures import Failures
from relay.accept.limits import Ip, Load, Patience, patience
from relay.accept.login import Logins
from relay.address import Address
from relay.capabilities import Capabilities
from relay.clock import Clock
from relay.config.models import Config, Listener, ListenTls, Role
from relay.envelope import Envelope
from relay.fact import Record
from relay.reply import Reply, greeting


class Stages(Protocol):
    """What a session hands its mail to."""

    def capabilities(self, listener: str) -> Capabilities:
        """What every next hop behind this listener takes: EHLO promises no more."""
        ...

    def sender(self, envelope: Envelope) -> Reply:
        """At MAIL; a positive reply opens the transaction."""
        ...

    def recipient(self, envelope: Envelope, recipient: Address) -> Reply | Awaitable[Reply]:
        """At RCPT; after a positive reply `recipient` is appended to the envelope. To be awaited only if it waits."""
        ...

    async def receive(self, envelope: Envelope, content: bytearray) -> Reply:
        """After the final dot; lines of `content` end with CRLF. Runs on when the client goes away."""
        ...

    async def unheard(self, envelope: Envelope, content: bytearray, reply: Reply) -> None:
        """The client closed before `reply` to its message was written, and may send it again."""
        ...

    def forget(self, envelope: Envelope) -> None:
        """The transaction is over, however it ended."""
        ...


class Connection(Protocol):
    """One client's connection, as the listener sees it."""

    def shut_down(self, *, patient: bool) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True)
class Service:
    """What all sessions of one listener share, from a reload to the next.

    load, failures: shared by all listeners, and by all reloads. is_own: an address is this machine's.
    context: for STARTTLS or implicit TLS, None without.
    connections: all that are open; handlers: the tasks of sessions, which nobody cancels.
    is_draining: the listener takes no more. is_empty: set when the last connection has gone.
    is_gateway: the world sends here: connections of one address are counted, and lenience ends.
    """

    name: str
    settings: Listener
    config: Config
    stages: Stages
    logins: Logins | None
    clock: Clock
    record: Record
    load: Load
    failures: Failures
    is_own: Callable[[Ip], bool]
    context: ssl.SSLContext | None
    connections: set[Connection] = field(default_factory=set)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)
    is_draining: bool = False
    is_empty: asyncio.Event = field(default_factory=asyncio.Event)
    is_implicit: bool = field(init=False)
    is_gateway: bool = field(init=False)
    greeting: Reply = field(init=False)
    _quiet: Patience = field(init=False)
    _hurried: Patience = field(init=False)

    def __post_init__(self) -> None:
        self.is_implicit = self.settings.tls is ListenTls.IMPLICIT
        self.is_gateway = self.settings.role is Role.GATEWAY
        self.greeting = greeting(self.config.hostname)
        self._quiet, self._hurried = patience(self.config)

    @property
    def patience(self) -> Patience:
        """What a session may do, as the load is now."""
        return self._hurried if self.load.is_high else self._quiet
