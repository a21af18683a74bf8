"""Runs migrations on the connection that data/store.py hands over."""

from __future__ import annotations

from alembic import context

from data.schema import metadata

connection = context.config.attributes["connection"]
# SQLite changes a table only by making it anew, hence batches.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
