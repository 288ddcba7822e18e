"""Run by alembic: the steps go over the connection that `relay/queue/migrate.py` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from relay.queue.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
