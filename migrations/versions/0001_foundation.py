"""The kernel's own tables, their row-level security and the functions that look across organizations.

Revision ID: 0001
Revises:

What stands here is frozen: statements are written out, nothing is imported from the package, so that this revision
makes the same database in every later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
NOW = sa.func.current_timestamp()

TENANT_TABLES = {
    "organizations": "id",
    "users": "organization_id",
    "auth_sessions": "organization_id",
    "auth_refresh_tokens": "organization_id",
    "permission_role_grants": "organization_id",
    "permission_user_grants": "organization_id",
    "metacore_installations": "organization_id",
    "metacore_requests": "organization_id",
    "metacore_schemas": "organization_id",
    "metacore_events": "organization_id",
    "metacore_event_counters": "organization_id",
}

CURRENT_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')::uuid)"
NO_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')) IS NULL"

EVENT_COLUMNS = """"position" bigint, organization_id uuid, sequence_num bigint, id bigint, addon_key text,
  event_type text, tags jsonb, data jsonb, actor_id uuid, created_at timestamptz"""

FUNCTIONS = {
    "metacore_login(email text)": """
RETURNS TABLE (id uuid, organization_id uuid, name text, email text, password_hash text, role text, status text,
  token_epoch integer) LANGUAGE sql STABLE AS $body$
  SELECT u.id, u.organization_id, u.name, u.email, u.password_hash, u.role, u.status, u.token_epoch
  FROM public.users u WHERE u.email = lower(metacore_login.email)
$body$""",
    "metacore_refresh(token_hash text)": """
RETURNS TABLE (token_id uuid, session_id uuid, organization_id uuid, user_id uuid, expires_at timestamptz,
  used_at timestamptz, session_revoked_at timestamptz, session_expires_at timestamptz) LANGUAGE sql STABLE AS $body$
  SELECT t.id, s.id, s.organization_id, s.user_id, t.expires_at, t.used_at, s.revoked_at, s.expires_at
  FROM public.auth_refresh_tokens t JOIN public.auth_sessions s ON s.id = t.session_id
  WHERE t.token_hash = metacore_refresh.token_hash
$body$""",
    "metacore_installed()": """
RETURNS TABLE (organization_id uuid, id uuid, addon_key text, version text, status text, source text)
LANGUAGE sql STABLE AS $body$
  SELECT i.organization_id, i.id, i.addon_key, i.version, i.status, i.source FROM public.metacore_installations i
$body$""",
    # The lock makes callers take turns until the end of their transactions, and the second statement sees what the
    # caller before committed. Ids are given before commit, so a lower id may show up later: it gets the next number
    # then. The counter of the nil organization is the position over all.
    "metacore_number_events(batch integer)": """
RETURNS TABLE (EVENT_COLUMNS) LANGUAGE sql VOLATILE AS $body$
  SELECT pg_advisory_xact_lock(hashtext('metacore_number_events'));
  WITH unnumbered AS (
    SELECT e.id, e.organization_id FROM public.metacore_events e
    WHERE e.position IS NULL ORDER BY e.id LIMIT batch
  ), picked AS (
    SELECT u.id, u.organization_id,
      count(*) OVER () - row_number() OVER (ORDER BY u.id) AS back,
      count(*) OVER (PARTITION BY u.organization_id)
        - row_number() OVER (PARTITION BY u.organization_id ORDER BY u.id) AS own_back
    FROM unnumbered u
  ), counted AS (
    INSERT INTO public.metacore_event_counters AS c (organization_id, value)
    SELECT p.organization_id, count(*) FROM picked p GROUP BY p.organization_id
    UNION ALL SELECT '00000000-0000-0000-0000-000000000000'::uuid, count(*) FROM picked HAVING count(*) > 0
    ON CONFLICT ON CONSTRAINT pk_metacore_event_counters DO UPDATE SET value = c.value + excluded.value
    RETURNING c.organization_id, c.value
  ), numbered AS (
    UPDATE public.metacore_events e SET position = whole.value - p.back, sequence_num = own.value - p.own_back
    FROM picked p JOIN counted own ON own.organization_id = p.organization_id
      JOIN counted whole ON whole.organization_id = '00000000-0000-0000-0000-000000000000'::uuid
    WHERE e.id = p.id
    RETURNING e.position, e.organization_id, e.sequence_num, e.id, e.addon_key, e.event_type, e.tags, e.data,
      e.actor_id, e.created_at
  )
  SELECT n.* FROM numbered n ORDER BY n.position
$body$""",
    "metacore_events_after(after bigint, batch integer)": """
RETURNS TABLE (EVENT_COLUMNS) LANGUAGE sql STABLE AS $body$
  SELECT e.position, e.organization_id, e.sequence_num, e.id, e.addon_key, e.event_type, e.tags, e.data,
    e.actor_id, e.created_at
  FROM public.metacore_events e
  WHERE e.position > metacore_events_after.after ORDER BY e.position LIMIT batch
$body$""",
}


def upgrade() -> None:
    _create_tables()
    op.execute("INSERT INTO metacore_registry (id, revision) VALUES (1, 0)")
    op.execute("INSERT INTO metacore_epochs (name, value) VALUES ('auth', 0), ('permissions', 0)")
    if op.get_bind().dialect.name == "postgresql":
        _secure()


def _secure() -> None:
    for table, column in TENANT_TABLES.items():
        mine = f"{column} = {CURRENT_ORGANIZATION}"
        op.execute(f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY metacore_tenant ON public.{table} TO PUBLIC USING ({mine}) WITH CHECK ({mine})")
        op.execute(
            f"CREATE POLICY metacore_owner ON public.{table} TO CURRENT_USER"
            f" USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
        )
    # A shared addon's schema is nobody's; everybody may know of it.
    op.execute(
        "CREATE POLICY metacore_shared ON public.metacore_schemas FOR SELECT TO PUBLIC USING (organization_id IS NULL)"
    )
    for signature, rest in FUNCTIONS.items():
        security = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $body$"
        definition = rest.replace("EVENT_COLUMNS", EVENT_COLUMNS).replace("AS $body$", security)
        op.execute(f"CREATE FUNCTION public.{signature} {definition}")
        op.execute(f"REVOKE ALL ON FUNCTION public.{signature} FROM PUBLIC")


def _create_tables() -> None:
    op.create_table(
        "metacore_addon_migrations",
        sa.Column("schema", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=160), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("applied_at", INSTANT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("schema", "version", name="pk_metacore_addon_migrations"),
    )
    op.create_index("ix_metacore_addon_migrations_addon_key", "metacore_addon_migrations", ["addon_key"])
    op.create_table(
        "metacore_bundles",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("signature", DOCUMENT, nullable=True),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_metacore_bundles"),
    )
    op.create_index("ix_metacore_bundles_addon_key", "metacore_bundles", ["addon_key"])
    op.create_table(
        "metacore_epochs",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_metacore_epochs"),
    )
    op.create_table(
        "metacore_event_counters",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name="pk_metacore_event_counters"),
    )
    op.create_table(
        "metacore_events",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("sequence_num", sa.BigInteger(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=False),
        sa.Column("tags", DOCUMENT, server_default="[]", nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_events"),
        sa.UniqueConstraint("organization_id", "sequence_num", name="uq_metacore_events_organization_id_sequence_num"),
        sa.UniqueConstraint("position", name="uq_metacore_events_position"),
    )
    op.create_index(
        "ix_metacore_events_unnumbered", "metacore_events", ["id"], postgresql_where=sa.text("position IS NULL")
    )
    op.create_table(
        "metacore_heartbeats",
        sa.Column("pod", sa.String(length=128), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("build", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("addons", DOCUMENT, server_default="{}", nullable=False),
        sa.Column("started_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("seen_at", INSTANT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("pod", name="pk_metacore_heartbeats"),
    )
    op.create_table(
        "metacore_journal",
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("step", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("started_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("addon_key", "attempt", "position", name="pk_metacore_journal"),
    )
    op.create_table(
        "metacore_registry",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_registry"),
    )
    op.create_table(
        "metacore_schemas",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_metacore_schemas"),
    )
    op.create_index("ix_metacore_schemas_addon_key", "metacore_schemas", ["addon_key"])
    op.create_table(
        "organizations",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("validators", DOCUMENT, server_default="{}", nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
    )
    op.create_table(
        "metacore_addons",
        sa.Column("key", sa.String(length=48), nullable=False),
        sa.Column("owner_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("version", sa.String(length=64), server_default="", nullable=False),
        sa.Column("signer", sa.String(length=255), server_default="", nullable=False),
        sa.Column("source", sa.String(length=16), server_default="bundle", nullable=False),
        sa.Column("mode", sa.String(length=16), server_default="inherit", nullable=False),
        sa.Column("grants", DOCUMENT, server_default="[]", nullable=False),
        sa.Column("fenced_reason", sa.String(length=64), server_default="", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("schema_revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["metacore_bundles.digest"], name="fk_metacore_addons_digest"),
        sa.PrimaryKeyConstraint("key", name="pk_metacore_addons"),
    )
    op.create_table(
        "metacore_installations",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), server_default="enabled", nullable=False),
        sa.Column("source", sa.String(length=16), server_default="bundle", nullable=False),
        sa.Column("secret_hash", sa.String(length=80), server_default="", nullable=False),
        sa.Column("secret_enc", sa.Text(), server_default="", nullable=False),
        sa.Column("settings", DOCUMENT, server_default="{}", nullable=False),
        sa.Column("installed_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("enabled_at", INSTANT, nullable=True),
        sa.Column("disabled_at", INSTANT, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_metacore_installations_organization_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_installations"),
        sa.UniqueConstraint("organization_id", "addon_key", name="uq_metacore_installations_organization_id_addon_key"),
    )
    op.create_index("ix_metacore_installations_addon_key", "metacore_installations", ["addon_key"])
    op.create_table(
        "metacore_requests",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=True),
        sa.Column("signature", DOCUMENT, nullable=True),
        sa.Column("arguments", DOCUMENT, server_default="{}", nullable=False),
        sa.Column("status", sa.String(length=16), server_default="pending", nullable=False),
        sa.Column("result", DOCUMENT, nullable=True),
        sa.Column("sealed_result", sa.Text(), server_default="", nullable=False),
        sa.Column("error_code", sa.String(length=64), server_default="", nullable=False),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("claimed_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name="fk_metacore_requests_organization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_metacore_requests"),
    )
    op.create_index("ix_metacore_requests_organization_id", "metacore_requests", ["organization_id"])
    op.create_index("ix_metacore_requests_status_created_at", "metacore_requests", ["status", "created_at"])
    op.create_table(
        "permission_role_grants",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("capability", sa.String(length=160), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_permission_role_grants_organization_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_permission_role_grants"),
        sa.UniqueConstraint(
            "organization_id", "role", "capability", name="uq_permission_role_grants_organization_id_role_capability"
        ),
    )
    op.create_table(
        "users",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), server_default="active", nullable=False),
        sa.Column("token_epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_login_at", INSTANT, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name="fk_users_organization_id"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_index("ix_users_organization_id", "users", ["organization_id"])
    op.create_table(
        "auth_sessions",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("revoked_reason", sa.String(length=32), server_default="", nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name="fk_auth_sessions_organization_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_auth_sessions_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_auth_sessions"),
    )
    op.create_index("ix_auth_sessions_organization_id", "auth_sessions", ["organization_id"])
    op.create_index("ix_auth_sessions_user_id", "auth_sessions", ["user_id"])
    op.create_table(
        "metacore_addon_models",
        sa.Column("model_key", sa.String(length=64), nullable=False),
        sa.Column("table_name", sa.String(length=64), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.ForeignKeyConstraint(
            ["addon_key"], ["metacore_addons.key"], name="fk_metacore_addon_models_addon_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_key", name="pk_metacore_addon_models"),
        sa.UniqueConstraint("table_name", name="uq_metacore_addon_models_table_name"),
    )
    op.create_index("ix_metacore_addon_models_addon_key", "metacore_addon_models", ["addon_key"])
    op.create_table(
        "permission_user_grants",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("capability", sa.String(length=160), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_permission_user_grants_organization_id"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_permission_user_grants_user_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_permission_user_grants"),
        sa.UniqueConstraint(
            "organization_id",
            "user_id",
            "capability",
            name="uq_permission_user_grants_organization_id_user_id_capability",
        ),
    )
    op.create_index("ix_permission_user_grants_user_id", "permission_user_grants", ["user_id"])
    op.create_table(
        "auth_refresh_tokens",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("used_at", INSTANT, nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_auth_refresh_tokens_organization_id"
        ),
        sa.ForeignKeyConstraint(
            ["session_id"], ["auth_sessions.id"], name="fk_auth_refresh_tokens_session_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_auth_refresh_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_auth_refresh_tokens_token_hash"),
    )
    op.create_index("ix_auth_refresh_tokens_organization_id", "auth_refresh_tokens", ["organization_id"])
    op.create_index("ix_auth_refresh_tokens_session_id", "auth_refresh_tokens", ["session_id"])
