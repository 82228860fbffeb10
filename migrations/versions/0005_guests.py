"""What guests need in the database: sequences, and the roles that their SQL runs as.

Revision ID: 0005
Revises: 0004

What stands here is frozen: statements are written out, nothing is imported from the package, so that this revision
makes the same database in every later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

CURRENT_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')::uuid)"
NO_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')) IS NULL"


def upgrade() -> None:
    op.create_table(
        "metacore_sequences",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("model_key", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=255), server_default="", nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "organization_id", "addon_key", "model_key", "key", "scope", name="pk_metacore_sequences"
        ),
    )
    if op.get_bind().dialect.name == "postgresql":
        _secure("metacore_sequences")


def _secure(table: str) -> None:
    mine = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute(f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY metacore_tenant ON public.{table} TO PUBLIC USING ({mine}) WITH CHECK ({mine})")
    op.execute(
        f"CREATE POLICY metacore_owner ON public.{table} TO CURRENT_USER"
        f" USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
    )
