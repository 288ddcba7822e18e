"""The database's schema, brought to the one this relay knows. Alembic is loaded only where there is a step to go."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from relay.errors import ConfigError, Problem
from relay.queue.schema import VERSION

_FOLDER = Path(__file__).parent / "migrations"
_VERSION = text("SELECT version_num FROM alembic_version")


def migrate(connection: Connection, source: str) -> None:
    """Take the steps that are missing, in the transaction of `connection`; nobody else may be at it.

    source: what a ConfigError names: the tables are another program's, or a newer relay's.
    """
    tables = inspect(connection).get_table_names()
    found = connection.scalar(_VERSION) if "alembic_version" in tables else None
    if found == VERSION:
        return
    if found is None and tables:
        raise ConfigError(Problem(source, "", "the queue cannot be opened: it is a database of another program"))
    if found is not None and found > VERSION:
        raise ConfigError(Problem(source, "", "the queue cannot be opened: it was written by a newer relay"))
    from alembic.command import upgrade
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    upgrade(config, "head")
