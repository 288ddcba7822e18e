"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_WAITING = sa.text("state = 'waiting'")
_ACTIVE = sa.text("state = 'active'")
_REPORT = sa.text("state = 'report'")
_WARNED = sa.text("warn IS NOT NULL AND state = 'waiting'")


def upgrade() -> None:
    op.create_table("mark", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "message",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("arrived", sa.Double, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("is_reportable", sa.Boolean, nullable=False),
        sa.Column("reverse_path", sa.Text),
        sa.Column("envelope", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "recipient",
        sa.Column("message", _ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("hop", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("tried", sa.Double, nullable=False),
        sa.Column("warn", sa.Double),
        sa.Column("notify", sa.Text, nullable=False),
        sa.Column("original", sa.Text, nullable=False),
        sa.Column("reply", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("action", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("token", sa.Text),
        sa.Column("lease", sa.Double),
        sa.PrimaryKeyConstraint("message", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "content",
        sa.Column("message", _ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("octets", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("message", "number"),
    )
    for name, columns, where in (
        ("recipient_due", ["hop", "due"], _WAITING),
        ("recipient_expires", ["expires"], _WAITING),
        ("recipient_lease", ["lease"], _ACTIVE),
        ("recipient_report", ["message"], _REPORT),
        ("recipient_warn", ["warn"], _WARNED),
    ):
        op.create_index(name, "recipient", columns, sqlite_where=where, postgresql_where=where)
