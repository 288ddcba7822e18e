"""The tables of the queue, the same in SQLite and PostgreSQL. `migrations/` builds them.

A message is one row, with a row for each recipient and its content in rows of at most 256 KiB. Where a
state has a work list of its own (what is due, whose lease ran out, what is to be reported) a partial index holds
that list and nothing else: a recipient that is claimed at birth and delivered at once never enters the others.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    literal_column,
)
from sqlalchemy.sql.elements import ColumnElement

from relay.queue.states import State

VERSION = "0001"  # of the schema: the newest of migrations/versions

metadata = MetaData()

# Ids sort by time, and must in every locale of a server.
_ID = Text().with_variant(Text(collation="C"), "postgresql")

# A key-value table for the queue as a whole: CLEAN is "1" when the last supervisor stopped in order.
mark = Table("mark", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))
CLEAN = "clean"

message = Table(
    "message",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("arrived", Double, nullable=False),  # all times: seconds since the epoch
    Column("size", Integer, nullable=False),  # octets
    Column("is_reportable", Boolean, nullable=False),
    Column("reverse_path", Text),  # NULL is <>
    Column("envelope", Text, nullable=False),  # the rest of it, JSON: nothing is looked up by it
    sqlite_with_rowid=False,
)

# number: 1, 2, ... in the order of the envelope. owner, token, lease: of whoever has it ACTIVE, else NULL.
recipient = Table(
    "recipient",
    metadata,
    Column("message", _ID, nullable=False),
    Column("number", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("hop", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("due", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("tried", Double, nullable=False),
    Column("warn", Double),
    Column("notify", Text, nullable=False),
    Column("original", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("action", Text),
    Column("owner", Text),
    Column("token", Text),
    Column("lease", Double),
    PrimaryKeyConstraint("message", "number"),
    sqlite_with_rowid=False,
)

content = Table(
    "content",
    metadata,
    Column("message", _ID, nullable=False),
    Column("number", Integer, nullable=False),
    Column("octets", LargeBinary, nullable=False),
    PrimaryKeyConstraint("message", "number"),
)


def is_state(state: State) -> ColumnElement[bool]:
    """`state = 'waiting'`, written out: behind a parameter no planner would see that a partial index fits."""
    return recipient.c.state == literal_column(f"'{state.value}'", Text)


def _list(name: str, state: State, *columns: Column[object]) -> None:
    Index(name, *columns, sqlite_where=is_state(state), postgresql_where=is_state(state))


_list("recipient_due", State.WAITING, recipient.c.hop, recipient.c.due)
_list("recipient_expires", State.WAITING, recipient.c.expires)
_list("recipient_lease", State.ACTIVE, recipient.c.lease)
_list("recipient_report", State.REPORT, recipient.c.message)
_warned = recipient.c.warn.is_not(None) & is_state(State.WAITING)
Index("recipient_warn", recipient.c.warn, sqlite_where=_warned, postgresql_where=_warned)
