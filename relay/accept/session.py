"""What one client said so far, and what its commands lead to: past this file nobody knows aiosmtpd.

STANDARDS  RFC 5321 §3.3, §4.1.4 (order of commands), RFC 1870, 3030, 3461, 6152, 6531, 9422
           (extensions), RFC 3207 §4.2 (all is forgotten at STARTTLS), RFC 4954 §4 (order of AUTH).
TRUSTS     `command.py` and `wire.py` to have read the octets; the stages to decide.
FAILS      with a Reply. Whatever a stage raises is a 451 to the client and a traceback to the log.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from typing import Any

from aiosmtpd import smtp as aiosmtpd

from relay import reply as replies
from relay.accept import command, wire
from relay.accept.chunks import ChunkReader
from relay.accept.limits import Ip, Reservation, holder
from relay.accept.login import Login, LoginsBusy
from relay.accept.sasl import MECHANISMS, Credentials
from relay.accept.service import Service
from relay.address import Address
from relay.capabilities import Capabilities
from relay.config.models import BareNewline, ListenTls, LongLines, Role
from relay.envelope import Client, Envelope, Notify, Tls, new_id
from relay.fact import Fact
from relay.reply import Reply


class Session(aiosmtpd.Session):
    """One client's session; the replies to its commands.

    address: `ip` as text. needs_tls: before any mail.
    envelope: the open transaction, None outside. chunks: its message, once BDAT began it.
    is_known: false behind a load balancer that does not say who the client is.
    errors, junk, login_failures: counted against `[limit]` by the protocol.
    """

    tls: Tls | None = None
    login: Login | None = None
    envelope: Envelope | None = None
    chunks: ChunkReader | None = None
    is_known = True
    errors = junk = login_failures = 0
    _offers_dsn = False
    _client: Client | None = None

    def __init__(self, service: Service, ip: Ip, port: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.service = service
        self.id = new_id(service.clock.time())
        self.ip = ip
        self.port = port
        self.address = str(ip)
        self.needs_tls = service.settings.require_tls

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

    def note(self, event: str, values: Mapping[str, object], level: str = "info", *, id: str = "") -> None:
        self.service.record(Fact(f"accept.{event}", id or self.id, values, level))

    def came_from(self, ip: Ip, port: int) -> None:
        """A load balancer said who the client is."""
        self.ip, self.port, self.address, self._client = ip, port, str(ip), None

    def reset(self) -> None:
        """Forget the transaction (RSET, EHLO, the end of every message)."""
        if self.envelope is not None:
            self.service.stages.forget(self.envelope)
            self.envelope = None
        if self.chunks is not None:
            self.chunks.release()
            self.chunks = None

    def secured(self, tls: Tls) -> None:
        """TLS is active: nothing said before it counts (RFC 3207 §4.2)."""
        self.reset()
        self.tls = tls
        self.needs_tls = False
        self.login = self._client = self.host_name = None
        self.note("tls", {"version": tls.version, "cipher": tls.cipher})

    def hello(self, name: str) -> None:
        self.host_name = name
        self._client = None

    def capabilities(self) -> str:
        """The reply to EHLO."""
        service = self.service
        config, settings, taken = service.config, service.settings, service.stages.capabilities(service.name)
        self._offers_dsn = taken.dsn
        starttls = settings.tls is ListenTls.STARTTLS and self.tls is None
        login = self.offers_login and not self.needs_tls
        return _capabilities(
            config.hostname, taken, settings.max_message_size, config.limit.recipients, starttls=starttls, login=login
        )

    def mail(self, argument: bytes) -> Reply:
        if not self.host_name or self.envelope is not None:
            return self._rejected("mail", replies.NESTED_MAIL if self.host_name else replies.HELLO_FIRST, {})
        if not self.is_known:  # the balancer's own address may do more than its clients
            return self._rejected("mail", replies.CLIENT_UNKNOWN, {})
        settings = self.service.settings
        mail = command.parse_mail(
            argument,
            extended=self.extended_smtp,
            spaces=not self.service.is_gateway,
            max_size=settings.max_message_size,
            dsn=self._offers_dsn,
        )
        if isinstance(mail, Reply):
            return self._rejected("mail", mail, {"argument": _shown(argument)})
        if mail.size and mail.size > self.service.load.memory_left:
            return self._rejected("mail", replies.OUT_OF_MEMORY, {"size": mail.size})
        envelope = Envelope(
            new_id(self.service.clock.time()),
            self.client,
            mail.reverse_path,
            mail.size,
            mail.eight_bit,
            mail.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
        )
        reply = self.service.stages.sender(envelope)
        if not reply.is_positive:
            return self._rejected("mail", reply, {"from": _path(mail.reverse_path)}, id=envelope.id)
        self.envelope = envelope
        return reply

    def rcpt(self, argument: bytes) -> Reply | Awaitable[Reply]:
        envelope = self.envelope
        if envelope is None:
            return self._rejected("rcpt", self._nothing_open(), {})
        if self.chunks is not None:  # its message has begun
            return self._rejected("rcpt", replies.BAD_SEQUENCE, {}, id=envelope.id)
        parsed = command.parse_rcpt(
            argument,
            extended=self.extended_smtp,
            spaces=not self.service.is_gateway,
            smtputf8=envelope.smtputf8,
            dsn=self._offers_dsn,
        )
        if isinstance(parsed, Reply):
            return self._rejected("rcpt", parsed, {"argument": _shown(argument)}, id=envelope.id)
        recipient, notify = parsed
        if len(envelope.recipients) >= self.service.config.limit.recipients:
            self.junk += 1
            return self._rejected("rcpt", replies.TOO_MANY_RECIPIENTS, {"to": str(recipient)}, id=envelope.id)
        reply = self.service.stages.recipient(envelope, recipient)
        if isinstance(reply, Reply):
            return self._chosen(envelope, recipient, notify, reply)
        return self._chosen_later(envelope, recipient, notify, reply)

    async def _chosen_later(
        self, envelope: Envelope, recipient: Address, notify: Notify | None, reply: Awaitable[Reply]
    ) -> Reply:
        return self._chosen(envelope, recipient, notify, await reply)

    def _chosen(self, envelope: Envelope, recipient: Address, notify: Notify | None, reply: Reply) -> Reply:
        """The stages' `reply` to a recipient."""
        if not reply.is_positive:
            addresses = {"from": _path(envelope.reverse_path), "to": str(recipient)}
            return self._rejected("rcpt", reply, addresses, id=envelope.id)
        envelope.recipients.append(recipient)
        if notify is not None:
            envelope.notify[recipient] = notify
        return reply

    def data_refusal(self, argument: bytes) -> Reply | None:
        """Why DATA cannot begin now; None if it can."""
        if self.chunks is not None:  # RFC 3030 §2: the transaction can only end now
            self.chunks.refuse(replies.BAD_SEQUENCE)
            self.chunks.is_told = True
            return self.refused_content(replies.BAD_SEQUENCE)
        refusal = self._content_refusal()
        if refusal is None and argument:
            refusal = replies.syntax("DATA takes no argument")
        return refusal and self.refused_content(refusal)

    def chunked(self, now: float) -> ChunkReader:
        """The message a chunk belongs to, refused where there may be none. now: on the loop's clock."""
        if self.chunks is not None:
            return self.chunks
        message = ChunkReader(Reservation(self.service.load, self.service.settings.max_message_size), now)
        if refusal := self._content_refusal():
            message.refuse(refusal)
        if self.envelope is not None:  # so that no later chunk is taken for the first
            self.chunks = message
        return message

    def _content_refusal(self) -> Reply | None:
        if self.needs_tls:
            return replies.TLS_FIRST
        if self.envelope is None:
            return self._nothing_open()
        if not self.envelope.recipients:
            return replies.NO_RECIPIENT
        return replies.OUT_OF_MEMORY if self.service.load.memory_left <= 0 else None

    def refused_content(self, reply: Reply) -> Reply:
        """`reply` to DATA or BDAT, or to the end of the message."""
        return self._rejected("data", reply, self._addresses(), id=self.envelope.id if self.envelope else "")

    async def receive(self, content: bytearray, problem: Reply | None) -> Reply:
        """The reply to a whole message. problem: `wire.problem(content)`. Nobody else changes `content`."""
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
            "ip": client.address,
            "helo": client.helo,
            "tls": client.tls.version if client.tls else None,
            "login": client.login,
        }
        self.note("received", values, id=envelope.id)
        try:
            # Nobody cancels a session, so that the stages run to their end whatever the client does.
            reply = await self.service.stages.receive(envelope, content)
        except Exception as error:
            reply = self.trouble(error)
        if not reply.is_positive:
            return self.refused_content(reply)
        self.errors = self.junk = 0
        return reply

    async def unheard(self, content: bytearray, reply: Reply, *, is_lost: bool) -> None:
        """The client closed before `reply` to its message was written. is_lost: it is certain not to hear it."""
        if self.envelope is not None:
            await self.service.stages.unheard(self.envelope, content, reply)
        if is_lost:
            self.note("unheard", {"reply": str(reply), "ip": self.address}, "warning")

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
        failures, address = self.service.failures, holder(self.ip)
        if failures.is_locked(credentials.name, address, exempt=self.service.load.is_exempt(self.ip)):
            self._note_login(credentials, "locked")
            return replies.LOGIN_LOCKED
        try:
            login = await self.service.logins.verify(credentials.name, credentials.password)
        except LoginsBusy:
            return replies.LOGIN_BUSY
        self._note_login(credentials, "passed" if login else "failed")
        if login is None:
            failures.failed(credentials.name, address)
            return replies.LOGIN_FAILED
        failures.passed(credentials.name, address)
        self.login = login
        self.authenticated = True
        self._client = None
        return replies.LOGIN_OK

    def _note_login(self, credentials: Credentials, result: str) -> None:
        values = {"name": _shown(credentials.name.encode()), "result": result, "ip": self.address}
        self.note("login", values, "info" if result == "passed" else "warning")

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
        self.note("rejected", {"stage": stage, "reply": str(reply), "ip": self.address, **values}, id=id)
        return reply


async def handle_HELO(server: Any, session: Session, envelope: None, name: str) -> str:
    """aiosmtpd's hook for HELO."""
    session.hello(name)
    return f"250 {session.service.config.hostname}"


async def handle_EHLO(server: Any, session: Session, envelope: None, name: str, responses: list[str]) -> list[str]:
    """aiosmtpd's hook for EHLO: `responses` are its capabilities, ours stand instead."""
    session.hello(name)
    return [session.capabilities()]  # in one, so that it is pushed at once


@lru_cache(64)  # all clients of a listener hear the same, until a next hop takes something else
def _capabilities(
    hostname: str, taken: Capabilities, size: int, recipients: int, *, starttls: bool, login: bool
) -> str:
    """The reply to EHLO. taken: by the next hops. size, recipients: our own limits."""
    lines = [hostname, "PIPELINING", f"SIZE {min(size, taken.size) if taken.size else size}", "ENHANCEDSTATUSCODES"]
    lines += ["CHUNKING", f"LIMITS RCPTMAX={recipients}"]
    lines += ["8BITMIME"] * taken.eight_bit + ["SMTPUTF8"] * taken.smtputf8 + ["DSN"] * taken.dsn
    lines += ["STARTTLS"] * starttls + [f"AUTH {' '.join(MECHANISMS)}"] * login
    return "".join(f"250-{line}\r\n" for line in lines) + "250 HELP"


def _path(path: Address | None) -> str:
    return str(path) if path else "<>"


def _shown(octets: bytes) -> str:
    """Foreign octets, fit for a log line."""
    return octets[:256].decode("ascii", "backslashreplace")
