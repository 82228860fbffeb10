"""How alembic reaches the database: over the connection that `metacore.db.migrate` hands in."""

from __future__ import annotations

from alembic import context

configuration = context.config
connection = configuration.attributes.get("connection")

if connection is None:
    raise SystemExit("run migrations with `metacore migrate`: it takes the lock and gives the kernel role its rights")

context.configure(
    connection=connection,
    version_table=configuration.attributes["version_table"],
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
