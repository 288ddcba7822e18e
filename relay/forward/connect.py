"""Setting up one connection: TCP, TLS, EHLO and AUTH by aiosmtplib, each step under its own timeout.

STANDARDS  RFC 5321 §3.1, §3.2 (greeting, EHLO, HELO), RFC 2033 §4.1 (LHLO), RFC 3207 (STARTTLS),
           RFC 4954 (AUTH), RFC 7628 (OAUTHBEARER), RFC 8305.
TRUSTS     nothing said before TLS: EHLO is asked again, octets behind the 220 to STARTTLS are dropped.
           `required` and `implicit` believe verified certificates only. `opportunistic` believes any,
           and goes on in plain where TLS fails: it helps against listeners, not against forgers.
FAILS      Trouble, whatever aiosmtplib raises; the socket is closed then.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AF_UNSPEC, SHUT_RDWR, SOCK_STREAM, socket
from typing import TYPE_CHECKING, cast

import aiohappyeyeballs
import aiosmtplib

from relay.clock import Clock
from relay.config.hop import Hop, HopKind, HopTls, Identify
from relay.config.models import Timeout
from relay.envelope import Client
from relay.forward.connection import Connection
from relay.forward.identify import check_offered, proxy_header
from relay.forward.replies import HopReply
from relay.forward.trouble import Fault, Phase, Trouble, refusal

if TYPE_CHECKING:
    from relay.forward import oauth

_HAPPY_EYEBALLS = 0.25  # seconds, RFC 8305 §5
_VERIFIED = (HopTls.REQUIRED, HopTls.IMPLICIT)


@dataclass(frozen=True, slots=True)
class Connector:
    """What all connections of a hop have in common. hostname: our own, by which we know ourselves.

    tokens: what to log in with instead of the password; None where there is no OAuth.
    """

    hop: Hop
    timeout: Timeout
    hostname: str
    context: ssl.SSLContext | None
    password: str
    tokens: oauth.Tokens | None
    clock: Clock

    async def connect(
        self, host: str, client: Client | None, until: float, tls_failed: Callable[[Trouble], None]
    ) -> Connection:
        """An open connection, greeted and logged in. Raises Trouble.

        client: who is named in the PROXY header of a hop that wants one.
        tls_failed: told why an opportunistic hop that offers STARTTLS is spoken to in plain after all.
        """
        if self.hop.tls is HopTls.OPPORTUNISTIC:
            try:
                return await self._connect(host, client, until, starttls=True)
            except Trouble as trouble:
                if trouble.phase is not Phase.STARTTLS:
                    raise
                tls_failed(trouble)
            return await self._connect(host, client, until, starttls=False)
        return await self._connect(host, client, until, starttls=self.hop.tls is HopTls.REQUIRED)

    async def _connect(self, host: str, proxied: Client | None, until: float, *, starttls: bool) -> Connection:
        async with self._phase(Phase.CONNECT, self.timeout.connect, until):
            sock = await self._socket(host)
            if self.hop.identify is Identify.PROXY_V2:
                await _say_first(sock, proxied)
        client = aiosmtplib.SMTP(
            hostname=host,
            sock=sock,
            timeout=None,  # each phase has ours
            use_tls=self.hop.tls is HopTls.IMPLICIT,
            start_tls=False,
            tls_context=self.context,
            local_hostname=self.hop.ehlo or self.hostname,
        )
        try:
            # With implicit TLS this is the handshake too, for which asyncio has a limit of 60 s.
            async with self._phase(Phase.GREETING, self.timeout.greeting, until, client):
                await client.connect()
            await self._ehlo(client, until)
            if starttls and await self._starttls(client, host, until):
                await self._ehlo(client, until)
            if self.hop.username is not None:
                await self._login(client, host, self.hop.username, until)
            if self.hop.identify is Identify.XCLIENT:
                check_offered(client.esmtp_extensions.get("xclient", ""))
            connection = self._take_over(client, host)
            if self.hop.identify is Identify.PROXY_V2:
                connection.client = proxied
            return connection
        except BaseException as error:
            if isinstance(error, Trouble) and error.reply is not None and client.is_connected:
                self._take_over(client, host).quit(self.timeout.quit)
            else:
                # aiosmtplib closes politely and, over TLS, waits for the hop; this does not.
                with suppress(OSError):
                    sock.shutdown(SHUT_RDWR)
                client.close()
            raise

    async def _socket(self, host: str) -> socket:
        """The first of the host's addresses that takes the connection."""
        loop = asyncio.get_running_loop()
        source = self.hop.source_address
        family = AF_UNSPEC if source is None else AF_INET6 if ":" in source else AF_INET
        return await aiohappyeyeballs.start_connection(
            await loop.getaddrinfo(host, self.hop.port, type=SOCK_STREAM, family=family),
            local_addr_infos=await loop.getaddrinfo(source, 0, type=SOCK_STREAM) if source else None,
            happy_eyeballs_delay=_HAPPY_EYEBALLS,
        )

    async def _ehlo(self, client: aiosmtplib.SMTP, until: float) -> None:
        async with self._phase(Phase.EHLO, self.timeout.ehlo, until, client):
            try:
                reply = await (self._lhlo(client) if self.hop.kind is HopKind.LMTP else client.ehlo())
            except aiosmtplib.SMTPHeloError as error:
                if error.code not in (500, 502) or not client.is_connected or self.hop.kind is HopKind.LMTP:
                    raise
                reply = await client.helo()  # RFC 5321 §3.2: a server from before 1993
            if self.hop.kind is HopKind.LMTP:
                return  # we are no LMTP server, and one on this machine may well bear our name
            said = reply.message.split(maxsplit=1)
            # A bare name such as localhost is everybody's, and proves nothing.
            if said and "." in self.hostname and said[0].lower() == self.hostname.lower():
                raise Trouble(Phase.EHLO, Fault.SETTINGS, "the next hop is this relay, or bears its name")

    async def _lhlo(self, client: aiosmtplib.SMTP) -> aiosmtplib.SMTPResponse:
        reply = await client.execute_command(b"LHLO", (self.hop.ehlo or self.hostname).encode())
        if reply.code != 250:
            raise aiosmtplib.SMTPHeloError(reply.code, reply.message)
        client.last_ehlo_response = reply  # which it takes its extensions from
        return reply

    async def _starttls(self, client: aiosmtplib.SMTP, host: str, until: float) -> bool:
        if not client.supports_extension("starttls"):
            if self.hop.tls is HopTls.REQUIRED:
                raise Trouble(Phase.STARTTLS, Fault.TLS, "STARTTLS is not offered")
            return False
        async with self._phase(Phase.STARTTLS, self.timeout.starttls, until, client):
            await client.starttls(server_hostname=host)
        return True

    async def _login(self, client: aiosmtplib.SMTP, host: str, username: str, until: float) -> None:
        async with self._phase(Phase.AUTH, self.timeout.auth, until, client):
            peer = client.get_transport_info("peername")[0].partition("%")[0]
            if self.hop.tls not in _VERIFIED and not ip_address(peer).is_loopback:
                raise Trouble(Phase.AUTH, Fault.SETTINGS, "a login needs tls required or implicit")
            if self.tokens is not None:
                from relay.forward import oauth  # who has tokens has imported it

                await oauth.log_in(client, self.tokens, username, (host, self.hop.port))
            elif "plain" in client.server_auth_methods:
                await client.auth_plain(username, self.password)
            elif "login" in client.server_auth_methods:
                await client.auth_login(username, self.password)
            else:
                raise Trouble(Phase.AUTH, Fault.SETTINGS, "neither PLAIN nor LOGIN is offered")

    @asynccontextmanager
    async def _phase(
        self, phase: Phase, seconds: float, until: float, client: aiosmtplib.SMTP | None = None
    ) -> AsyncIterator[None]:
        """Give the block `seconds`, but not past `until`, and make Trouble of whatever it raises."""
        seconds = min(seconds, until - self.clock.monotonic())
        try:
            async with asyncio.timeout(seconds):
                yield
        except Trouble:
            raise
        except TimeoutError:
            raise Trouble(phase, Fault.SILENT, "no answer in time") from None
        except aiosmtplib.SMTPResponseException as error:
            raise _refused(phase, error) from None
        except ssl.SSLError as error:
            raise _tls(phase, error) from None
        except OSError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise _tls(phase, error.__cause__) from None
            if phase is Phase.CONNECT:
                raise Trouble(phase, Fault.UNREACHABLE, error.strerror or "no connection") from None
            raise Trouble(phase, Fault.CUT, "connection closed") from None
        except (aiosmtplib.SMTPException, ValueError, RuntimeError) as error:
            # What the library, or Python, makes of a hop's nonsense. Its text may hold a password.
            fault = Fault.UNREACHABLE if phase is Phase.CONNECT else Fault.GARBAGE
            raise Trouble(phase, fault, type(error).__name__) from None
        if client is not None and client.protocol is not None and client.protocol._buffer:
            raise Trouble(phase, Fault.GARBAGE, "more than one reply")

    def _take_over(self, client: aiosmtplib.SMTP, host: str) -> Connection:
        """The client's transport, which from now on speaks to our protocol. The client is then of no use."""
        if client.transport is None or client.transport.is_closing():
            raise Trouble(Phase.EHLO, Fault.CUT, "connection closed")
        transport = cast(asyncio.Transport, client.transport)
        tls = transport.get_extra_info("ssl_object")
        return Connection(
            transport, self.clock, host, tls.version() or "" if tls else "", dict(client.esmtp_extensions)
        )


async def _say_first(sock: socket, client: Client | None) -> None:
    """The PROXY header, before TLS and before the greeting."""
    try:
        host, port = sock.getpeername()[:2]
        await asyncio.get_running_loop().sock_sendall(sock, proxy_header(client, host, port))
    except BaseException:
        sock.close()
        raise


def _refused(phase: Phase, error: aiosmtplib.SMTPResponseException) -> Trouble:
    if error.code < 100:  # aiosmtplib's own code for what it could not read
        return Trouble(phase, Fault.GARBAGE, "not an SMTP reply")
    lines = error.message.encode("utf-8", "surrogateescape").split(b"\n")
    reply = HopReply(error.code, tuple(lines))
    return refusal(phase, reply) or Trouble(phase, Fault.GARBAGE, f"unexpected reply {error.code}")


def _tls(phase: Phase, error: ssl.SSLError) -> Trouble:
    text = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
    return Trouble(phase, Fault.TLS, text or "the handshake failed")
