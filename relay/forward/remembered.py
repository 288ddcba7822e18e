"""What a next hop answered for one recipient when the recipients of a message disagreed.

A proxied client gets one reply for all its recipients. When they disagree nothing is sent, the
client gets a 451 and each refusal is kept here, so that its retry hears them at RCPT, one by one,
and the rest of the message goes through. A refusal is told once: after that the hop is asked again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from relay.address import Address
from relay.clock import Clock
from relay.envelope import Envelope
from relay.outcome import Outcome
from relay.reply import DISAGREE, Reply

LIFETIME = 3600.0  # seconds; a client's first retry comes well before
MAX_KEPT = 10_000

_Key = tuple[str, str, str]  # client (login or address), reverse-path, recipient


class Remembered:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[_Key, tuple[float, Reply]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, envelope: Envelope, outcomes: Iterable[Outcome]) -> None:
        """Remember each refusal that is the hop's own."""
        until = self._clock.monotonic() + LIFETIME
        for outcome in outcomes:
            if outcome.reply != DISAGREE and not outcome.reply.is_positive:
                self._kept[_key(envelope, outcome.recipient)] = until, outcome.reply
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def take(self, envelope: Envelope, recipient: Address) -> Reply | None:
        """The refusal to tell now, which is then forgotten; None if there is none."""
        until, reply = self._kept.pop(_key(envelope, recipient), (0.0, None))
        return reply if until > self._clock.monotonic() else None


def _key(envelope: Envelope, recipient: Address) -> _Key:
    client = envelope.client
    return client.login or str(client.ip), str(envelope.reverse_path or ""), str(recipient)
