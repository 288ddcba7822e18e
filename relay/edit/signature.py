"""A signature made: the one field that goes on top of a message, for DKIM and for ARC.

STANDARDS  RFC 6376 (§3.5 tags, §3.7 hashes, §5.4 fields), RFC 8301 (rsa-sha256, key sizes),
           RFC 8463 (ed25519-sha256), RFC 5890 (A-labels in d=). relaxed/relaxed; no l=, x=.
TRUSTS     that lines end with CRLF only.
FAILS      never.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from relay.canonical import chunked, relaxed_body, relaxed_field, relaxed_header
from relay.edit.headers import folded
from relay.edit.key import SigningKey
from relay.message import Message

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
_SPELLED = {name.lower().encode(): name for name in (*OVERSIGNED, *SIGNED, "DKIM-Signature")}

_PIECE = 72  # characters of b= on a line
_PADDING, _DIGEST = padding.PKCS1v15(), Prehashed(hashes.SHA256())


def signatures(message: Message, keys: Sequence[SigningKey], time: float) -> list[bytes]:
    """One DKIM-Signature field per key, CRLF included. Header and body are hashed once for all keys."""
    return _complete(_prepare(message, keys, time, ("DKIM-Signature", "v=1;"), SIGNED))


def message_signature(message: Message, key: SigningKey, time: float, instance: int) -> bytes:
    """The ARC-Message-Signature of a new set (RFC 8617 §4.1.2): a DKIM-Signature on those before it too."""
    [field] = _complete(
        _prepare(message, [key], time, ("ARC-Message-Signature", f"i={instance};"), (*SIGNED, "DKIM-Signature"))
    )
    return field


class _Prepared(NamedTuple):
    """field: up to and with `b=`. digest: what is to be signed for it."""

    key: SigningKey
    field: bytes
    digest: bytes


def _prepare(
    message: Message, keys: Sequence[SigningKey], time: float, begin: tuple[str, str], signed: tuple[str, ...]
) -> list[_Prepared]:
    """begin: the name of the field and its first tag. signed: named in h= besides the oversigned ones."""
    fields = message.fields
    named = _named(tuple([_SPELLED.get(found.name, "") for found in fields]), signed)
    header = sha256(relaxed_header([fields[index] for indexes in named for index in indexes]))
    body = sha256()
    for piece in relaxed_body(chunked(message.body)):
        body.update(piece)
    rest = b"t=%d; bh=%s;\r\n\tb=" % (time, b64encode(body.digest()))
    prepared = []
    for key in keys:
        field, relaxed = _begin(*begin, key.algorithm, key.domain, key.selector, signed, named)
        hashed = header.copy()
        # RFC 6376 §3.7: with an empty b=, without its CRLF
        hashed.update(relaxed + b" " + rest.replace(b"\r\n\t", b" "))
        prepared.append(_Prepared(key, field + b"\t" + rest, hashed.digest()))
    return prepared


@lru_cache(256)  # the mails of one program have the same fields
def _named(present: tuple[str, ...], signed: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """For each name that is signed, which of the fields `present` bear it: from the bottom up (RFC 6376 §5.4.2)."""
    bearers: dict[str, list[int]] = {}
    for index in reversed(range(len(present))):
        bearers.setdefault(present[index], []).append(index)
    return tuple(tuple(bearers.get(name, ())) for name in (*OVERSIGNED, *signed))


@lru_cache(256)
def _begin(
    name: str,
    first: str,
    algorithm: str,
    domain: str,
    selector: str,
    signed: tuple[str, ...],
    named: tuple[tuple[int, ...], ...],
) -> tuple[bytes, bytes]:
    """The field with all its tags up to h=, in whole lines, and its relaxed form. named: as `_named` has it."""
    units: list[str] = []
    for one, indexes in zip((*OVERSIGNED, *signed), named, strict=True):
        alike = [one] * (len(indexes) + (one in OVERSIGNED))
        units += [":".join(alike[at : at + 2]) + ":" for at in range(0, len(alike), 2)]
    units[0] = "h=" + units[0]
    units[-1] = units[-1][:-1] + ";"
    field = folded(name, first, f"a={algorithm};", "c=relaxed/relaxed;", f"d={domain};", f"s={selector};", *units)
    return field, relaxed_field(field)


def _complete(prepared: Sequence[_Prepared]) -> list[bytes]:
    """The finished fields, CRLF included."""
    return [field + signature_value(key, digest) for key, field, digest in prepared]


def signature_value(key: SigningKey, digest: bytes) -> bytes:
    """What stands behind `b=`, folded, CRLF included."""
    if isinstance(key.private, Ed25519PrivateKey):
        signature = key.private.sign(digest)  # RFC 8463 §3: the SHA-256 digest is what is signed
    else:
        signature = key.private.sign(digest, _PADDING, _DIGEST)
    value = b64encode(signature)
    return b"\r\n\t".join(value[at : at + _PIECE] for at in range(0, len(value), _PIECE)) + b"\r\n"
