"""A signature made: the one field that goes on top of a message, for DKIM and for ARC.

STANDARDS  RFC 6376 (§3.5 tags, §3.7 hashes, §5.4 fields), RFC 8301 (rsa-sha256, key sizes),
           RFC 8463 (ed25519-sha256), RFC 5890 (A-labels in d=). relaxed/relaxed; no l=, x=.
TRUSTS     that lines end with CRLF only.
FAILS      never.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from relay.canonical import chunked, relaxed_body, relaxed_field
from relay.edit.headers import folded
from relay.edit.key import SigningKey
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

_PIECE = 72  # characters of b= on a line


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
    message: Message, keys: Sequence[SigningKey], time: float, begin: tuple[str, str], signed: Sequence[str]
) -> list[_Prepared]:
    """begin: the name of the field and its first tag. signed: named in h= besides the oversigned ones."""
    names, header = _header(message, signed)
    body = sha256()
    for piece in relaxed_body(chunked(message.body)):
        body.update(piece)
    body_hash = b64encode(body.digest()).decode()
    prepared = []
    for key in keys:
        field = folded(
            *(*begin, f"a={key.algorithm};", "c=relaxed/relaxed;", f"d={key.domain};", f"s={key.selector};"),
            *(f"t={int(time)};", *names, f"bh={body_hash};"),
        )
        field += b"\tb="
        hashed = header.copy()
        hashed.update(relaxed_field(field))  # RFC 6376 §3.7: with an empty b=, without its CRLF
        prepared.append(_Prepared(key, field, hashed.digest()))
    return prepared


def _complete(prepared: Sequence[_Prepared]) -> list[bytes]:
    """The finished fields, CRLF included."""
    return [field + signature_value(key, digest) for key, field, digest in prepared]


def signature_value(key: SigningKey, digest: bytes) -> bytes:
    """What stands behind `b=`, folded, CRLF included."""
    if isinstance(key.private, Ed25519PrivateKey):
        signature = key.private.sign(digest)  # RFC 8463 §3: the SHA-256 digest is what is signed
    else:
        signature = key.private.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    value = b64encode(signature)
    return b"\r\n\t".join(value[at : at + _PIECE] for at in range(0, len(value), _PIECE)) + b"\r\n"


def _header(message: Message, signed: Sequence[str]) -> tuple[list[str], Hash]:
    """The tag h= in units that a line can break between, and the hash of the fields that it names."""
    present: dict[bytes, list[Field]] = {}
    for found in reversed(message.fields):  # RFC 6376 §5.4.2: from the bottom up
        present.setdefault(found.name, []).append(found)
    units: list[str] = []
    hashed = sha256()
    for name in (*OVERSIGNED, *signed):
        fields = present.get(name.lower().encode(), [])
        for found in fields:
            hashed.update(relaxed_field(found.raw) + b"\r\n")
        names = [name] * (len(fields) + (name in OVERSIGNED))
        units += [":".join(names[at : at + 2]) + ":" for at in range(0, len(names), 2)]
    units[0] = "h=" + units[0]
    units[-1] = units[-1][:-1] + ";"
    return units, hashed
