"""Alembic's folder: `env` joins it to the connection of an engine, `versions` are the steps from schema to schema."""
