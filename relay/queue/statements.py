"""The pieces that the queue's SQL is made of.

Statements are built once, when their module is loaded, and their values are always bound. Rows are locked in the
order of their key, so that nobody waits in a circle; SQLite knows no FOR UPDATE, and with one writer needs none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Delete, Double, Insert, Integer, Text, Update, bindparam, delete, select

from relay.queue.schema import content, message, recipient
from relay.queue.states import State

NOW = bindparam("now", type_=Double)
HOP = bindparam("hop", type_=Text)
LIMIT = bindparam("limit", type_=Integer)
OF_IDS = recipient.c.message.in_(bindparam("ids", expanding=True))
OF_KEY = (recipient.c.message == bindparam("of_message")) & (recipient.c.number == bindparam("of_number"))
IN_ORDER = (recipient.c.message, recipient.c.number)

_STATES = select(recipient.c.message, recipient.c.number, recipient.c.state, recipient.c.token)
_STATES = _STATES.where(OF_IDS).order_by(*IN_ORDER).with_for_update()
_FORGET = tuple(
    delete(table).where(column.in_(bindparam("ids", expanding=True)))
    for table, column in ((content, content.c.message), (recipient, recipient.c.message), (message, message.c.id))
)


class Key(NamedTuple):
    """Of a recipient."""

    message: str
    number: int

    @property
    def values(self) -> dict[str, Any]:
        """For OF_KEY."""
        return {"of_message": self.message, "of_number": self.number}


def execute_many(connection: Connection, statement: Insert | Update | Delete, values: Sequence[dict[str, Any]]) -> None:
    """Once for each of `values`, of which there may be none."""
    if values:
        connection.execute(statement, values)


def padded(ids: Iterable[str]) -> list[str]:
    """The ids, the last of them repeated up to a power of two: so that few statements have to be prepared."""
    listed = list(ids)
    return listed + listed[-1:] * ((1 << (len(listed) - 1).bit_length()) - len(listed))


def lock(connection: Connection, ids: Iterable[str]) -> tuple[dict[Key, State], dict[Key, str | None]]:
    """All recipients of these messages, DONE ones too, locked: their states, and the tokens of claims."""
    states, tokens = {}, {}
    for id, number, state, token in connection.execute(_STATES, {"ids": padded(ids)}):
        key = Key(id, number)
        states[key], tokens[key] = State(state), token
    return states, tokens


def done(states: dict[Key, State]) -> set[str]:
    """The messages of which every recipient is DONE. states: of all recipients of some messages."""
    return {key.message for key in states} - {key.message for key, state in states.items() if state is not State.DONE}


def forget(connection: Connection, ids: Collection[str]) -> None:
    """Delete messages, their recipients and their content."""
    for statement in _FORGET if ids else ():
        connection.execute(statement, {"ids": padded(ids)})
