"""What goes into the queue and what comes out of it: the facts that its parts hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from relay.address import Address
from relay.envelope import Envelope, Notify
from relay.message import Message
from relay.queue.states import Move, State


class Action(StrEnum):
    """What a report says of a recipient (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"  # delivered to a hop that sends no reports itself


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a message in the queue.

    number:   its key in the queue; 0 before it is there.
    hop:      the name of its next hop.
    attempts: how often the hop was tried and the outcome is known.
    crashes:  attempts in a row whose outcome nobody learned.
    due, expires, tried, warn: seconds since the epoch. due: of the next attempt. expires: an attempt that fails
              from then on is the last. tried: when the last one was, 0.0 for never. warn: when the sender
              is to hear of the delay, None for never (or he has heard).
    notify:   what the sender wants to hear, NOTIFY= and ORCPT=.
    reply:    the last reply of the hop, or ours for it, on one line; "" for none. host: who gave it.
    cause:    for our log; why it waits or is held.
    action:   in state REPORT: what the report will say.
    """

    address: Address
    hop: str
    state: State = State.WAITING
    number: int = 0
    attempts: int = 0
    crashes: int = 0
    due: float = 0.0
    expires: float = 0.0
    tried: float = 0.0
    warn: float | None = None
    notify: Notify = field(default_factory=Notify)
    reply: str = ""
    host: str = ""
    cause: str = ""
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A message on its way into the queue, as it will leave: traced, signed, complete.

    arrived:  seconds since the epoch. is_reportable: its sender may be sent reports about it; false for
              bounces, and for strangers whose domain did not pass.
    recipients: their states are WAITING, or REPORT or HELD where a first attempt has settled them already.
    """

    envelope: Envelope
    message: Message
    arrived: float
    is_reportable: bool
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class Queued:
    """A message in the queue, without its content.

    envelope: as it came; its `recipients` are those of `recipients`. size: octets.
    """

    envelope: Envelope
    size: int
    arrived: float
    is_reportable: bool
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Recipients of one message that were claimed for an attempt at one hop.

    token:   of the claim; whoever settles without it has lost the lease.
    claimed: seconds since the epoch, by the clock of the queue.
    message: None where it has to be read from the queue first.
    """

    queued: Queued
    hop: str
    token: str
    claimed: float
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an attempt made of one recipient, to be written.

    delay:  DEFERRED: seconds until the next attempt. attempts: counts this one.
    """

    number: int
    move: Move
    attempts: int
    delay: float = 0.0
    reply: str = ""
    host: str = ""
    cause: str = ""
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which recipients an operator means: all conditions given must hold; none given: all.

    ids: of messages. sender: reverse-path, "<>" for null, or "@domain". recipient: address or "@domain".
    hop, state: by name. older: seconds since the message arrived, at least.
    """

    ids: Sequence[str] = ()
    sender: str = ""
    recipient: str = ""
    hop: str = ""
    state: State | None = None
    older: float = 0.0


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Depth:
    """How many recipients are in one state for one hop, and when the oldest of their messages arrived."""

    hop: str
    state: State
    recipients: int
    messages: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A recipient that an operator has moved. id: of the message. address: as it came."""

    id: str
    address: str
    hop: str
