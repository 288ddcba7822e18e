"""The pieces that the queue's SQL is made of.

Statements are built once, when their module is loaded, and their values are always bound. Rows are locked in the
order of their key, so that nobody waits in a circle; SQLite knows no FOR UPDATE, and with one writer needs none.

What each message costs goes in few statements, and comes back in one row: with SQLite, Python's lock is given up for
each row, and a busy event loop may keep it for milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    Column,
    Connection,
    Delete,
    Dialect,
    Double,
    Insert,
    Integer,
    Table,
    Text,
    Update,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
)

from relay.queue.schema import content, message, recipient
from relay.queue.states import State

NOW = bindparam("now", type_=Double)
HOP = bindparam("hop", type_=Text)
LIMIT = bindparam("limit", type_=Integer)
OF_IDS = recipient.c.message.in_(bindparam("ids", expanding=True))
OF_KEY = (recipient.c.message == bindparam("of_message")) & (recipient.c.number == bindparam("of_number"))
IN_ORDER = (recipient.c.message, recipient.c.number)

INSERTED_AT_ONCE = 16  # rows; pieces of content come to 4 MiB
TEXTS = 64  # of each kind that are kept

_SPACE, _NOTHING = literal_column("' '", Text), literal_column("''", Text)
_LINE = recipient.c.message + _SPACE + cast(recipient.c.number, Text) + _SPACE + recipient.c.state
_LINE = (_LINE + _SPACE + func.coalesce(recipient.c.token, _NOTHING)).label("line")
_OWNERS = (content.c.message, recipient.c.message, message.c.id)  # of all that belongs to a message


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


def insert_all(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, each with a value for every column of `table`: as many at once as a power of two has."""
    names, at = table.columns.keys(), 0
    while at < len(rows):
        count = min(INSERTED_AT_ONCE, 1 << (len(rows) - at).bit_length() - 1)
        values = tuple(row[name] for row in rows[at : at + count] for name in names)
        connection.exec_driver_sql(_insert_text(table, count, connection.dialect), values)
        at += count


def padded(ids: Iterable[str]) -> list[str]:
    """The ids, the last of them repeated up to a power of two: so that few statements have to be prepared."""
    listed = list(ids)
    return listed + listed[-1:] * ((1 << (len(listed) - 1).bit_length()) - len(listed))


def lock(connection: Connection, ids: Iterable[str]) -> tuple[dict[Key, State], dict[Key, str | None]]:
    """All recipients of these messages, DONE ones too, locked: their states, and the tokens of claims."""
    states, tokens, values = {}, {}, tuple(padded(ids))
    found = connection.exec_driver_sql(_lock_text(len(values), connection.dialect), values).scalar()
    for line in (found or "").splitlines():
        id, number, state, token = line.split(" ", 3)
        key = Key(id, int(number))
        states[key], tokens[key] = State(state), token or None
    return states, tokens


def done(states: dict[Key, State]) -> set[str]:
    """The messages of which every recipient is DONE. states: of all recipients of some messages."""
    return {key.message for key in states} - {key.message for key, state in states.items() if state is not State.DONE}


def forget(connection: Connection, ids: Collection[str]) -> None:
    """Delete messages, their recipients and their content."""
    values = tuple(padded(ids)) if ids else ()
    for column in _OWNERS if values else ():
        connection.exec_driver_sql(_delete_text(column, len(values), connection.dialect), values)


# --- texts of statements, made once: SQLAlchemy would spend more on each than the database does ---


@lru_cache(maxsize=TEXTS)
def _insert_text(table: Table, count: int, dialect: Dialect) -> str:
    """It takes the values of the first row in the order of the columns, then those of the next."""
    none = dict.fromkeys(table.columns.keys())
    return str(insert(table).values([none] * count).compile(dialect=dialect))


@lru_cache(maxsize=TEXTS)
def _lock_text(count: int, dialect: Dialect) -> str:
    """It takes ids."""
    locked = select(_LINE).where(recipient.c.message.in_(_unnamed(count))).order_by(*IN_ORDER).with_for_update()
    lines = select(func.aggregate_strings(locked.subquery().c.line, "\n"))
    return str(
        lines.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    )  # the line's end written out


@lru_cache(maxsize=TEXTS)
def _delete_text(column: Column[str], count: int, dialect: Dialect) -> str:
    """It takes ids."""
    return str(delete(column.table).where(column.in_(_unnamed(count))).compile(dialect=dialect))


def _unnamed(count: int) -> list[BindParameter[str]]:
    return [bindparam(None, "", Text) for _ in range(count)]
