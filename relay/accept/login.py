"""Who may log in, and who may send as whom: the login file, and password checks off the loop.

STANDARDS  RFC 9106 (argon2id). The file has one login a line: `name: $argon2id$… sender sender`.
TRUSTS     the file, which is the operator's. A password is never kept: a login that was just
           verified is remembered as a hash keyed with a secret of this process.
FAILS      ConfigError with file and line; `verify` gives None for whoever may not enter, after
           exactly one hash whether the name is known or not, and raises LoginsBusy.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import argon2

from relay.address import Address, domain_key, parse_domain, parse_mailbox
from relay.clock import Clock, SystemClock
from relay.config import models
from relay.errors import ConfigError, MalformedAddress, Problem, RelayError

Check = Callable[[str, str], bool]  # hash, password


class LoginsBusy(RelayError):
    """More passwords are being hashed than `login.hashes_at_once`; the client may try again."""


@dataclass(frozen=True, slots=True)
class Login:
    """senders: addresses, `@domain` or `*`, which this login may send as."""

    name: str
    senders: tuple[str, ...]


def may_send_as(senders: Sequence[str], address: Address | None) -> bool:
    """`address` is one of `senders`: an address, `@domain` (that domain, no subdomain) or `*`.

    The null reverse-path is everybody's.
    """
    if address is None:
        return True
    return any(
        sender == "*"
        or (domain_key(sender[1:]) == address.domain_key if sender.startswith("@") else _key(sender) == address.key)
        for sender in senders
    )


def check_argon2(hashed: str, password: str) -> bool:
    """The password belongs to the hash."""
    try:
        return argon2.PasswordHasher().verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


class Logins:
    """The logins of one file."""

    def __init__(
        self,
        entries: Mapping[str, tuple[str, tuple[str, ...]]],
        settings: models.Login,
        *,
        clock: Clock,
        key: bytes,
        check: Check = check_argon2,
    ) -> None:
        """entries: name to hash and senders. key: 32 secret octets. check: computes one hash."""
        self._entries = dict(entries)
        self._dummy = _dummy([hashed for hashed, _ in self._entries.values()])
        self._settings = settings
        self._clock = clock
        self._key = key
        self._check = check
        self._verified: dict[str, tuple[bytes, float]] = {}  # in order of expiry
        self._hashing = 0
        self._threads = ThreadPoolExecutor(settings.hashes_at_once, thread_name_prefix="login")

    @classmethod
    def read(cls, settings: models.Login, clock: Clock | None = None, key: bytes | None = None) -> Logins:
        """The logins in `settings.file`. Raises ConfigError with every bad line."""
        if settings.file is None:
            raise ConfigError(Problem("", "login.file", "is not set"))
        return cls(
            read_file(settings.file),
            settings,
            clock=clock or SystemClock(),
            key=key or secrets.token_bytes(32),
        )

    def senders(self, name: str) -> tuple[str, ...]:
        """What the login `name` may send as; nothing when there is no such login."""
        entry = self._entries.get(name)
        return entry[1] if entry else ()

    async def verify(self, name: str, password: str) -> Login | None:
        """The login, if the password is right. Raises LoginsBusy.

        A right password is remembered for `login.remember`, so that a client which logs in for
        every message costs one hash in that time.
        """
        now = self._clock.monotonic()
        self._forget(now)
        digest = hmac.digest(self._key, b"\0".join((name.encode(), password.encode())), "sha256")
        remembered = self._verified.get(name)
        if remembered and hmac.compare_digest(remembered[0], digest):
            return Login(name, self.senders(name))
        if self._hashing >= self._settings.hashes_at_once:
            raise LoginsBusy
        hashed = self._entries[name][0] if name in self._entries else self._dummy
        self._hashing += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(self._threads, self._check, hashed, password)
        finally:
            self._hashing -= 1
        if not right or name not in self._entries:
            return None
        self._verified.pop(name, None)
        self._verified[name] = (digest, now + self._settings.remember)
        return Login(name, self.senders(name))

    def close(self) -> None:
        """End the threads; hashes under way are waited for."""
        self._threads.shutdown()

    def _forget(self, now: float) -> None:
        for name, (_, until) in list(self._verified.items()):
            if until > now:
                return
            del self._verified[name]


def read_file(file: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name to hash and senders. Raises ConfigError with every bad line, and for a file that others may read."""
    try:
        if file.stat().st_mode & stat.S_IRWXO:
            raise ConfigError(Problem(str(file), "", f"others may read it: chmod o= {file}"))
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(Problem(str(file), "", f"cannot be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Problem(str(file), "", "is not UTF-8")) from error
    entries: dict[str, tuple[str, tuple[str, ...]]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, rest = line.partition(":")
        name, words = name.strip(), rest.split()
        wrong = fault(name, words) or (f"{name} stands twice" if name in entries else "")
        if wrong:
            problems.append(Problem(str(file), f"line {number}", wrong))
        else:
            entries[name] = (words[0], tuple(words[1:]))
    if problems:
        raise ConfigError(*problems)
    return entries


def fault(name: str, words: Sequence[str]) -> str:
    """What is wrong with the login `name`, whose words are its hash and senders; never with the hash in it."""
    if not name or not words:
        return "write `name: hash sender …`; `relay password` makes the hash"
    if not name.isprintable() or set(name) & set(" :#"):
        return "the name must be one printable word without colon or #"
    try:
        if argon2.extract_parameters(words[0]).type is not argon2.Type.ID:
            return "the hash is not argon2id; `relay password` makes one"
    except argon2.exceptions.InvalidHashError:
        return "the hash is not argon2id; `relay password` makes one"
    for sender in words[1:]:
        if not _is_sender(sender):
            return f'{sender} is neither an address, "@domain" nor "*"'
    return ""


def _is_sender(text: str) -> bool:
    try:
        if text.startswith("@"):
            parse_domain(text[1:])
        elif text != "*":
            return bool(parse_mailbox(text.encode(), utf8=True).domain)
    except MalformedAddress:
        return False
    return True


@lru_cache(1024)
def _key(sender: str) -> str:
    try:
        return parse_mailbox(sender.encode(), utf8=True).key
    except MalformedAddress:
        return ""


def _dummy(hashes: Sequence[str]) -> str:
    """A hash of nothing, at the price of a real one: what unknown names are checked against."""
    pattern = hashes[0] if hashes else argon2.PasswordHasher().hash(secrets.token_hex())
    head, _, digest = pattern.rpartition("$")
    return f"{head}${'A' * len(digest)}"  # base64 of zeros
