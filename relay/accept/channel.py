"""One client's connection: octets in, replies out, deadlines and TLS between.

aiosmtpd's own loops are replaced here: it cancels the handler when the client goes away, builds
tables and a timer for every connection, and one timer covers a whole upload. What we touch of it
is pinned in tests/accept/test_aiosmtpd_contract.py.

STANDARDS  RFC 5321 §2.3.8 (only CRLF ends a line), §4.5.3.2.7 (a deadline for every wait),
           RFC 3207 (STARTTLS).
TRUSTS     nothing: lines, buffers and waits are bounded.
FAILS      HangUp ends the session with a reply; a client that goes away only ends the input.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import Callable
from typing import Any

from aiosmtpd import smtp as aiosmtpd

from relay import reply as replies
from relay.accept.command import MAX_AUTH_LINE
from relay.accept.service import Service
from relay.accept.session import Session, handle_EHLO, handle_HELO
from relay.envelope import Tls
from relay.reply import Reply

HIGH_WATER = 64 * 1024  # octets held unread before the client must wait
FAREWELL = 5.0  # seconds for a client's close_notify, which many never send
MAX_SKIPPED = 64 * 1024  # octets of a line too long that are read on for its end
LINGER = 3.0  # seconds, and
MAX_LINGER = 2**20  # octets, that are still taken from a client that sends on while we hang up
_NOT_A_VERB = b"\x00\x16\x80"  # what SMB, a TLS ClientHello and an SSLv2 hello begin with

# It logs every command, and with DEBUG every line of a message.
logging.getLogger("mail.log").setLevel(logging.WARNING)


class HangUp(Exception):
    """The session ends: `reply` is the last one; `why` is for the log, "" where nobody is turned away.

    lingers: the client may be sending; to close at once would make its kernel drop our last words.
    """

    def __init__(self, reply: Reply | None, why: str, *, lingers: bool = True) -> None:
        self.reply = reply
        self.why = why
        self.lingers = lingers
        super().__init__(why)


def any_octets() -> bool:
    """Octets end the wait, whatever they are."""
    return True


def deaf() -> bool:
    """Octets do not end the wait."""
    return False


class Channel(aiosmtpd.SMTP):
    """The transport's side of a session. One task (`_handle_client`) reads and writes, and what it waits with."""

    # What aiosmtpd.SMTP.__init__ sets for each connection, at 0.3 ms each: here once, for all.
    enable_SMTPUTF8 = False  # noqa: N815
    data_size_limit = None
    tls_context = None
    envelope = None
    _decode_data = True
    _auth_require_tls = True
    _auth_methods: dict[str, Any] = {}  # noqa: RUF012
    _tls_protocol = None
    _ehlo_hook_ver = "new"
    _handle_hooks = {"EHLO": handle_EHLO, "HELO": handle_HELO}  # noqa: RUF012

    session: Session
    transport: Any = None
    _skipped = -1  # octets of the faulty line that is being read to its end; -1 outside one
    _is_at_end = False  # nothing more will be read
    _is_lost = False
    _is_reading_paused = False
    _is_writing_paused = False
    _is_in_handshake = False
    _lingered = -1  # octets thrown away since we hung up; -1 before
    _waiter: asyncio.Future[bool] | None = None
    _hears: Callable[[], bool] = staticmethod(any_octets)
    _drained: asyncio.Future[None] | None = None
    _deadline = math.inf
    _timer: asyncio.TimerHandle | None = None
    _timer_at = math.inf

    def __init__(self, service: Service) -> None:  # super().__init__ is not called: see above
        self.service = service
        self.hostname = service.config.hostname
        self.loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._replies: list[bytes] = []

    # --- what the transport tells us ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._lingered >= 0:
            self._lingered += len(data)
            if self._lingered > MAX_LINGER:
                self.transport.abort()
            return
        self._buffer += data
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            try:
                if self._hears():
                    waiter.set_result(True)
            except Exception as error:
                waiter.set_exception(error)
        if len(self._buffer) > HIGH_WATER and not self._is_reading_paused:
            self._is_reading_paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A half-close: what was begun goes on, and its reply is still taken. TLS knows no half-close."""
        self._is_at_end = True
        self._wake()
        return self.session.tls is None and self._lingered < 0

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = self._is_at_end = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- waiting, always with a deadline ---------------------------------------------------------

    async def wait(self, until: float, hears: Callable[[], bool] = any_octets) -> bool:
        """Until octets come or the client goes away: True. False when neither came by `until`, on the loop's clock.

        hears: called when octets have come: whether they end the wait. It may take them, and set another deadline;
        what it raises ends the wait.
        """
        if self._is_at_end:
            return True
        if self._is_reading_paused:
            self._is_reading_paused = False
            self.transport.resume_reading()
        self._hears = hears
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self._waiter = waiter
        self._set_deadline(until)
        try:
            return await waiter
        finally:
            self._waiter = None
            self._hears = any_octets  # no cycle holds the session when it is over
            self._deadline = math.inf

    def interrupt(self, end: HangUp) -> None:
        """End the session if it waits for its client just now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(end)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def _set_deadline(self, deadline: float) -> None:
        """One timer a session: it is not moved for every command, it looks at the deadline when it fires."""
        self._deadline = deadline
        if self._timer_at > deadline:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self.loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._deadline == math.inf:
            return
        if self.loop.time() < self._deadline:
            self._arm()
        elif self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(False)
        else:  # it takes no replies, not even the last
            self.transport.abort()

    # --- lines in, replies out -----------------------------------------------------------------

    def take_line(self) -> bytes | None:
        """The next line without its CRLF, if it has come.

        A line that is faulty already (a bare LF in it, or too long) is given at once, and what
        follows of it up to its CRLF is thrown away: LF never ends a command.
        """
        buffer = self._buffer
        if not buffer:
            return None
        if self._skipped < 0 and buffer[0] in _NOT_A_VERB:
            raise HangUp(replies.NOT_SMTP, "not SMTP")
        while (end := buffer.find(b"\r\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._skipped < 0:
                return line
            self._skipped = -1
        kept = 1 if buffer.endswith(b"\r") else 0
        if self._skipped >= 0:
            self._skipped += len(buffer) - kept
            del buffer[: len(buffer) - kept]
            if self._skipped > MAX_SKIPPED:
                raise HangUp(replies.TOO_MANY_ERRORS, "endless line")
            return None
        if b"\n" in buffer or len(buffer) > MAX_AUTH_LINE + 1:
            line = bytes(buffer[: MAX_AUTH_LINE + 1])
            self._skipped = max(0, len(buffer) - kept - len(line))
            del buffer[: len(buffer) - kept]
            return line
        return None

    async def read_line(self, seconds: float) -> bytes | None:
        """The next line; None when the client has gone. Replies go out before it is waited for.

        `seconds` are for the whole line: octets that drip in do not buy more time.
        """
        until = 0.0
        while (line := self.take_line()) is None:
            await self.flush()
            if self._is_at_end:
                return None
            now = self.loop.time()
            until = until or now + seconds
            if now >= until or not await self.wait(until):
                raise HangUp(replies.IDLE_TOO_LONG, "idle", lingers=False)
        return line

    async def push(self, status: str | bytes) -> None:
        """aiosmtpd's way to reply; goes out with the next `flush`."""
        self._replies.append((status.encode("ascii", "replace") if isinstance(status, str) else status) + b"\r\n")

    def say(self, reply: Reply) -> None:
        """Put `reply` behind those that go out with the next `flush`."""
        self._replies.append(reply.wire())

    def write(self) -> None:
        """Write what was said, in one piece."""
        if self._replies:
            if not self._is_lost:
                self.transport.write(b"".join(self._replies))
            self._replies.clear()

    async def flush(self) -> None:
        """Write what was said, and wait while the client takes it too slowly."""
        self.write()
        if self._is_writing_paused and not self._is_lost:
            self._drained = self.loop.create_future()
            self._set_deadline(self.loop.time() + self.service.config.timeout.write)
            try:
                await self._drained
            finally:
                self._drained = None
                self._deadline = math.inf

    def hang_up(self, *, lingers: bool = False) -> None:
        """Close; what was said still goes out, unless the client does not take it."""
        if self._is_lost:
            return
        patience = self.service.config.timeout.write
        if lingers and not self._is_at_end and self.transport.can_write_eof():
            self._lingered = 0
            self._buffer.clear()
            self.transport.write_eof()
            if self._is_reading_paused:
                self.transport.resume_reading()
            patience = min(patience, LINGER)
        else:
            self.transport.close()
        # Always: that a TLS transport has nothing left to write does not say that the socket below it has not.
        self._set_deadline(self.loop.time() + patience)

    def abort(self) -> None:
        """Cut the connection."""
        if not self._is_lost:
            self.transport.abort()

    async def start_tls(self) -> bool:
        """The handshake, with its deadline. False: it failed and the connection has gone."""
        if self._is_lost:
            return False
        timeout = self.service.config.timeout
        self._is_in_handshake = True
        try:
            handshake = self.loop.create_task(
                self.loop.start_tls(
                    self.transport,
                    self,
                    self.service.context,  # type: ignore[arg-type]
                    server_side=True,
                    ssl_handshake_timeout=timeout.tls_handshake,
                    ssl_shutdown_timeout=min(timeout.write, FAREWELL),
                )
            )
            await asyncio.sleep(0)  # now the TLS layer is the transport's protocol, and will be connected next
            if self._buffer:
                self.loop.call_soon(_feed, self.transport.get_protocol(), bytes(self._buffer))
                self._buffer.clear()
            transport = await handshake
        except OSError as error:  # ssl.SSLError and ConnectionError are such
            reason = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
            self.session.note("tls", {"failed": str(reason), "ip": self.session.address})
            self._forget_transport(error)
            return False
        finally:
            self._is_in_handshake = False
        secure = transport.get_extra_info("ssl_object") if transport else None
        if secure is None or secure.cipher() is None:
            self._forget_transport(None)
            return False
        self.transport = transport
        name, _, bits = secure.cipher()
        self.session.secured(Tls(secure.version() or "", name, bits))
        return True

    def _forget_transport(self, error: Exception | None) -> None:
        """After a failed handshake nobody tells us that the connection is lost."""
        if not self._is_lost:
            self.transport.abort()
            self.connection_lost(error)


def _feed(protocol: Any, octets: bytes) -> None:
    """Hand a TLS layer what came before it: on uvloop a pause in `connection_made` does not hold."""
    if isinstance(protocol, Channel):  # the handshake failed before it began
        return
    while octets:
        room = protocol.get_buffer(len(octets))
        taken = min(len(room), len(octets))
        room[:taken] = octets[:taken]
        protocol.buffer_updated(taken)
        octets = octets[taken:]
