"""Violations of capabilities, and the mode that was asked for.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

INSTANT = sa.DateTime(timezone=True)

CURRENT_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')::uuid)"
NO_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')) IS NULL"

# Kernels write at the same time; the order keeps them from waiting for each other in a circle.
RECORD = """
CREATE FUNCTION public.metacore_record_violations(counts jsonb) RETURNS void LANGUAGE sql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $body$
  INSERT INTO public.metacore_violations AS v
    (organization_id, hour, addon_key, kind, target, caller, mode, forbidden, count, first_at, last_at)
  SELECT c.organization_id, to_timestamp(c.hour), c.addon_key, c.kind, c.target, c.caller, c.mode, c.forbidden,
    c.count, to_timestamp(c.first_at), to_timestamp(c.last_at)
  FROM jsonb_to_recordset(counts) AS c(organization_id uuid, hour bigint, addon_key text, kind text, target text,
    caller text, mode text, forbidden boolean, count bigint, first_at double precision, last_at double precision)
  ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
  ON CONFLICT ON CONSTRAINT pk_metacore_violations DO UPDATE SET
    count = v.count + excluded.count,
    first_at = least(v.first_at, excluded.first_at),
    last_at = greatest(v.last_at, excluded.last_at)
$body$
"""


def upgrade() -> None:
    op.create_table(
        "metacore_violations",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("hour", INSTANT, nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("caller", sa.String(length=128), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("forbidden", sa.Boolean(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_at", INSTANT, nullable=False),
        sa.Column("last_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint(
            "organization_id",
            "hour",
            "addon_key",
            "kind",
            "target",
            "caller",
            "mode",
            "forbidden",
            name="pk_metacore_violations",
        ),
    )
    op.create_index("ix_metacore_violations_addon_key_hour", "metacore_violations", ["addon_key", "hour"])
    op.create_table(
        "metacore_mode",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mode", sa.String(length=16), server_default="", nullable=False),
        sa.Column("changed_by", sa.String(length=320), server_default="", nullable=False),
        sa.Column("changed_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_mode"),
    )
    op.execute("INSERT INTO metacore_mode (id) VALUES (1)")
    if op.get_bind().dialect.name == "postgresql":
        _secure()


def _secure() -> None:
    mine = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE public.metacore_violations ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.metacore_violations FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY metacore_tenant ON public.metacore_violations TO PUBLIC USING ({mine}) WITH CHECK ({mine})"
    )
    op.execute(
        "CREATE POLICY metacore_owner ON public.metacore_violations TO CURRENT_USER"
        f" USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
    )
    op.execute(RECORD)
    op.execute("REVOKE ALL ON FUNCTION public.metacore_record_violations(jsonb) FROM PUBLIC")
