"""Credentials of connectors, and deliveries of webhooks that came in.

Revision ID: 0004
Revises: 0003

What stands here is frozen, as in 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
NOW = sa.func.current_timestamp()
INSTALLATION = ["metacore_installations.organization_id", "metacore_installations.addon_key"]

MINE = "organization_id = (select nullif(current_setting('app.current_org', true), '')::uuid)"
NO_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')) IS NULL"


def upgrade() -> None:
    op.create_table(
        "metacore_connectors",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("connector_key", sa.String(length=128), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("updated_by", sa.Uuid(), nullable=True),
        sa.Column("tested_at", INSTANT, nullable=True),
        sa.Column("test_error", sa.Text(), server_default="", nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "addon_key"],
            INSTALLATION,
            name="fk_metacore_connectors_organization_id_addon_key",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_connectors"),
        sa.UniqueConstraint(
            "organization_id",
            "addon_key",
            "connector_key",
            name="uq_metacore_connectors_organization_id_addon_key_connector_key",
        ),
    )
    op.create_table(
        "metacore_hook_deliveries",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("webhook_key", sa.String(length=128), nullable=False),
        sa.Column("delivery_id", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=16), server_default="running", nullable=False),
        sa.Column("reply", DOCUMENT, nullable=True),
        sa.Column("started_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "addon_key"],
            INSTALLATION,
            name="fk_metacore_hook_deliveries_organization_id_addon_key",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_hook_deliveries"),
        sa.UniqueConstraint(
            "organization_id", "addon_key", "webhook_key", "delivery_id", name="uq_metacore_hook_deliveries_delivery"
        ),
    )
    op.create_index(
        "ix_metacore_hook_deliveries_started_at", "metacore_hook_deliveries", ["organization_id", "started_at"]
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in ("metacore_connectors", "metacore_hook_deliveries"):
            _secure(table)


def _secure(table: str) -> None:
    op.execute(f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY metacore_tenant ON public.{table} TO PUBLIC USING ({MINE}) WITH CHECK ({MINE})")
    op.execute(
        f"CREATE POLICY metacore_owner ON public.{table} TO CURRENT_USER"
        f" USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
    )
