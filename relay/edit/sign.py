"""DKIM signatures for what leaves: who signs, with which keys, and the signature itself.

Signing comes last: nothing below a signature changes any more, later fields are only put on top.

STANDARDS  RFC 6376 (§3.5 tags, §3.7 hashes, §5.4 fields), RFC 8301 (rsa-sha256, key sizes),
           RFC 8463 (ed25519-sha256), RFC 5890 (A-labels in d=). relaxed/relaxed; no l=, i=, x=.
TRUSTS     that the author was read by `relay/author.py`, and that lines end with CRLF only.
FAILS      ConfigError for a key file that cannot be used; CannotSign for a From domain of ours without
           a usable key; `sign` also MalformedMessage and MalformedAddress.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from relay.address import Address, domain_key
from relay.author import parse_author
from relay.canonical import chunked, relaxed_body, relaxed_field
from relay.clock import Clock, SystemClock
from relay.config.models import Domain, MissingKey
from relay.edit.headers import folded
from relay.edit.key import SigningKey, load_keys
from relay.errors import CannotSign, MalformedMessage
from relay.fact import Fact, Record
from relay.message import Field, Message

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# Named in h= once more than they are there, so that none can be added (RFC 6376 §5.4, §8.15).
OVERSIGNED = (
    "From", "To", "Cc", "Subject", "Date", "Reply-To", "Message-ID",
    "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
)  # fmt: skip
# Named as often as they are there (RFC 6376 §5.4.1, RFC 8058 §4). Resent fields are among them: who resends
# later puts his block on top (RFC 5322 §3.6.6), and h= counts from below.
SIGNED = (
    "Sender", "In-Reply-To", "References",
    "Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Message-ID",
    "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Help", "List-Post", "List-Archive",
    "List-Owner", "List-Subscribe",
)  # fmt: skip

_SMALL = 64 * 1024  # octets of body that are hashed in about a quarter of a millisecond
_PIECE = 72  # characters of b= on a line


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


def signatures(message: Message, keys: Sequence[SigningKey], time: float) -> list[bytes]:
    """One DKIM-Signature field per key, CRLF included. Header and body are hashed once for all keys."""
    return _complete(_prepare(message, keys, time))


class Signer:
    """Signs by From domain: a key for a domain signs for its subdomains too, the closest domain wins.

    Raises ConfigError when a configured key cannot be used.
    """

    def __init__(self, domains: Mapping[str, Domain], clock: Clock, record: Record) -> None:
        keys = load_keys(domains)
        self._domains = {
            domain_key(domain.name): (tuple(keys[table]), domain.on_missing_key) for table, domain in domains.items()
        }
        self._clock, self._record = clock, record
        self._threads = ThreadPoolExecutor(2, "sign")  # they end with the Signer

    def domain(self, author: Address) -> str | None:
        """The configured domain that signs for `author`, in A-labels; None when his is not one of ours."""
        labels = author.domain_key.split(".")
        candidates = (".".join(labels[index:]) for index in range(len(labels)))
        return next((name for name in candidates if name in self._domains), None)

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
        keys, on_missing_key = self._domains[domain]
        if not keys:
            level = "error" if on_missing_key is MissingKey.REFUSE else "warning"
            self._record(Fact("edit.unsigned", id, {"domain": domain, "cause": "no usable key"}, level))
            if on_missing_key is MissingKey.REFUSE:
                raise CannotSign(f"no usable key for {domain}")
            return message
        made = await self._signatures(message, keys)
        self._record(Fact("edit.signed", id, {"domain": domain, "selectors": [key.selector for key in keys]}))
        return message.prepend(*made)

    async def _signatures(self, message: Message, keys: Sequence[SigningKey]) -> list[bytes]:
        # bench/sign.py: with a free core, RSA in threads carries a third more messages; without one, a tenth fewer.
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        now = self._clock.time()
        if len(message.body) > _SMALL:
            return await in_thread(signatures, message, keys, now)
        prepared = _prepare(message, keys, now)
        if any(isinstance(key.private, RSAPrivateKey) for key in keys):
            return await in_thread(_complete, prepared)
        return _complete(prepared)


class _Prepared(NamedTuple):
    """field: up to and with `b=`. digest: what is to be signed for it."""

    key: SigningKey
    field: bytes
    digest: bytes


def _prepare(message: Message, keys: Sequence[SigningKey], time: float) -> list[_Prepared]:
    names, header = _header(message)
    body = sha256()
    for piece in relaxed_body(chunked(message.body)):
        body.update(piece)
    body_hash = b64encode(body.digest()).decode()
    prepared = []
    for key in keys:
        field = folded(
            "DKIM-Signature",
            *("v=1;", f"a={key.algorithm};", "c=relaxed/relaxed;", f"d={key.domain};", f"s={key.selector};"),
            *(f"t={int(time)};", *names, f"bh={body_hash};"),
        )
        field += b"\tb="
        hashed = header.copy()
        hashed.update(relaxed_field(field))  # RFC 6376 §3.7: with an empty b=, without its CRLF
        prepared.append(_Prepared(key, field, hashed.digest()))
    return prepared


def _complete(prepared: Sequence[_Prepared]) -> list[bytes]:
    made = []
    for key, field, digest in prepared:
        if isinstance(key.private, Ed25519PrivateKey):
            signature = key.private.sign(digest)  # RFC 8463 §3: the SHA-256 digest is what is signed
        else:
            signature = key.private.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
        value = b64encode(signature)
        made.append(field + b"\r\n\t".join(value[at : at + _PIECE] for at in range(0, len(value), _PIECE)) + b"\r\n")
    return made


def _header(message: Message) -> tuple[list[str], Hash]:
    """The tag h= in units that a line can break between, and the hash of the fields that it names."""
    present: dict[bytes, list[Field]] = {}
    for found in reversed(message.fields):  # RFC 6376 §5.4.2: from the bottom up
        present.setdefault(found.name, []).append(found)
    units: list[str] = []
    hashed = sha256()
    for name in OVERSIGNED + SIGNED:
        fields = present.get(name.lower().encode(), [])
        for found in fields:
            hashed.update(relaxed_field(found.raw) + b"\r\n")
        names = [name] * (len(fields) + (name in OVERSIGNED))
        units += [":".join(names[at : at + 2]) + ":" for at in range(0, len(names), 2)]
    units[0] = "h=" + units[0]
    units[-1] = units[-1][:-1] + ";"
    return units, hashed
