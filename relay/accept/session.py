"""What one client said so far, and what its commands lead to: past this file nobody knows aiosmtpd.

STANDARDS  RFC 5321 §3.3, §4.1.4 (order of commands), RFC 1870, 6152, 6531 (extensions),
           RFC 3207 §4.2 (all is forgotten at STARTTLS), RFC 4954 §4 (order of AUTH).
TRUSTS     `command.py` and `wire.py` to have read the octets; the stages to decide.
FAILS      with a Reply. Whatever a stage raises is a 451 to the client and a traceback to the log.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiosmtpd import smtp as aiosmtpd

from relay import reply as replies
from relay.accept import command, wire
from relay.accept.limits import Ip, Load
from relay.accept.login import Login, Logins, LoginsBusy
from relay.accept.sasl import MECHANISMS, Credentials
from relay.address import Address
from relay.capabilities import Capabilities
from relay.clock import Clock
from relay.config.models import BareNewline, Config, Listener, ListenTls, LongLines, Role
from relay.envelope import Client, Envelope, Tls, new_id
from relay.fact import Fact, Record
from relay.reply import Reply


class Stages(Protocol):
    """What a session hands its mail to."""

    def capabilities(self, listener: str) -> Capabilities:
        """What every next hop behind this listener takes: EHLO promises no more."""
        ...

    async def sender(self, envelope: Envelope) -> Reply:
        """At MAIL; a positive reply opens the transaction."""
        ...

    async def recipient(self, envelope: Envelope, recipient: Address) -> Reply:
        """At RCPT; after a positive reply `recipient` is appended to the envelope."""
        ...

    async def receive(self, envelope: Envelope, content: bytearray) -> Reply:
        """After the final dot; lines of `content` end with CRLF. Runs on when the client goes away."""
        ...


class Connection(Protocol):
    """One client's connection, as the listener sees it."""

    def shut_down(self, *, patient: bool) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True)
class Service:
    """What all sessions of one listener share. `load` is shared by all listeners.

    context: for STARTTLS or implicit TLS, None without.
    connections: all that are open; handlers: the tasks of sessions; deliveries: of `Stages.receive`.
    is_empty: set when the last connection of a draining listener has gone.
    """

    name: str
    settings: Listener
    config: Config
    stages: Stages
    logins: Logins | None
    clock: Clock
    record: Record
    load: Load
    context: ssl.SSLContext | None = None
    connections: set[Connection] = field(default_factory=set)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)
    deliveries: set[asyncio.Task[Reply]] = field(default_factory=set)
    is_draining: bool = False
    is_empty: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_implicit(self) -> bool:
        return self.settings.tls is ListenTls.IMPLICIT

    @property
    def is_gateway(self) -> bool:
        """The world sends here: connections of one address are counted, and lenience ends."""
        return self.settings.role is Role.GATEWAY


class Session(aiosmtpd.Session):
    """One client's session; the replies to its commands.

    envelope: the open transaction, None outside.
    errors, junk, login_failures: counted against `[limit]` by the protocol.
    """

    def __init__(self, service: Service, ip: Ip, port: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.service = service
        self.id = new_id(service.clock.time())
        self.ip = ip
        self.port = port
        self.tls: Tls | None = None
        self.login: Login | None = None
        self.envelope: Envelope | None = None
        self.errors = 0
        self.junk = 0
        self.login_failures = 0
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client as known now."""
        if self._client is None:
            self._client = Client(
                self.service.name,
                self.service.settings.role.value,
                self.ip,
                self.port,
                self.host_name or "",
                self.extended_smtp,
                self.tls,
                self.login.name if self.login else None,
            )
        return self._client

    @property
    def offers_login(self) -> bool:
        """AUTH stands in the reply to EHLO."""
        return self.service.logins is not None and (self.tls is not None or self.service.settings.allow_plaintext_login)

    @property
    def needs_tls(self) -> bool:
        return self.service.settings.require_tls and self.tls is None

    def note(self, event: str, values: Mapping[str, object], level: str = "info", *, id: str = "") -> None:
        self.service.record(Fact(f"accept.{event}", id or self.id, values, level))

    def reset(self) -> None:
        """Forget the transaction (RSET, EHLO, the end of every DATA)."""
        self.envelope = None

    def secured(self, tls: Tls) -> None:
        """TLS is active: nothing said before it counts (RFC 3207 §4.2)."""
        self.reset()
        self.tls = tls
        self.login = self._client = self.host_name = None
        self.note("tls", {"version": tls.version, "cipher": tls.cipher})

    def hello(self, name: str) -> None:
        self.host_name = name
        self._client = None

    def capabilities(self) -> list[str]:
        """The lines of the reply to EHLO, behind our name."""
        taken = self.service.stages.capabilities(self.service.name)
        own = self.service.settings.max_message_size
        lines = ["PIPELINING", f"SIZE {min(own, taken.size) if taken.size else own}", "ENHANCEDSTATUSCODES"]
        lines += ["8BITMIME"] * taken.eight_bit + ["SMTPUTF8"] * taken.smtputf8
        if self.service.settings.tls is ListenTls.STARTTLS and self.tls is None:
            lines.append("STARTTLS")
        if self.offers_login and not self.needs_tls:
            lines.append(f"AUTH {' '.join(MECHANISMS)}")
        return [*lines, "HELP"]

    async def mail(self, argument: bytes) -> Reply:
        if not self.host_name or self.envelope is not None:
            return self._rejected("mail", replies.NESTED_MAIL if self.host_name else replies.HELLO_FIRST, {})
        settings = self.service.settings
        mail = command.parse_mail(
            argument,
            extended=self.extended_smtp,
            spaces=not self.service.is_gateway,
            max_size=settings.max_message_size,
        )
        if isinstance(mail, Reply):
            return self._rejected("mail", mail, {"argument": _shown(argument)})
        if mail.size > self.service.load.memory_left:
            return self._rejected("mail", replies.OUT_OF_MEMORY, {"size": mail.size})
        envelope = Envelope(
            new_id(self.service.clock.time()), self.client, mail.reverse_path, mail.size, mail.eight_bit, mail.smtputf8
        )
        reply = await self.service.stages.sender(envelope)
        if not reply.is_positive:
            return self._rejected("mail", reply, {"from": _path(mail.reverse_path)}, id=envelope.id)
        self.envelope = envelope
        return reply

    async def rcpt(self, argument: bytes) -> Reply:
        envelope = self.envelope
        if envelope is None:
            return self._rejected("rcpt", self._nothing_open(), {})
        recipient = command.parse_rcpt(
            argument,
            extended=self.extended_smtp,
            spaces=not self.service.is_gateway,
            smtputf8=envelope.smtputf8,
        )
        if isinstance(recipient, Reply):
            return self._rejected("rcpt", recipient, {"argument": _shown(argument)}, id=envelope.id)
        if len(envelope.recipients) >= self.service.config.limit.recipients:
            self.junk += 1
            return self._rejected("rcpt", replies.TOO_MANY_RECIPIENTS, {"to": str(recipient)}, id=envelope.id)
        reply = await self.service.stages.recipient(envelope, recipient)
        if not reply.is_positive:
            addresses = {"from": _path(envelope.reverse_path), "to": str(recipient)}
            return self._rejected("rcpt", reply, addresses, id=envelope.id)
        envelope.recipients.append(recipient)
        return reply

    def data_refusal(self, argument: bytes) -> Reply | None:
        """Why DATA cannot begin now; None if it can."""
        if self.envelope is None:
            return self.refused_content(self._nothing_open())
        if not self.envelope.recipients:
            return self.refused_content(replies.NO_RECIPIENT)
        if argument:
            return self.refused_content(replies.syntax("DATA takes no argument"))
        if self.service.load.memory_left <= 0:
            return self.refused_content(replies.OUT_OF_MEMORY)
        return None

    def refused_content(self, reply: Reply) -> Reply:
        """`reply` to DATA or to the final dot."""
        return self._rejected("data", reply, self._addresses(), id=self.envelope.id if self.envelope else "")

    async def receive(self, content: bytearray, problem: Reply | None) -> Reply:
        """The reply to the final dot. problem: `wire.problem(content)`. Nobody else changes `content`."""
        envelope = self.envelope
        if envelope is None:
            raise RuntimeError("a message without a transaction")
        if refusal := self._make_clean(content, problem):
            return self.refused_content(refusal)
        client = envelope.client
        values = {
            **self._addresses(),
            "size": len(content),
            "listener": client.listener,
            "ip": str(client.ip),
            "helo": client.helo,
            "tls": client.tls.version if client.tls else None,
            "login": client.login,
        }
        self.note("received", values, id=envelope.id)
        task = asyncio.ensure_future(self.service.stages.receive(envelope, content))
        self.service.deliveries.add(task)
        task.add_done_callback(self.service.deliveries.discard)
        try:
            # The stages own the message from here on: whoever ends this session does not end them.
            reply = await asyncio.shield(task)
        except Exception as error:
            reply = self.trouble(error)
        if not reply.is_positive:
            return self.refused_content(reply)
        self.errors = self.junk = 0
        return reply

    def login_refusal(self) -> Reply | None:
        """Why AUTH cannot begin now; None if it can."""
        if not self.host_name or not self.extended_smtp:
            return replies.HELLO_FIRST
        if self.service.logins is None:
            return replies.NOT_OFFERED
        if self.login is not None or self.envelope is not None:
            return replies.BAD_SEQUENCE
        return None if self.offers_login else replies.LOGIN_NEEDS_TLS

    async def log_in(self, credentials: Credentials) -> Reply:
        if self.service.logins is None:
            return replies.NOT_OFFERED
        try:
            login = await self.service.logins.verify(credentials.name, credentials.password)
        except LoginsBusy:
            return replies.LOGIN_BUSY
        result = "failed" if login is None else "passed"
        name = _shown(credentials.name.encode())
        self.note("login", {"name": name, "result": result, "ip": str(self.ip)}, "info" if login else "warning")
        if login is None:
            return replies.LOGIN_FAILED
        self.login = login
        self.authenticated = True
        self._client = None
        return replies.LOGIN_OK

    def trouble(self, error: Exception) -> Reply:
        """Our own fault: the log learns all of it, the client nothing."""
        values = {"error": type(error).__name__, "traceback": "".join(traceback.format_exception(error))}
        self.note("trouble", values, "error", id=self.envelope.id if self.envelope else "")
        return replies.INTERNAL

    def _make_clean(self, content: bytearray, found: Reply | None) -> Reply | None:
        """Refuse or repair, in place, what may not be called a message; before anything is hashed."""
        settings = self.service.settings
        is_ours = settings.role is Role.SUBMISSION
        if found is replies.BARE_NEWLINE and is_ours and settings.bare_newline is BareNewline.NORMALIZE:
            content[:] = wire.normalize(content)
            found = None
        if found is None and is_ours:
            found = wire.long_line(content)
            if found is not None and settings.long_lines is LongLines.FOLD:
                content[:] = wire.fold(content)
                found = None
        if found is None and len(content) > settings.max_message_size:
            return replies.TOO_BIG
        return found

    def _nothing_open(self) -> Reply:
        return replies.NO_SENDER if self.host_name else replies.HELLO_FIRST

    def _addresses(self) -> dict[str, object]:
        if self.envelope is None:
            return {}
        return {
            "from": _path(self.envelope.reverse_path),
            "to": [str(recipient) for recipient in self.envelope.recipients],
        }

    def _rejected(self, stage: str, reply: Reply, values: Mapping[str, object], *, id: str = "") -> Reply:
        self.note("rejected", {"stage": stage, "reply": str(reply), "ip": str(self.ip), **values}, id=id)
        return reply


async def handle_HELO(server: Any, session: Session, envelope: None, name: str) -> str:
    """aiosmtpd's hook for HELO."""
    session.hello(name)
    return f"250 {session.service.config.hostname}"


async def handle_EHLO(server: Any, session: Session, envelope: None, name: str, responses: list[str]) -> list[str]:
    """aiosmtpd's hook for EHLO: `responses` are its capabilities, ours stand instead."""
    session.hello(name)
    lines = [session.service.config.hostname, *session.capabilities()]
    return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]


def _path(path: Address | None) -> str:
    return str(path) if path else "<>"


def _shown(octets: bytes) -> str:
    """Foreign octets, fit for a log line."""
    return octets[:256].decode("ascii", "backslashreplace")
