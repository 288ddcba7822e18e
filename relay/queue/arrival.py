"""Pure: how the recipients of a message enter the queue, before any attempt or after one that left some open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relay.outcome import Outcome
from relay.queue.entry import Entry, Queued, Recipient
from relay.queue.schedule import Schedule, settle
from relay.queue.states import State, after


def arriving(entry: Entry, schedule: Schedule) -> Entry:
    """`entry` with the times of its recipients: due at once, when they expire, when the sender is warned."""
    is_bounce = entry.envelope.reverse_path is None
    expires = schedule.expires(entry.arrived, is_bounce=is_bounce)

    def timed(new: Recipient) -> Recipient:
        warn = schedule.warns(entry.arrived, new.notify, is_reportable=entry.is_reportable)
        # Not by `replace`, which takes three times as long, for every message that is queued.
        return Recipient(new.address, new.hop, due=entry.arrived, expires=expires, warn=warn, notify=new.notify)

    recipients = tuple(map(timed, entry.recipients))
    return Entry(entry.envelope, entry.message, entry.arrived, entry.is_reportable, recipients)


def tried(
    entry: Entry, outcomes: Sequence[Outcome], now: float, chance: float, schedule: Schedule, *, offers_dsn: bool
) -> Entry | None:
    """What one attempt left of an entry that `arriving` has seen: who is due again, and who is to be reported.

    outcomes: of its recipients, in any order. None: nobody is left. The rest as for `schedule.settle`.
    """
    queued = Queued(entry.envelope, entry.message.size, entry.arrived, entry.is_reportable, entry.recipients)
    said = {outcome.recipient: outcome for outcome in outcomes}
    left = []
    for recipient in entry.recipients:
        settlement = settle(queued, recipient, said[recipient.address], now, chance, schedule, offers_dsn=offers_dsn)
        state = after(State.ACTIVE, settlement.move)
        if state is State.DONE:
            continue
        left.append(
            replace(
                recipient,
                state=state,
                attempts=settlement.attempts,
                due=now + settlement.delay,
                tried=now,
                reply=settlement.reply,
                host=settlement.host,
                cause=settlement.cause,
                action=settlement.action,
            )
        )
    return replace(entry, recipients=tuple(left)) if left else None
