"""What the header of a message loses and gains on its way, in whole fields; all others stay as they are.

STANDARDS  RFC 8601 §5 (forged results), RFC 5321 §4.4 (Return-Path), RFC 6409 §8 (what a submission
           server adds), RFC 5322 §2.1.1 (line length), §3.6 (Date, Message-ID).
TRUSTS     our hostname and id; of the message nothing.
FAILS      never.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

from relay.edit.results import claims
from relay.message import Message

QUARANTINE, MARK = "X-Relay-Quarantine", "X-Relay-Mark"  # why, on mail that is delivered all the same
MAX_LINE = 78  # RFC 5322 §2.1.1, octets without the CRLF; a longer unit stands on a line of its own

_RECEIVERS = frozenset({b"return-path", QUARANTINE.lower().encode(), MARK.lower().encode()})
_SUSPECTS = _RECEIVERS | {b"authentication-results"}


def clean(message: Message, authserv_id: str) -> Message:
    """The message without what only its receiver may write: results under our name, our marks, Return-Path."""
    if not message.mentions(*_SUSPECTS):
        return message
    return message.without(lambda field: field.name in _RECEIVERS or claims(field, authserv_id))


def complete(message: Message, hostname: str, time: float, message_id: str) -> Message:
    """The message with a Date and a Message-ID, put below its other fields where they are missing.

    time: seconds since the epoch. message_id: what stands before the "@", our own id.
    """
    if not message.all(b"date"):
        message = message.append(folded("Date", date(time)))
    if not message.all(b"message-id"):
        message = message.append(folded("Message-ID", f"<{message_id}@{hostname}>"))
    return message


def date(time: float) -> str:
    """RFC 5322 §3.3 date-time, in UTC: `Sun, 22 Nov 2026 05:12:00 +0000`."""
    return _date(int(time))


@lru_cache(1)  # one a second, however many messages
def _date(time: int) -> str:
    return format_datetime(datetime.fromtimestamp(time, UTC))


def folded(name: str, first: str, *units: str) -> bytes:
    """The field `name: unit unit …` with its CRLF. Lines break between units only, before they pass MAX_LINE."""
    return continued(f"{name}: {first}".encode(), *units) + b"\r\n"


def continued(begun: bytes, *units: str) -> bytes:
    """A field as far as it was folded, with more units behind it; both without the CRLF at the end."""
    room = MAX_LINE - len(begun) + begun.rfind(b"\n") + 1
    for unit in units:
        added = unit.encode()
        room -= 1 + len(added)
        if room < 0:
            begun += b"\r\n\t" + added
            room = MAX_LINE - 1 - len(added)
        else:
            begun += b" " + added
    return begun
