"""One delivery attempt: a message and a hop in, an Outcome a recipient out.

Past `connect.py` and `connection.py` nobody knows aiosmtplib; past this file nobody knows SMTP's client side.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from relay.address import Address
from relay.capabilities import EVERYTHING, Capabilities
from relay.clock import Clock
from relay.config.hop import Hop, HopKind, HopTls, Identify
from relay.config.models import Timeout
from relay.envelope import Client, Envelope
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.forward.connect import Connector
from relay.forward.connection import Connection
from relay.forward.dialogue import Dialogue
from relay.forward.identify import introduce
from relay.forward.pool import Pool
from relay.forward.transaction import Transaction, inquire
from relay.forward.trouble import Fault, Phase, Trouble, Verdict, judge, row_for
from relay.message import Message
from relay.outcome import Outcome, Result

if TYPE_CHECKING:
    from relay.forward.oauth import Tokens

T = TypeVar("T")

_SET_ASIDE = 30.0  # seconds for which a host that took no connection is tried after the others

_EVENTS = {
    Result.DELIVERED: ("forward.delivered", "info"),
    Result.TEMPORARY: ("forward.deferred", "warning"),
    Result.PERMANENT: ("forward.refused", "info"),
    Result.AMBIGUOUS: ("forward.ambiguous", "warning"),
}


class SmtpHop:
    """A next hop that speaks SMTP or LMTP.

    Reads its certificates and its secrets once; raises ConfigError if one of them cannot be used.
    """

    def __init__(self, name: str, hop: Hop, timeout: Timeout, hostname: str, clock: Clock, record: Record) -> None:
        self._name, self._hop, self._timeout, self._clock, self._record = name, hop, timeout, clock, record
        self._is_lmtp, self._introduces = hop.kind is HopKind.LMTP, hop.identify is Identify.XCLIENT
        self._ehlo = hop.ehlo or hostname
        self._tokens: Tokens | None = None
        if hop.oauth2:
            from relay.forward.oauth import Tokens  # and aiohttp, which takes long to import

            self._tokens = Tokens(name, hop.oauth2, timeout.auth, clock, record)
        context, password = _context(name, hop), _password(name, hop)
        self._connector = Connector(hop, timeout, hostname, context, password, self._tokens, clock)
        self._pool = Pool(hop, timeout, clock, self._open)
        self._set_aside: dict[str, float] = {}  # host: until when
        self._capabilities = EVERYTHING
        self._opening: set[asyncio.Timeout] = set()  # of those who wait for a connection
        self._before_dot: set[Connection] = set()  # in use, our final dot not yet sent
        self._is_stopping = False

    @property
    def connections(self) -> int:
        """Connections that are open, or being opened or closed."""
        return self._pool.connections

    async def deliver(
        self,
        envelope: Envelope,
        message: Message,
        recipients: Sequence[Address],
        until: float,
        *,
        each: bool = False,
    ) -> tuple[Outcome, ...]:
        """As `relay.outcome.NextHop` says. Several hosts are tried in turn, but only before MAIL."""
        started = self._clock.monotonic()
        commit = self._before_dot.discard

        def send(dialogue: Dialogue) -> Awaitable[tuple[Verdict, ...]]:
            return Transaction(dialogue, envelope, message, recipients, commit, is_lmtp=self._is_lmtp, each=each).run()

        host, tls, said = await self._attempt(envelope, until, send)
        verdicts = (judge(said),) * len(recipients) if isinstance(said, Trouble) else said
        outcomes = tuple(
            [
                Outcome(recipient, verdict.result, verdict.reply, self._name, host, verdict.cause, verdict.is_about_hop)
                for recipient, verdict in zip(recipients, verdicts, strict=True)
            ]
        )
        self._tell(envelope.id, outcomes, tls, self._clock.monotonic() - started)
        return outcomes

    async def ask(self, envelope: Envelope, recipient: Address, until: float) -> Outcome:
        """As `relay.outcome.NextHop` says."""

        host, _, said = await self._attempt(envelope, until, lambda dialogue: inquire(dialogue, recipient))
        verdict = judge(said) if isinstance(said, Trouble) else said
        return Outcome(recipient, verdict.result, verdict.reply, self._name, host, verdict.cause, verdict.is_about_hop)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def probe(self) -> None:
        with suppress(Trouble):  # which `_open` has recorded
            self._pool.give(await self._pool.take(self._clock.monotonic() + self._timeout.client_patience, ""))

    def hurry(self) -> None:
        """The relay stops: deliveries that have not sent their final dot end as temporary; the others may finish."""
        self._is_stopping = True
        for patience in self._opening:
            patience.reschedule(asyncio.get_running_loop().time())
        for connection in self._before_dot:
            connection.abort()

    async def close(self) -> None:
        """Take leave on idle connections. What is in flight goes on, and so does what comes late."""
        await self._pool.close()
        if self._tokens is not None:
            await self._tokens.close()

    async def _attempt(
        self,
        envelope: Envelope,
        until: float,
        send: Callable[[Dialogue], Awaitable[T]],
        *,
        fresh: bool = False,
    ) -> tuple[str, str, T | Trouble]:
        """The host, the TLS version, and what came of it."""
        if self._is_stopping:
            return "", "", _stopping()
        connection = None if fresh else self._pool.take_idle(envelope.client)
        if connection is None:
            try:
                connection = await self._wait_for_one(until, envelope, fresh=fresh)
            except Trouble as trouble:
                return trouble.host, "", trouble
        self._before_dot.add(connection)
        try:
            if self._is_stopping:  # since we asked for a connection
                raise _stopping()
            dialogue = Dialogue(connection, until, self._timeout, self._clock)
            if self._introduces:
                await introduce(dialogue, self._hop.kind, envelope.client, self._ehlo)
            said = await send(dialogue)
        except Trouble as trouble:
            self._pool.drop(connection)
            if self._is_stopping:
                return "", "", _stopping()
            if trouble.is_stale and connection.messages:  # a fresh one has carried none
                return await self._attempt(envelope, until, send, fresh=True)
            if trouble.phase is Phase.IDENTIFY:
                self._tell_trouble(envelope.id, connection.host, trouble)
            return connection.host, connection.tls, trouble
        except BaseException:  # cancelled, or our own mistake: who knows what the hop has heard
            self._pool.drop(connection)
            raise
        finally:
            self._before_dot.discard(connection)
        self._pool.give(connection)
        return connection.host, connection.tls, said

    async def _wait_for_one(self, until: float, envelope: Envelope, *, fresh: bool) -> Connection:
        """A connection that is opened, or that another gives back. Raises Trouble, when the relay stops too."""
        try:
            async with asyncio.timeout(None) as patience:
                self._opening.add(patience)
                return await self._pool.take(until, envelope.id, envelope.client, fresh=fresh)
        except TimeoutError:
            raise _stopping() from None
        finally:
            self._opening.discard(patience)

    async def _open(self, until: float, id: str, client: Client | None) -> Connection:
        """A connection to the first host that gives one. Raises the Trouble of the last."""
        now = self._clock.monotonic()
        last = Trouble(Phase.CONNECT, Fault.SETTINGS, "the hop has no host")
        for host in sorted(self._hop.host, key=lambda host: self._set_aside.get(host, 0.0) > now):
            try:
                connection = await self._connector.connect(host, client, until, partial(self._tell_trouble, id, host))
            except Trouble as trouble:
                trouble.host = host
                self._set_aside[host] = self._clock.monotonic() + _SET_ASIDE
                self._tell_trouble(id, host, trouble)
                last = trouble
            else:
                self._set_aside.pop(host, None)
                self._capabilities = offered(connection.extensions)
                values = {"hop": self._name, "host": host, "tls": connection.tls}
                self._record(Fact("forward.connected", id, values, "debug"))
                return connection
        raise last

    def _tell_trouble(self, id: str, host: str, trouble: Trouble) -> None:
        values = {"hop": self._name, "host": host, "cause": trouble.cause}
        self._record(Fact("forward.trouble", id, values, row_for(trouble).level))

    def _tell(self, id: str, outcomes: Sequence[Outcome], tls: str, seconds: float) -> None:
        """One fact for all recipients with the same fate."""
        fates: Iterable[Sequence[Outcome]] = (outcomes,)
        if len(outcomes) > 1:
            by_fate = defaultdict(list)
            for outcome in outcomes:
                by_fate[outcome.result, outcome.reply, outcome.cause].append(outcome)
            fates = by_fate.values()
        for alike in fates:
            first = alike[0]
            event, level = _EVENTS[first.result]
            values: dict[str, object] = {
                "hop": self._name,
                "host": first.host,
                "to": [str(outcome.recipient) for outcome in alike],
                "reply": str(first.reply),
                "elapsed_ms": round(seconds * 1000, 1),
                "tls": tls,
            }
            if first.cause:
                values["cause"] = first.cause
            if first.result is Result.AMBIGUOUS:
                values["may_duplicate"] = first.cause
            self._record(Fact(event, id, values, level))


def _stopping() -> Trouble:
    return Trouble(Phase.CONNECT, Fault.SILENT, "the relay is stopping")


def offered(extensions: Mapping[str, str]) -> Capabilities:
    """What a hop's reply to EHLO promises. extensions: keyword in lower case, to its parameters."""
    size = extensions.get("size", "").strip()
    return Capabilities(
        int(size) if size.isdecimal() else 0, "8bitmime" in extensions, "smtputf8" in extensions, "dsn" in extensions
    )


def _context(name: str, hop: Hop) -> ssl.SSLContext | None:
    """One context for all connections: to build one reads the system's authorities, some 50 ms."""
    if hop.tls is HopTls.NONE:
        return None
    try:
        context = ssl.create_default_context(cafile=hop.ca)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(name, "ca", hop.ca, error) from None
    if hop.tls is HopTls.OPPORTUNISTIC:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if hop.certificate is not None:
        try:
            context.load_cert_chain(hop.certificate, hop.key, password=_no_passphrase)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise _unusable(name, "certificate", hop.certificate, error) from None
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")  # else OpenSSL asks for it on the terminal


def _password(name: str, hop: Hop) -> str:
    if hop.password is not None:
        return hop.password.get_secret_value()
    if hop.password_file is None:
        return ""
    try:
        return hop.password_file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise _unusable(name, "password_file", hop.password_file, error) from None


def _unusable(name: str, key: str, path: Path | None, error: Exception) -> ConfigError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return ConfigError(Problem("", f"hop.{name}.{key}", f"{path} cannot be used: {why}"))
