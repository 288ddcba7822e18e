"""Logging in with a bearer token, and getting that token: from a client's secret or from a refresh token.

STANDARDS  RFC 6749 §4.4 (client credentials), §6 (refresh), §5 (answers), RFC 6750 §2.1 (what a token is
           made of), RFC 7628 (OAUTHBEARER), XOAUTH2 as Google and Microsoft document it.
TRUSTS     the token server for the token and its lifetime. Of what it says of an error only a code goes into
           our log: descriptions quote what they were sent.
FAILS      Trouble at AUTH: SETTINGS when the server refuses us, else what the network or the server is up to.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import aiosmtplib
from pydantic import SecretStr

from relay.clock import Clock
from relay.config.hop import OAuth2, SaslMechanism
from relay.errors import ConfigError, Problem
from relay.fact import Fact, Record
from relay.forward.trouble import Fault, Phase, Trouble

MAX_ANSWER = 64 * 1024  # octets of the server's answer that are read
MAX_LIFETIME = 86400.0  # seconds that we believe in
LIFETIME = 300.0  # when the server does not say (RFC 6749 §5.1: it should)
MARGIN = 120.0  # seconds before its end from which a token is renewed; half its life if that is less

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_CODE = re.compile(r"[a-z_]{1,40}")  # those of RFC 6749 §5.2, and their like
_TEMPORARY = frozenset(("temporarily_unavailable", "server_error", "slow_down"))


class Grant(NamedTuple):
    """lifetime: seconds. refresh_token: the one to use from now on, "" for the one we have."""

    token: str
    lifetime: float
    refresh_token: str


class Refusal(NamedTuple):
    """Why there is no token."""

    fault: Fault
    detail: str


class Tokens:
    """The access token of one hop: kept, renewed before it ends, asked for once however many want it.

    seconds: that the server has to answer. Reads its files once, and the refresh token's each time; raises
    ConfigError.
    """

    def __init__(self, hop: str, settings: OAuth2, seconds: float, clock: Clock, record: Record) -> None:
        self._hop, self._settings, self._seconds = hop, settings, seconds
        self._clock, self._record = clock, record
        self.mechanism = settings.mechanism
        place = f"hop.{hop}.oauth2"
        self._secret = _secret(f"{place}.client_secret_file", settings.client_secret, settings.client_secret_file)
        self._refresh = _secret(f"{place}.refresh_token_file", settings.refresh_token, settings.refresh_token_file)
        self._in_file = self._refresh  # what the file held when last we looked
        self._token, self._until = "", 0.0
        self._asking: asyncio.Task[str | Refusal] | None = None

    async def get(self, refused: str = "") -> str:
        """A token that is not `refused`, which a next hop did not take. Raises Trouble."""
        if self._token and self._token != refused and self._clock.monotonic() < self._until:
            return self._token
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # Shielded: others wait too, and an answer that is lost may hold the next refresh token.
        said = await asyncio.shield(self._asking)
        if isinstance(said, Refusal):
            raise Trouble(Phase.AUTH, said.fault, said.detail)
        return said

    async def close(self) -> None:
        """Wait for a question under way: deliveries may wait for it, and a new refresh token may come of it."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def _ask(self) -> str | Refusal:
        try:
            async with asyncio.timeout(self._seconds):
                status, body = await _post(self._settings.token_url, self._form())
        except TimeoutError:
            return Refusal(Fault.SILENT, "token: no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Refusal(Fault.UNREACHABLE, f"token: {type(error).__name__}")
        said = read_answer(status, body)
        if isinstance(said, Refusal):
            return said
        self._token = said.token
        self._until = self._clock.monotonic() + said.lifetime - min(MARGIN, said.lifetime / 2)
        self._record(Fact("forward.token", "", {"hop": self._hop, "lifetime": said.lifetime}, "debug"))
        if self._refresh and said.refresh_token:
            await self._keep(said.refresh_token)
        return said.token

    def _asked(self, task: asyncio.Task[str | Refusal]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits for it any more

    def _form(self) -> dict[str, str]:
        # We differ: RFC 6749 §2.3.1 prefers HTTP Basic for the secret. Microsoft and Google document the body.
        form = {"client_id": self._settings.client_id, "client_secret": self._secret, "scope": self._settings.scope}
        self._look_into_file()
        if self._refresh:
            form |= {"grant_type": "refresh_token", "refresh_token": self._refresh}
        else:
            form |= {"grant_type": "client_credentials"}
        return {name: value for name, value in form.items() if value}

    def _look_into_file(self) -> None:
        """An operator, or the relay before a reload, may have put another one there."""
        path = self._settings.refresh_token_file
        with suppress(OSError, UnicodeError):
            if path is not None and (found := path.read_text("utf-8").strip()) and found != self._in_file:
                self._refresh = self._in_file = found

    async def _keep(self, refresh_token: str) -> None:
        """Use the new one from now on (RFC 6749 §6), beyond a restart too if it has a file."""
        path = self._settings.refresh_token_file
        if refresh_token == self._refresh:
            return
        self._refresh = refresh_token
        if path is not None:
            try:
                await asyncio.to_thread(_replace, path, refresh_token)
                self._in_file = refresh_token
            except OSError as error:
                values = {"hop": self._hop, "file": str(path), "error": error.strerror or type(error).__name__}
                self._record(Fact("forward.token_not_kept", "", values, "error"))


def read_answer(status: int, body: bytes) -> Grant | Refusal:
    """What a token server's answer means (RFC 6749 §5)."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {}
    if status != 200:
        code = said.get("error")
        code = code if isinstance(code, str) and _CODE.fullmatch(code) else f"HTTP {status}"
        is_temporary = status >= 500 or status == 429 or code in _TEMPORARY
        return Refusal(Fault.TEMPORARY if is_temporary else Fault.SETTINGS, f"token: {code}")
    token, kind, refresh_token = (said.get(name) for name in ("access_token", "token_type", "refresh_token"))
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return Refusal(Fault.GARBAGE, "token: none in the answer")
    if not isinstance(kind, str) or kind.lower() != "bearer":  # RFC 6749 §7.1: not to be used, if not understood
        return Refusal(Fault.GARBAGE, "token: not a bearer token")
    try:
        lifetime = min(max(0.0, float(said.get("expires_in") or LIFETIME)), MAX_LIFETIME)
    except (TypeError, ValueError):
        lifetime = LIFETIME
    return Grant(token, lifetime, refresh_token if isinstance(refresh_token, str) else "")


async def log_in(client: aiosmtplib.SMTP, tokens: Tokens, username: str, hop: tuple[str, int]) -> None:
    """AUTH with a token; if the hop answers 535, once more with another one.

    Raises Trouble, SMTPAuthenticationError, and whatever aiosmtplib raises.
    """
    mechanism = tokens.mechanism
    if mechanism not in client.server_auth_methods:
        raise Trouble(Phase.AUTH, Fault.SETTINGS, f"{mechanism.upper()} is not offered")
    token = await tokens.get()
    try:
        await _auth(client, mechanism, username, token, hop)
    except aiosmtplib.SMTPAuthenticationError as error:
        if error.code != 535 or not client.is_connected:
            raise
        await _auth(client, mechanism, username, await tokens.get(refused=token), hop)


async def _auth(
    client: aiosmtplib.SMTP, mechanism: SaslMechanism, username: str, token: str, hop: tuple[str, int]
) -> None:
    if mechanism is SaslMechanism.XOAUTH2:
        await client.auth_xoauth2(username, token)
        return
    reply = await client.execute_command(b"AUTH", b"OAUTHBEARER", oauthbearer(username, token, *hop))
    if reply.code == 334:  # RFC 7628 §3.2.3: the error in JSON, which we acknowledge to hear the reply
        reply = await client.execute_command(b64encode(b"\x01"))
    if reply.code != 235:
        raise aiosmtplib.SMTPAuthenticationError(reply.code, reply.message)


def oauthbearer(username: str, token: str, host: str, port: int) -> bytes:
    """The initial client response of RFC 7628 §3.1, in base64."""
    name = username.replace("=", "=3D").replace(",", "=2C")  # RFC 5801 §4, saslname
    return b64encode(f"n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01".encode())


async def _post(url: str, form: dict[str, str]) -> tuple[int, bytes]:
    """The status and the answer. Raises what aiohttp raises."""
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        # A redirect would carry the secret to wherever it points.
        session.post(url, data=form, headers={"Accept": "application/json"}, allow_redirects=False) as answer,
    ):
        body = b""
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > MAX_ANSWER:
                raise ValueError("too long")
        return answer.status, body


def _replace(path: Path, token: str) -> None:
    """Write the file anew, whole, mode 0600, durable."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def _secret(key: str, value: SecretStr | None, path: Path | None) -> str:
    if value is not None:
        return value.get_secret_value()
    if path is None:
        return ""
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ConfigError(Problem("", key, f"{path} cannot be used: {why}")) from None
