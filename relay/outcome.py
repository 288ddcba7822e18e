"""What became of one recipient in one delivery attempt."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from relay.address import Address
from relay.capabilities import Capabilities
from relay.envelope import Envelope
from relay.message import Message
from relay.reply import DISAGREE, Reply


class Result(StrEnum):
    DELIVERED = "delivered"  # the next hop said 2xx after the final dot
    TEMPORARY = "temporary"  # a 4xx, or trouble before our final dot was sent: nothing was taken
    PERMANENT = "permanent"  # the next hop's own 5xx at MAIL, RCPT, DATA or the dot
    AMBIGUOUS = "ambiguous"  # cut or silent after our final dot: it may have been taken


class Outcome(NamedTuple):
    """reply: what a client may be told. hop: the hop's name. host: the host that answered, or "".

    cause: for our log; why it is temporary or ambiguous (`connect: refused`), "" when delivered.
    is_about_hop: it failed before the hop heard of this mail, and any other mail would have failed as well.
    """

    recipient: Address
    result: Result
    reply: Reply
    hop: str
    host: str = ""
    cause: str = ""
    is_about_hop: bool = False


class NextHop(Protocol):
    """Where mail goes: an SMTP server (`forward/deliver.py`) or our own store (`inbox/store.py`)."""

    async def deliver(
        self,
        envelope: Envelope,
        message: Message,
        recipients: Sequence[Address],
        until: float,
        *,
        each: bool = False,
    ) -> tuple[Outcome, ...]:
        """One attempt, one Outcome a recipient, in their order. Never raises but for cancellation.

        until: on the monotonic clock; every wait before our final dot ends by then.
        each: whoever is accepted gets the message, though others are not, as the caller can settle each by
        himself. Else all are accepted or nobody is sent anything, so that one reply can tell it.
        """

    async def ask(self, envelope: Envelope, recipient: Address, until: float) -> Outcome:
        """Whether it would take mail for `recipient` from `<>`: DELIVERED, though nothing is. Never raises either.

        until: on the monotonic clock; the answer is there by then.
        """

    @property
    def capabilities(self) -> Capabilities:
        """What it takes, as it last said; EVERYTHING before it was seen."""

    async def probe(self) -> None:
        """See what it takes, before the first message. Trouble is recorded, never raised."""

    async def close(self) -> None: ...


def disagree(outcomes: Sequence[Outcome]) -> bool:
    """The recipients got answers that one reply cannot tell. Some may have the message, behind an LMTP hop."""
    results = {outcome.result for outcome in outcomes}
    return len(results) > 1 or (Result.TEMPORARY in results and any(outcome.reply == DISAGREE for outcome in outcomes))


def one_reply(message_id: str, outcomes: Sequence[Outcome]) -> Reply:
    """The one answer a client gets at its final dot, for all its recipients.

    Where they agree it is the first one's own reply, a 250 with our message id behind it; where they
    do not it is DISAGREE, and `forward/remembered.py` tells each at the retry.
    """
    first = outcomes[0].reply
    if disagree(outcomes):
        return DISAGREE
    if first.is_positive and message_id not in first.text:
        return Reply(first.code, first.detail, f"{first.text} [{message_id}]".lstrip())
    return first
