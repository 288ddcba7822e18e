"""AUTH PLAIN and LOGIN: from base64 to a name and a password.

STANDARDS  RFC 4954 §4 (the exchange, `=` for an empty initial response, `*` cancels), RFC 4616
           (PLAIN), draft-murchison-sasl-login (LOGIN). Base64 is read strictly (RFC 4648 §3.3).
TRUSTS     nothing. What was read is never put into a reply, an error or a fact.
FAILS      a Reply instead of Credentials.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relay import reply
from relay.reply import Reply

MECHANISMS = ("PLAIN", "LOGIN")

Challenge = Callable[[bytes], Awaitable[bytes]]  # base64 of a prompt to the client's line

_CANCELLED = Reply(501, "7.0", "login cancelled")
_NOT_BASE64 = Reply(501, "5.2", "not base64")
_NOT_PLAIN = Reply(501, "5.2", "write base64 of NUL name NUL password")
_NO_MECHANISM = Reply(504, "5.4", "mechanism not known")


@dataclass(frozen=True, slots=True)
class Credentials:
    name: str
    password: str = field(repr=False)


async def read_credentials(argument: bytes, challenge: Challenge) -> Credentials | Reply:
    """The exchange behind `AUTH argument`. challenge: sends 334 and gives the client's line."""
    words = argument.split()
    if not 1 <= len(words) <= 2:
        return reply.syntax("write AUTH mechanism [initial-response]")
    mechanism = words[0].decode("ascii").upper()
    initial = words[1] if len(words) == 2 else None
    if mechanism == "PLAIN":
        return _read_plain(_decode(initial if initial is not None else await challenge(b"")))
    if mechanism == "LOGIN":
        name = _decode(initial if initial is not None else await challenge(b64encode(b"Username:")))
        if isinstance(name, Reply):
            return name
        password = _decode(await challenge(b64encode(b"Password:")))
        if isinstance(password, Reply):
            return password
        return _credentials(name, password)
    return _NO_MECHANISM


def _decode(text: bytes) -> bytes | Reply:
    if text == b"*":
        return _CANCELLED
    if text == b"=":
        return b""
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return _NOT_BASE64


def _read_plain(message: bytes | Reply) -> Credentials | Reply:
    """RFC 4616 §2: authzid NUL authcid NUL passwd; to act for another is not offered."""
    if isinstance(message, Reply):
        return message
    parts = message.split(b"\0")
    if len(parts) != 3:
        return _NOT_PLAIN
    identity, name, password = parts
    if identity not in (b"", name):
        return reply.LOGIN_FAILED
    return _credentials(name, password)


def _credentials(name: bytes, password: bytes) -> Credentials | Reply:
    if not name or not password or b"\0" in name + password:
        return _NOT_PLAIN
    try:
        return Credentials(name.decode(), password.decode())
    except UnicodeDecodeError:
        return reply.LOGIN_FAILED
