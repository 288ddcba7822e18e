"""DKIM signatures for what leaves: who signs, and with which keys. `seal` is the ARC seal, off by default.

Signing comes last: nothing below a signature changes any more, later fields are only put on top.

STANDARDS  RFC 6376 §5 (who may sign, when); the field itself is in `signature.py`.
TRUSTS     that the author was read by `relay/author.py`, and that lines end with CRLF only.
FAILS      ConfigError for a key file that cannot be used; CannotSign for a From domain of ours without
           a usable key; `sign` also MalformedMessage and MalformedAddress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from relay.address import Address, domain_key
from relay.author import parse_author
from relay.clock import Clock, SystemClock
from relay.config.models import Domain, MissingKey
from relay.edit.key import SigningKey, load_keys
from relay.edit.seal import seal as seal
from relay.edit.signature import signatures
from relay.errors import CannotSign, MalformedMessage
from relay.fact import Fact, Record
from relay.message import Message

_SMALL = 64 * 1024  # octets of body that are hashed in about a quarter of a millisecond
_QUICK = 2048  # bits of an RSA key


def sign(message: bytes, keys: Sequence[SigningKey], *, time: float | None = None) -> bytes:
    """`message` with one DKIM-Signature field per key on top, the first key's topmost.

    message: with CRLF line ends. time: for t=, seconds since the epoch; now if not given.
    Raises MalformedMessage (bare CR, bare LF, NUL, no header), MalformedAddress (not exactly one author).
    """
    ends = message.count(b"\r\n")
    if message.count(b"\r") != ends or message.count(b"\n") != ends or b"\0" in message:
        raise MalformedMessage("a bare CR, a bare LF or NUL stands in the message")
    parsed = Message.parse(message)
    parse_author(parsed)
    return b"".join(signatures(parsed, keys, SystemClock().time() if time is None else time)) + message


class Signer:
    """Signs by From domain: a key for a domain signs for its subdomains too, the closest domain wins.

    Raises ConfigError when a configured key cannot be used.
    """

    def __init__(self, domains: Mapping[str, Domain], clock: Clock, record: Record) -> None:
        keys = load_keys(domains)
        self._domains = {
            domain_key(domain.name): (keys[table], domain.on_missing_key, not any(map(_is_slow, keys[table])))
            for table, domain in domains.items()
        }
        self._clock, self._record = clock, record
        self._threads = ThreadPoolExecutor(2, "sign")  # they end with the Signer

    def domain(self, author: Address) -> str | None:
        """The configured domain that signs for `author`, in A-labels; None when his is not one of ours."""
        name = author.domain_key
        while name and name not in self._domains:
            name = name.partition(".")[2]
        return name or None

    def keys(self, domain: str) -> tuple[SigningKey, ...]:
        """The keys of a domain that `domain` returned."""
        return self._domains[domain][0]

    async def sign(self, message: Message, author: Address | None, id: str) -> Message:
        """The message with its signatures on top; itself when its From domain is not ours.

        author: from `parse_author`, None if there is no such. Raises CannotSign.
        """
        domain = author and self.domain(author)
        if not domain:
            values = {"domain": author.domain if author else ""}
            self._record(Fact("edit.not_ours", id, values, "debug"))
            return message
        keys, on_missing_key, is_quick = self._domains[domain]
        if not keys:
            level = "error" if on_missing_key is MissingKey.REFUSE else "warning"
            self._record(Fact("edit.unsigned", id, {"domain": domain, "cause": "no usable key"}, level))
            if on_missing_key is MissingKey.REFUSE:
                raise CannotSign(f"no usable key for {domain}")
            return message
        if is_quick and len(message.body) <= _SMALL:
            made = signatures(message, keys, self._clock.time())  # to hand it over and take it back costs as much
        else:
            given = message, keys, self._clock.time()
            made = await asyncio.get_running_loop().run_in_executor(self._threads, signatures, *given)
        self._record(Fact("edit.signed", id, {"domain": domain, "selectors": [key.selector for key in keys]}))
        return message.prepend(*made)


def _is_slow(key: SigningKey) -> bool:
    """An RSA signature of 2048 bits takes 0.6 ms, one of 4096 bits 4 ms."""
    return isinstance(key.private, RSAPrivateKey) and key.private.key_size > _QUICK
