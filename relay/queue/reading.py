"""What is read of the queue, and the mark of a clean stop: operations like those of `operations.py`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, text, update

from relay.queue import rows
from relay.queue.entry import Queued
from relay.queue.schema import CLEAN, content, is_state, mark, message, recipient
from relay.queue.statements import HOP, padded
from relay.queue.states import State

MESSAGES = select(message).where(message.c.id.in_(bindparam("ids", expanding=True)))
_FIND = select(recipient).where(recipient.c.message == bindparam("id")).order_by(recipient.c.number)
_SIZE = select(message.c.size).where(message.c.id == bindparam("id"))
_PIECE = select(content.c.octets)
_PIECE = _PIECE.where(content.c.message == bindparam("id"), content.c.number == bindparam("number"))
_SMALL = select(content.c.message, content.c.octets).join(message, message.c.id == content.c.message)
_SMALL = _SMALL.where(content.c.message.in_(bindparam("ids", expanding=True)), content.c.number == 1)
_SMALL = _SMALL.where(message.c.size == func.length(content.c.octets))
_NEXT = select(recipient.c.due).where(is_state(State.WAITING), recipient.c.hop == HOP)
_NEXT = _NEXT.order_by(recipient.c.due).limit(1)
_MARK = select(mark.c.value).where(mark.c.name == CLEAN)
_INSERT_MARK = insert(mark)
_UPDATE_MARK = update(mark).where(mark.c.name == CLEAN).values(value=bindparam("now_value"))


def load(connection: Connection, found: Sequence[RowMapping]) -> tuple[Queued, ...]:
    """The messages of rows of recipients that are in the order of their key."""
    if not found:
        return ()
    ids = dict.fromkeys(row["message"] for row in found)
    messages = {row["id"]: row for row in connection.execute(MESSAGES, {"ids": padded(ids)}).mappings()}
    return tuple(
        rows.queued(messages[id], map(rows.recipient, group))
        for id, group in groupby(found, key=lambda row: row["message"])
    )


def find(connection: Connection, now: float, id: str) -> Queued | None:
    """A message with all its recipients, those that are DONE too."""
    found = load(connection, connection.execute(_FIND, {"id": id}).mappings().all())
    return found[0] if found else None


def whole(connection: Connection, now: float, id: str) -> bytearray | None:
    """The octets of a message, one piece after the other; None if it, or a part of it, is not there."""
    size = connection.scalar(_SIZE, {"id": id})
    if size is None:
        return None
    octets, at, number = bytearray(size), 0, 1
    while (piece := connection.scalar(_PIECE, {"id": id, "number": number})) is not None:
        if at + len(piece) > size:
            return None
        octets[at : at + len(piece)] = piece
        at, number = at + len(piece), number + 1
    return octets if number > 1 and at == size else None


def small(connection: Connection, now: float, ids: Collection[str]) -> dict[str, bytes]:
    """The octets of those messages that are one piece."""
    return {id: bytes(octets) for id, octets in connection.execute(_SMALL, {"ids": padded(ids)})}


def due_in(connection: Connection, now: float, hops: Collection[str]) -> float | None:
    """Seconds until the next recipient of these hops is due, 0.0 or less when one is."""
    found = (connection.scalar(_NEXT, {"hop": hop}) for hop in hops)
    return min((due - now for due in found if due is not None), default=None)


def was_clean(connection: Connection, now: float) -> bool:
    """Whether the last supervisor stopped in order, or there was none."""
    return connection.scalar(_MARK) in ("1", None)


def set_clean(connection: Connection, now: float, clean: bool) -> None:
    value = str(int(clean))
    if connection.execute(_UPDATE_MARK, {"now_value": value}).rowcount == 0:
        connection.execute(_INSERT_MARK, {"name": CLEAN, "value": value})


def damage(connection: Connection, now: float) -> str:
    """What SQLite finds wrong in the tables that say what there is, or "".

    The content is left out: to read some gigabytes would keep mail waiting. Each piece is checked when it is read.
    """
    found = []
    for check in (text("PRAGMA integrity_check('message')"), text("PRAGMA integrity_check('recipient')")):
        found += [line for line in connection.scalars(check) if line != "ok"]
    return "; ".join(found[:3])
