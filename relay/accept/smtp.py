# mypy: disable-error-code="override"
"""The conversation with one client: who it is, greeting, commands; our subclass of aiosmtpd's SMTP.

We differ from aiosmtpd: the `smtp_*` methods get octets and return their Reply, or what is to be awaited for it;
None has spoken for itself.

STANDARDS  RFC 5321 §3.1, §4.1, §4.3 (sequence), RFC 2920 (PIPELINING: replies are gathered and
           written when no further command has come), RFC 3207, RFC 4954.
TRUSTS     nothing. After a refused DATA the client's text must not run as commands.
FAILS      a faulty command has its reply, held back when there were many; too many end the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from relay import reply as replies
from relay.accept import command
from relay.accept.channel import HangUp, deaf
from relay.accept.data import DotReader
from relay.accept.limits import is_in, plain_ip
from relay.accept.opening import Opening
from relay.accept.sasl import Credentials, read_credentials
from relay.accept.session import Session
from relay.config.models import ListenTls
from relay.reply import Reply

# RFC 3207 §4; and BDAT, which refuses by itself once it has read its octets.
_BEFORE_TLS = frozenset({"NOOP", "EHLO", "HELO", "STARTTLS", "QUIT", "BDAT"})
_JUNK = frozenset({"NOOP", "RSET", "EHLO", "HELO", "VRFY", "HELP"})
_NOT_OFFERED = frozenset(
    {"BURL", "EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML", "XCLIENT", "XFORWARD", "DEBUG", "WIZ"}
)
_HELP = Reply(214, "0.0", "RFC 5321")


class Smtp(Opening):
    """One client's session, from 220 to 221.

    Commands are obeyed as they come in, by plain functions. The session's task goes on where something has to be
    waited for: the next hop, a delay, a login, a handshake.
    """

    _is_counted = False
    _is_over = False
    _must_end = False
    _rest: Awaitable[None] | None = None  # of a command: what has to be waited for

    # --- the connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone already
            self.transport.abort()
            return
        service = self.service
        service.connections.add(self)
        self.session = Session(service, plain_ip(peer[0]), peer[1], self.loop)
        refusal, why = self._turn_away()
        if why:
            self._note_refused(refusal, why)
            if refusal is not None and not service.is_implicit:
                self.transport.write(refusal.wire())
            self.hang_up()
            return
        self._is_counted = True
        if service.is_implicit and not service.settings.proxy_from:
            self.transport.pause_reading()  # the first octets are for the TLS layer
        self._handler_coroutine = self.loop.create_task(self._handle_client())
        service.handlers.add(self._handler_coroutine)
        self._handler_coroutine.add_done_callback(service.handlers.discard)
        place = {"listener": service.name, "ip": self.session.address, "port": self.session.port}
        self.session.note("connected", place, "debug")

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        service = self.service
        service.connections.discard(self)
        if not service.connections:
            service.is_empty.set()
        if self._holder is not None:
            service.load.let_go(self._holder)
            self._holder = None
        if self._is_counted:
            self._is_counted = False
            service.load.leave()
            self.session.note("closed", {"listener": service.name, "ip": self.session.address}, "debug")

    def shut_down(self, *, patient: bool) -> None:
        """The relay stops: end a session that waits for its client. patient: not one that sends a message."""
        self._must_end = not patient
        if not (patient and self._is_sending):
            self.interrupt(HangUp(replies.SHUTTING_DOWN, "draining", lingers=False))
        if self._is_in_handshake:  # nothing was begun, and there is no way to say 421
            self.abort()

    @property
    def _is_sending(self) -> bool:
        return self.reading is not None or self.session.chunks is not None

    async def _handle_client(self) -> None:
        session = self.session
        lingers = False
        try:
            await self._converse()
        except HangUp as end:
            lingers = end.lingers
            if end.reply is not None and not (self.service.is_implicit and session.tls is None):
                self.say(end.reply)
            if end.why:
                self._note_refused(end.reply, end.why)
        except Exception as error:
            self.say(session.trouble(error))
        finally:
            session.reset()
        await self.flush()
        self.hang_up(lingers=lingers)

    async def _converse(self) -> None:
        if self.service.settings.proxy_from and not await self._learn_client():
            return
        if self.service.is_implicit and not await self.start_tls():
            return
        if not await self._greet():
            return
        while not self._is_over:
            if not self._go_on():
                if self._is_at_end:
                    return
                if not await self.wait(self._until(), self._go_on):
                    raise self._too_late()
            if self._is_writing_paused:
                await self.flush()
            if isinstance(self.reading, DotReader):
                await self._receive_text(self.reading)
            elif self._rest is not None:
                rest, self._rest = self._rest, None
                await rest

    def _go_on(self) -> bool:
        """Obey the commands that have come, and write the replies. True: now the task has to go on.

        Called by the task, and by what comes in while the task waits for commands.
        """
        has_obeyed = False
        while self.reading is None:
            if self._must_end or (self.service.is_draining and self.session.chunks is None):
                raise HangUp(replies.SHUTTING_DOWN, "draining", lingers=bool(self._buffer))
            line = self.take_line()
            if line is None:
                break
            has_obeyed = True
            self._rest = self._obey(line)
            if self._rest is not None or self._is_over:
                return True
        self.write()
        if has_obeyed and self._waiter is not None:  # octets that drip in buy no time; the task's waits set their own
            self._set_deadline(self._until())
        return self._is_writing_paused or (self.reading is not None and bool(self._buffer))

    def _until(self) -> float:
        """When the next command must have come, or a block of the message."""
        if self.reading is not None:
            return self._block_until(self.reading)
        return self.loop.time() + self.service.patience.command

    def _too_late(self) -> HangUp:
        if self.reading is not None:
            return HangUp(replies.TOO_SLOW, "slow message")
        return HangUp(replies.IDLE_TOO_LONG, "idle", lingers=False)

    # --- commands ------------------------------------------------------------------------------

    def _obey(self, line: bytes) -> Awaitable[None] | None:
        """One command. What is well is answered at once; all else is left to be waited for."""
        parsed = command.parse_line(line)
        if isinstance(parsed, Reply):
            if line[:4].upper() == b"BDAT":
                raise HangUp(parsed, "BDAT without a size")
            return self._answer_fault(parsed)
        verb, argument = parsed
        method = _COMMANDS.get(verb)
        if method is None:
            return self._answer_unknown(verb)
        self._may_be_text = False
        session = self.session
        junk = session.junk
        if verb in _JUNK:
            session.junk += 1
        reply: Reply | Awaitable[Reply | None] | None
        if session.needs_tls and verb not in _BEFORE_TLS:
            self._may_be_text = verb == "DATA"
            reply = replies.TLS_FIRST
        else:
            try:
                reply = method(self, argument)
            except HangUp:
                raise
            except Exception as error:
                reply = self._trouble(error)
        if session.junk == junk or session.junk <= self.service.patience.junk:
            if reply is None:
                return None
            if isinstance(reply, Reply) and reply.is_positive:
                self.say(reply)
                return None
        return self._answer(reply, junk)

    async def _answer(self, reply: Reply | Awaitable[Reply | None] | None, junk: int) -> None:
        """The reply to a command that waits for something, is faulty or junk. junk: how much there was before it."""
        session = self.session
        try:
            said = reply if reply is None or isinstance(reply, Reply) else await reply
        except HangUp:
            raise
        except Exception as error:
            said = self._trouble(error)
        if said is not None:
            if said.is_positive:
                self.say(said)
            else:
                await self._answer_fault(said)
        if session.junk > junk and session.junk > self.service.patience.junk:
            raise HangUp(replies.TOO_MANY_ERRORS, "junk")

    def _trouble(self, error: Exception) -> Reply:
        self.session.errors += 1
        return self.session.trouble(error)

    async def _answer_unknown(self, verb: str) -> None:
        if command.is_http(verb):
            raise HangUp(replies.NOT_SMTP, "HTTP")
        if verb == "PROXY":  # a second header, or a balancer that is not in proxy_from
            raise HangUp(replies.NOT_SMTP, "PROXY header")
        if verb in _NOT_OFFERED:
            self._may_be_text = False
            await self._answer_fault(replies.NOT_OFFERED)
            return
        if self._may_be_text:
            raise HangUp(replies.TOO_MANY_ERRORS, "text behind a refused DATA")
        await self._answer_fault(replies.UNKNOWN_COMMAND)

    async def _answer_fault(self, reply: Reply) -> None:
        session = self.session
        if reply.is_permanent:
            session.errors += 1
            if session.errors > self.service.config.delay.error_after:
                await self._hold_back()
        self.say(reply)
        if session.errors >= self.service.patience.errors:
            raise HangUp(replies.TOO_MANY_ERRORS, "errors")

    async def _hold_back(self) -> None:
        """Keep a client that makes errors waiting; it may go away meanwhile."""
        delay = self.service.config.delay
        if delay.error and not is_in(self.session.ip, delay.skip) and self.service.load.lie_down():
            try:
                await self.flush()
                await self.wait(self.loop.time() + delay.error, deaf)
            finally:
                self.service.load.get_up()

    def _set_rset_state(self) -> None:
        """aiosmtpd's name for: forget the transaction."""
        self.session.reset()

    def smtp_EHLO(self, arg: bytes) -> Reply | None:
        return _hello(arg, super().smtp_EHLO)

    def smtp_HELO(self, arg: bytes) -> Reply | None:
        return _hello(arg, super().smtp_HELO)

    def smtp_MAIL(self, arg: bytes) -> Reply:
        return self.session.mail(arg)

    def smtp_RCPT(self, arg: bytes) -> Reply | Awaitable[Reply]:
        return self.session.rcpt(arg)

    def smtp_RSET(self, arg: bytes) -> Reply:
        if arg:
            return replies.syntax("RSET takes no argument")
        self.session.reset()
        return replies.OK

    def smtp_NOOP(self, arg: bytes) -> Reply:
        return replies.OK

    def smtp_VRFY(self, arg: bytes) -> Reply:
        return replies.VRFY if arg else replies.syntax("write VRFY address")

    def smtp_HELP(self, arg: bytes) -> Reply:
        return _HELP

    def smtp_QUIT(self, arg: bytes) -> Reply:
        if arg:
            return replies.syntax("QUIT takes no argument")
        self._is_over = True
        return replies.BYE

    # --- STARTTLS, AUTH -----------------------------------------------------------------------------

    async def smtp_STARTTLS(self, arg: bytes) -> Reply | None:
        session = self.session
        if self.service.settings.tls is ListenTls.NONE:
            return replies.NOT_OFFERED
        if arg:
            return replies.syntax("STARTTLS takes no argument")
        if session.tls is not None:
            return replies.ALREADY_TLS
        if session.envelope is not None or session.login is not None:
            return replies.BAD_SEQUENCE
        if self._buffer:  # CVE-2011-0411: what was sent in clear must never be taken for what TLS protected
            self._buffer.clear()
            raise HangUp(replies.OUT_OF_STEP, "pipelined behind STARTTLS")
        self.say(replies.START_TLS)
        await self.flush()
        self._is_over = not await self.start_tls()
        return None

    async def smtp_AUTH(self, arg: bytes) -> Reply | None:
        session = self.session
        if refusal := session.login_refusal():
            return refusal
        found = await read_credentials(arg, self._challenge)
        reply = await session.log_in(found) if isinstance(found, Credentials) else found
        if reply not in (replies.LOGIN_FAILED, replies.LOGIN_LOCKED):
            return reply
        session.login_failures += 1
        await self._hold_back()
        self.say(reply)
        if session.login_failures >= self.service.patience.login_failures:
            raise HangUp(replies.TOO_MANY_ERRORS, "failed logins")
        return None

    async def _challenge(self, prompt: bytes) -> bytes:
        self._replies.append(b"334 " + prompt + b"\r\n")
        line = await self.read_line(self.service.patience.command)
        if line is None:
            raise HangUp(None, "")
        if len(line) > command.MAX_AUTH_LINE:
            raise HangUp(replies.LINE_TOO_LONG, "endless line")
        return line


def _hello(argument: bytes, greet: Callable[[str], Coroutine[Any, Any, None]]) -> Reply | None:
    """greet: aiosmtpd's method; it is a coroutine that waits for nothing, with the hooks that we give it."""
    name = command.parse_hello(argument)
    if isinstance(name, Reply):
        return name
    greeting = greet(name)
    try:
        greeting.send(None)
    except StopIteration:
        return None
    greeting.close()
    raise RuntimeError("aiosmtpd waits for something")


_COMMANDS: dict[str, Callable[[Smtp, bytes], Reply | Awaitable[Reply | None] | None]] = {
    "EHLO": Smtp.smtp_EHLO,
    "HELO": Smtp.smtp_HELO,
    "MAIL": Smtp.smtp_MAIL,
    "RCPT": Smtp.smtp_RCPT,
    "DATA": Smtp.smtp_DATA,
    "BDAT": Smtp.smtp_BDAT,
    "RSET": Smtp.smtp_RSET,
    "NOOP": Smtp.smtp_NOOP,
    "VRFY": Smtp.smtp_VRFY,
    "HELP": Smtp.smtp_HELP,
    "QUIT": Smtp.smtp_QUIT,
    "STARTTLS": Smtp.smtp_STARTTLS,
    "AUTH": Smtp.smtp_AUTH,
}
