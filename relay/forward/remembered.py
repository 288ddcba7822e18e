"""What a next hop answered for each recipient when the recipients of a message disagreed.

A proxied client gets one reply for all its recipients. When they disagree it gets a 451, and its retry
settles the matter: at RCPT it hears each refusal that is the hop's own, and the rest of the message goes
through. From an SMTP hop nobody has the message then. From an LMTP hop some may (RFC 2033 §4.2): they
are known by the content as the client sent it, and do not get it twice.

Each thing is told once. After that the hop is asked again, and the same content is a mail of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable

from relay.address import Address
from relay.clock import Clock
from relay.envelope import Envelope
from relay.kept import Kept
from relay.outcome import Outcome, Result
from relay.reply import DISAGREE, Reply
from relay.telling import Telling

LIFETIME = 3600.0  # seconds for a refusal; a client's first retry comes well before
DELIVERED_LIFETIME = 86400.0  # it may come later, and a second copy is worse than a second question
MAX_KEPT = 10_000  # of each

_Key = tuple[str, str, str]  # client (login or address), reverse-path, recipient


class Remembered:
    """telling: to other workers, one of which may take the retry."""

    def __init__(self, clock: Clock, telling: Telling | None = None) -> None:
        self._refused: Kept[_Key, Reply] = Kept(clock, LIFETIME, MAX_KEPT, telling, "refused")
        self._delivered: Kept[tuple[_Key, bytes], Outcome] = Kept(
            clock, DELIVERED_LIFETIME, MAX_KEPT, telling, "delivered"
        )

    def __len__(self) -> int:
        return len(self._refused) + len(self._delivered)

    async def keep(self, envelope: Envelope, outcomes: Iterable[Outcome], content: bytes | bytearray) -> None:
        """Remember each refusal that is the hop's own, and who has the message. content: as it came."""
        delivered = []
        for outcome in outcomes:
            if outcome.result is Result.DELIVERED:
                delivered.append(outcome)
            elif outcome.result is not Result.AMBIGUOUS and outcome.reply != DISAGREE:
                self._refused.put(_key(envelope, outcome.recipient), outcome.reply)
        if delivered:
            digest = await _digest(content)
            for outcome in delivered:
                self._delivered.put((_key(envelope, outcome.recipient), digest), outcome)

    def take(self, envelope: Envelope, recipient: Address) -> Reply | None:
        """The refusal to tell now, which is then forgotten; None if there is none."""
        return self._refused.pop(_key(envelope, recipient)) if len(self._refused) else None

    async def settled(
        self, envelope: Envelope, recipients: Iterable[Address], content: bytes | bytearray
    ) -> dict[Address, Outcome]:
        """Those who have this content already, which is then forgotten."""
        if not len(self._delivered):
            return {}  # nearly always, and then nothing is hashed
        digest = await _digest(content)
        found = {one: self._delivered.pop((_key(envelope, one), digest)) for one in dict.fromkeys(recipients)}
        return {recipient: outcome for recipient, outcome in found.items() if outcome is not None}


def _key(envelope: Envelope, recipient: Address) -> _Key:
    client = envelope.client
    return client.login or str(client.ip), str(envelope.reverse_path or ""), str(recipient)


async def _digest(content: bytes | bytearray) -> bytes:
    """SHA-256, off the loop: 25 MiB take some 20 ms."""
    return await asyncio.to_thread(lambda: hashlib.sha256(content).digest())
