"""The mails the peers carry: built as bytes, compared as bytes."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail for a client to send. token: its own, found again in its X-Token field.

    eight_bit: the content has octets above 127. utf8: the addresses or the header have.
    """

    sender: str
    recipient: str
    content: bytes
    token: str
    eight_bit: bool = False
    utf8: bool = False


def make_mail(
    sender: str, recipient: str, body: bytes, *, subject: str = "a peer's mail", charset: str = "us-ascii"
) -> Mail:
    """A mail with all the fields that a client or a relay would otherwise add."""
    token = secrets.token_hex(8)
    header = (
        f"From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n"
        f"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{token}@client.example>\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n"
        f"Content-Transfer-Encoding: {'7bit' if body.isascii() else '8bit'}\r\nX-Token: {token}\r\n"
    ).encode()
    return Mail(sender, recipient, header + b"\r\n" + body, token, not (header + body).isascii(), not header.isascii())


def crlf(stored: bytes) -> bytes:
    """A message that a mailbox keeps with LF, in the line endings of the wire."""
    return re.sub(rb"\r?\n", b"\r\n", stored)


def split(message: bytes) -> tuple[list[bytes], bytes]:
    """The header fields, unfolded lines joined as they stand, and the body."""
    header, _, body = message.partition(b"\r\n\r\n")
    return re.split(rb"\r\n(?![ \t])", header), body


def with_token(messages: list[bytes], token: str) -> list[bytes]:
    """Those of `messages` whose header has `X-Token: token`."""
    return [message for message in messages if f"X-Token: {token}".encode() in split(message)[0]]
