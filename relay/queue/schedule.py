"""Pure: when a recipient is tried again, when it is given up, and what an attempt makes of it.

STANDARDS  RFC 5321 §4.5.4.1 (when to retry and for how long), RFC 3461 §4.1 (NOTIFY), §5.2.2 (success told by
           who hands on to a hop without DSN), RFC 5321 §6.1 (no report to the null reverse-path).

The first retry comes after `first_retry`, each further one after twice as long, up to `max_retry`; each varies by
`jitter`, so that what failed together does not come back together. No retry is put off past `expires`: the
last attempt is made then, and when that one fails, so has the mail.

Times are seconds since the epoch, by the clock of the queue. When it jumps ahead, what has become due is due; when it
jumps back, the worker makes everything due, since nobody knows how long it would wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.config.queue import Bounce, Queue, Unverified
from relay.envelope import Notify
from relay.outcome import Outcome, Result
from relay.queue.entry import Action, Queued, Recipient, Settlement
from relay.queue.states import Move

_DOUBLINGS = 64  # by then any cap is passed


@dataclass(frozen=True, slots=True)
class Schedule:
    """`[queue]` and `[bounce]`, as far as they say when and whether; all in seconds.

    jitter: the share by which a delay varies, both ways. drops_unverified: what fails of a stranger's mail, about
    which nobody may be told, is dropped instead of held.
    """

    first_retry: float
    max_retry: float
    jitter: float
    give_up: float
    give_up_bounce: float
    warn: float | None
    drops_unverified: bool

    @classmethod
    def of(cls, queue: Queue, bounce: Bounce) -> Schedule:
        return cls(
            first_retry=queue.first_retry,
            max_retry=queue.max_retry,
            jitter=queue.jitter / 100,
            give_up=queue.give_up,
            give_up_bounce=queue.give_up_bounce,
            warn=queue.warn,
            drops_unverified=bounce.unverified is Unverified.DROP,
        )

    def delay(self, attempts: int, chance: float) -> float:
        """Seconds from the failure of attempt number `attempts` to the next one. chance: in [0, 1)."""
        doubled = self.first_retry * 2.0 ** min(attempts - 1, _DOUBLINGS)
        return min(doubled, self.max_retry) * (1 + self.jitter * (2 * chance - 1))

    def expires(self, arrived: float, *, is_bounce: bool) -> float:
        """From when on a failed attempt is the last. is_bounce: the reverse-path is null."""
        return arrived + (self.give_up_bounce if is_bounce else self.give_up)

    def warns(self, arrived: float, notify: Notify, *, is_reportable: bool) -> float | None:
        """When the sender is to hear that it takes long; None for never."""
        if self.warn is None or self.warn >= self.give_up:
            return None
        return arrived + self.warn if is_reportable and wants(notify, "DELAY") else None


def settle(
    queued: Queued,
    recipient: Recipient,
    outcome: Outcome,
    now: float,
    chance: float,
    schedule: Schedule,
    *,
    offers_dsn: bool,
) -> Settlement:
    """What an attempt makes of one recipient.

    now: when it ended. offers_dsn: the hop was told what the sender wants to hear, and sees to it (RFC 3461 §5.2.1).
    """
    delay, cause, action = 0.0, outcome.cause, None
    match outcome.result:
        case Result.DELIVERED:
            is_ours_to_tell = wants(recipient.notify, "SUCCESS") and not offers_dsn and _has_reader(queued)
            move, action = (Move.FINAL, Action.RELAYED) if is_ours_to_tell else (Move.DELIVERED, None)
        case Result.PERMANENT:
            move, action = _failure(queued, recipient, schedule)
        case Result.TEMPORARY | Result.AMBIGUOUS if now < recipient.expires:
            move = Move.DEFERRED
            delay = min(schedule.delay(recipient.attempts + 1, chance), recipient.expires - now)
        case Result.TEMPORARY | Result.AMBIGUOUS:
            move, action = _failure(queued, recipient, schedule)
            cause = f"expired: {cause}"
    return Settlement(
        recipient.number,
        move,
        recipient.attempts + 1,
        delay,
        reply=str(outcome.reply),
        host=outcome.host,
        cause=cause,
        action=action,
    )


def expire(queued: Queued, recipient: Recipient, said: Outcome | None, schedule: Schedule) -> Settlement:
    """The end of one whose time ran out while its hop was down, or unknown: no attempt was made.

    said: the hop's last word, for one that never came to hear a word of its own.
    """
    move, action = _failure(queued, recipient, schedule)
    reply, host, cause = recipient.reply, recipient.host, recipient.cause
    if not reply and said is not None:
        reply, host, cause = str(said.reply), said.host, said.cause
    cause = f"expired: {cause or 'not attempted'}"
    return Settlement(recipient.number, move, recipient.attempts, reply=reply, host=host, cause=cause, action=action)


def _failure(queued: Queued, recipient: Recipient, schedule: Schedule) -> tuple[Move, Action | None]:
    """Where mail goes that will not be delivered: never to a stranger, who may not have sent it."""
    if queued.envelope.reverse_path is None:
        return Move.STRANDED, None  # a bounce: whatever NOTIFY it came with, somebody should look at it
    if not wants(recipient.notify, "FAILURE"):
        return Move.SILENT, None
    if _has_reader(queued):
        return Move.FINAL, Action.FAILED
    return (Move.SILENT if schedule.drops_unverified else Move.STRANDED), None


def _has_reader(queued: Queued) -> bool:
    return queued.is_reportable and queued.envelope.reverse_path is not None


def wants(notify: Notify, what: str) -> bool:
    """Whether NOTIFY= has `what`. Without NOTIFY a sender hears of failures and delays (RFC 3461 §4.1)."""
    return what in notify.on.split(",") if notify.on else what != "SUCCESS"
