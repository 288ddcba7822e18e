"""Who is to hear of what, and that he has: operations like those of `operations.py`."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from relay.queue import reading
from relay.queue.entry import Entry, Queued
from relay.queue.operations import Claim, Keep, keep
from relay.queue.schema import is_state, recipient
from relay.queue.statements import IN_ORDER, LIMIT, NOW, OF_IDS, OF_KEY, Key, done, execute_many, forget, lock, padded
from relay.queue.states import Move, State, after

_BUSY = recipient.alias("busy")
_IS_TRIED = _BUSY.c.state == State.ACTIVE.value
_REPORT = select(recipient.c.message).where(
    is_state(State.REPORT),
    ~select(_BUSY.c.number).where(_BUSY.c.message == recipient.c.message, _IS_TRIED).exists(),
)
_REPORT = _REPORT.distinct().order_by(recipient.c.message).limit(LIMIT)
_IS_LATE = is_state(State.WAITING) & recipient.c.warn.is_not(None) & (recipient.c.warn <= NOW)
_LATE = select(recipient.c.message).where(_IS_LATE).order_by(recipient.c.warn).limit(LIMIT)
_TO_REPORT = select(recipient).where(OF_IDS, is_state(State.REPORT) | _IS_LATE).order_by(*IN_ORDER)
_WARN = select(recipient.c.message, recipient.c.number).where(OF_IDS, recipient.c.warn.is_not(None))
_REPORTED = update(recipient).where(OF_KEY).values(state=State.DONE.value)
_WARNED = update(recipient).where(OF_KEY).values(warn=None)


def reportable(connection: Connection, now: float, limit: int) -> tuple[Queued, ...]:
    """Messages whose senders are to hear something, with the recipients it is about.

    A message waits while one of its recipients is being attempted: its fate may go into the same report.
    """
    final = connection.scalars(_REPORT, {"limit": limit}).all()
    late = connection.scalars(_LATE, {"limit": limit, "now": now}).all()
    ids = sorted({*final, *late})[:limit]
    if not ids:
        return ()
    found = connection.execute(_TO_REPORT, {"ids": padded(ids), "now": now}).mappings().all()
    return reading.load(connection, found)


def report(connection: Connection, now: float, queued: Queued, bounce: Entry | None) -> bool:
    """The report goes in and what it says is done; False, and nothing is written, if anything of it has changed."""
    id = queued.envelope.id
    states, _ = lock(connection, [id])
    to_warn = {Key(*row) for row in connection.execute(_WARN, {"ids": [id]})}
    for one in queued.recipients:
        key = Key(id, one.number)
        if states.get(key) is not one.state or (one.state is State.WAITING and key not in to_warn):
            return False
    told = [Key(id, one.number) for one in queued.recipients]
    reported = [key for key in told if states[key] is State.REPORT]
    execute_many(connection, _WARNED, [key.values for key in told if states[key] is State.WAITING])
    execute_many(connection, _REPORTED, [key.values for key in reported])
    forget(connection, done(states | dict.fromkeys(reported, after(State.REPORT, Move.REPORTED))))
    if bounce is not None:
        keep(connection, now, [Keep(bounce, ())], Claim("", "", 0.0))
    return True
