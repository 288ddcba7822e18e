"""What an operator asks of the queue, and does to it, as SQL: operations like those of `operations.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Double, Text, bindparam, case, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from relay.address import domain_key
from relay.queue.entry import Depth, Moved, Queued, Selection
from relay.queue.reading import load
from relay.queue.schema import message, recipient
from relay.queue.statements import IN_ORDER, LIMIT, NOW, OF_IDS, OF_KEY, Key, done, execute_many, forget, lock, padded
from relay.queue.states import Move, State, after, before

_MOVED, _EXTENDED = bindparam("now_state", type_=Text), bindparam("extended", type_=Double)
_MOVES: dict[Move, Any] = {
    Move.HOLD: update(recipient).where(OF_KEY).values(state=_MOVED, cause=bindparam("now_cause")),
    Move.RETRY: update(recipient).where(OF_KEY).values(state=_MOVED, due=NOW),
    Move.DROP: update(recipient).where(OF_KEY).values(state=_MOVED, cause=bindparam("now_cause")),
    # A message that was held for what it did to relays, or for its age, gets a new chance.
    Move.RELEASE: update(recipient)
    .where(OF_KEY)
    .values(
        state=_MOVED,
        due=NOW,
        crashes=0,
        cause=bindparam("now_cause"),
        expires=case((recipient.c.expires > _EXTENDED, recipient.c.expires), else_=_EXTENDED),
    ),
}
# Ids sort by time: the oldest message is the one with the smallest.
_COUNTS = select(
    recipient.c.hop,
    recipient.c.state,
    func.count().label("recipients"),
    func.count(recipient.c.message.distinct()).label("messages"),
    func.min(recipient.c.message).label("oldest"),
)
_COUNTS = _COUNTS.where(recipient.c.state != State.DONE.value).group_by(recipient.c.hop, recipient.c.state)


def selected(connection: Connection, now: float, selection: Selection, limit: int, last: str) -> tuple[Queued, ...]:
    """At most `limit` messages behind the id `last`, the oldest first, with those recipients that are meant."""
    conditions = [*_conditions(selection, now), recipient.c.message > bindparam("after")]
    if selection.state is None:
        conditions.append(recipient.c.state != State.DONE.value)
    ids = _page(connection, conditions, limit, last)
    if not ids:
        return ()
    chosen = select(recipient).where(OF_IDS, *conditions).order_by(*IN_ORDER)
    return load(connection, connection.execute(chosen, {"ids": padded(ids), "after": last}).mappings().all())


def move(
    connection: Connection,
    now: float,
    selection: Selection,
    move: Move,
    cause: str,
    extend: float,
    limit: int,
    last: str,
) -> tuple[list[Moved], str]:
    """Move the selected recipients of at most `limit` messages: which, and the last id looked at, "" at the end.

    extend: RELEASE gives each at least so many seconds from now on.
    """
    states = [state.value for state in before(move)]
    conditions = [
        *_conditions(selection, now),
        recipient.c.state.in_(states),
        recipient.c.message > bindparam("after"),
    ]
    ids = _page(connection, conditions, limit, last)
    if not ids:
        return [], ""
    all_of, _ = lock(connection, ids)  # before they are chosen: what another has just claimed is not ours to move
    columns = (recipient.c.message, recipient.c.number, recipient.c.address, recipient.c.hop)
    chosen = select(*columns).where(OF_IDS, *conditions).order_by(*IN_ORDER)
    values, moved, more = [], [], {"now_cause": cause, "now": now, "extended": now + extend}
    for id, number, address, hop in connection.execute(chosen, {"ids": padded(ids), "after": last}):
        key = Key(id, number)
        all_of[key] = after(all_of[key], move)
        moved.append(Moved(id, address, hop))
        values.append(key.values | {"now_state": all_of[key].value, **more})
    execute_many(connection, _MOVES[move], values)
    forget(connection, done(all_of))
    return moved, ids[-1]


def depth(connection: Connection, now: float, selection: Selection) -> tuple[Depth, ...]:
    """How many are selected, by hop and state, DONE aside."""
    counts = _COUNTS.where(*_conditions(selection, now)).subquery()
    found = select(counts, message.c.arrived).join(message, message.c.id == counts.c.oldest)
    found = found.order_by(counts.c.hop, counts.c.state)
    return tuple(
        Depth(row.hop, State(row.state), row.recipients, row.messages, row.arrived) for row in connection.execute(found)
    )


def _page(connection: Connection, conditions: list[ColumnElement[bool]], limit: int, last: str) -> list[str]:
    page = select(recipient.c.message).where(*conditions).distinct().order_by(recipient.c.message).limit(LIMIT)
    return list(connection.scalars(page, {"limit": limit, "after": last}))


def _conditions(selection: Selection, now: float) -> Iterator[ColumnElement[bool]]:
    if selection.ids:
        yield recipient.c.message.in_(list(selection.ids))
    if selection.recipient:
        yield _is_address(recipient.c.address, selection.recipient)
    if selection.hop:
        yield recipient.c.hop == selection.hop
    if selection.state is not None:
        yield recipient.c.state == selection.state.value
    about_message: list[ColumnElement[bool]] = []
    if selection.sender == "<>":
        about_message.append(message.c.reverse_path.is_(None))
    elif selection.sender:
        about_message.append(_is_address(message.c.reverse_path, selection.sender))
    if selection.older:
        about_message.append(message.c.arrived <= now - selection.older)
    if about_message:
        yield select(message.c.id).where(message.c.id == recipient.c.message, *about_message).exists()


def _is_address(column: ColumnElement[Any], wanted: str) -> ColumnElement[bool]:
    """Whether it is that address, or one of "@domain", in any case and with the domain in either of its forms."""
    local, _, domain = wanted.rpartition("@")
    domains = {domain.lower(), domain_key(domain)}
    if local:
        return or_(*(func.lower(column) == func.lower(local + "@" + one) for one in sorted(domains)))
    if wanted.startswith("@"):
        return or_(*(func.lower(column).endswith("@" + one, autoescape=True) for one in sorted(domains)))
    return func.lower(column) == func.lower(wanted)
