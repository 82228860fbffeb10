"""Work of addons that nobody waits for: lifecycle handlers, schedules, subscriptions.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
NOW = sa.func.current_timestamp()

CURRENT_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')::uuid)"
NO_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')) IS NULL"

JOB_COLUMNS = """id uuid, organization_id uuid, addon_key text, digest text, kind text, name text, handler jsonb,
  payload jsonb, attempts integer, max_attempts integer, run_at timestamptz, every text, progress bigint,
  delivered integer"""

FUNCTIONS = {
    # What is due becomes pending, and what a dead worker held becomes pending again, or failed once it was tried often
    # enough. Then the pending jobs are ranked: each addon has its turns, and within it each organization, counting what
    # runs already. Only the first `batch` of that order are locked, so several workers take different ones.
    "metacore_claim_jobs(worker text, batch integer, share integer, lease double precision)": """
RETURNS TABLE (JOB_COLUMNS) LANGUAGE sql VOLATILE AS $body$
  UPDATE public.metacore_jobs j SET status = 'pending' WHERE j.id IN (
    SELECT w.id FROM public.metacore_jobs w WHERE w.status = 'waiting' AND w.run_at <= clock_timestamp()
    ORDER BY w.run_at LIMIT 1000 FOR UPDATE SKIP LOCKED);
  UPDATE public.metacore_jobs j SET leased_by = '', leased_until = NULL,
    status = CASE WHEN j.every = '' AND j.kind <> 'subscription' AND j.attempts >= j.max_attempts
      THEN 'failed' ELSE 'pending' END,
    finished_at = CASE WHEN j.every = '' AND j.kind <> 'subscription' AND j.attempts >= j.max_attempts
      THEN clock_timestamp() END,
    last_error = 'the kernel that ran it ended or hung'
  WHERE j.id IN (
    SELECT r.id FROM public.metacore_jobs r WHERE r.status = 'running' AND r.leased_until < clock_timestamp()
    FOR UPDATE SKIP LOCKED);
  WITH RECURSIVE groups (addon_key, organization_id) AS (
    (SELECT p.addon_key, p.organization_id FROM public.metacore_jobs p WHERE p.status = 'pending'
      ORDER BY p.addon_key, p.organization_id LIMIT 1)
    UNION ALL
    SELECT n.addon_key, n.organization_id FROM groups g CROSS JOIN LATERAL (
      SELECT p.addon_key, p.organization_id FROM public.metacore_jobs p
      WHERE p.status = 'pending' AND (p.addon_key, p.organization_id) > (g.addon_key, g.organization_id)
      ORDER BY p.addon_key, p.organization_id LIMIT 1) n
  ), busy AS MATERIALIZED (
    SELECT r.addon_key, r.organization_id, count(*) AS running, count(*) FILTER (WHERE r.leased_by = worker) AS here
    FROM public.metacore_jobs r WHERE r.status = 'running' GROUP BY r.addon_key, r.organization_id
  ), loaded AS (
    SELECT b.addon_key, sum(b.running) AS running, sum(b.here) AS here FROM busy b GROUP BY b.addon_key
  ), ranked AS (
    SELECT c.id, c.run_at, c.seq, c.addon_key,
      row_number() OVER (
        PARTITION BY c.addon_key ORDER BY c.round + coalesce(b.running, 0), c.run_at, c.seq) AS place
    FROM groups g CROSS JOIN LATERAL (
      SELECT p.id, p.run_at, p.seq, p.addon_key, p.organization_id,
        row_number() OVER (ORDER BY p.run_at, p.seq) AS round
      FROM public.metacore_jobs p
      WHERE p.status = 'pending' AND p.addon_key = g.addon_key AND p.organization_id = g.organization_id
        AND (p.lane = '' OR NOT EXISTS (
          SELECT FROM public.metacore_jobs e
          WHERE e.organization_id = p.organization_id AND e.addon_key = p.addon_key AND e.lane = p.lane
            AND e.seq < p.seq AND e.status IN ('waiting', 'pending', 'running')))
      ORDER BY p.run_at, p.seq LIMIT batch) c
    LEFT JOIN busy b ON b.addon_key = c.addon_key AND b.organization_id = c.organization_id
  ), turns AS MATERIALIZED (
    SELECT r.id, r.run_at, r.seq, r.place + coalesce(l.running, 0) AS turn FROM ranked r
    LEFT JOIN loaded l ON l.addon_key = r.addon_key WHERE r.place + coalesce(l.here, 0) <= share
  ), taken AS (
    SELECT j.id FROM turns t JOIN public.metacore_jobs j ON j.id = t.id WHERE j.status = 'pending'
    ORDER BY t.turn, t.run_at, t.seq LIMIT batch FOR UPDATE OF j SKIP LOCKED
  )
  UPDATE public.metacore_jobs j SET status = 'running', attempts = j.attempts + 1, leased_by = worker,
    leased_until = clock_timestamp() + make_interval(secs => lease), started_at = clock_timestamp(), wanted = false
  FROM taken k WHERE j.id = k.id
  RETURNING j.id, j.organization_id, j.addon_key, j.digest, j.kind, j.name, j.handler, j.payload, j.attempts,
    j.max_attempts, j.run_at, j.every, j.progress, j.delivered
$body$""",
    "metacore_renew_jobs(worker text, lease double precision)": """
RETURNS TABLE (id uuid) LANGUAGE sql VOLATILE AS $body$
  UPDATE public.metacore_jobs j SET leased_until = clock_timestamp() + make_interval(secs => lease)
  WHERE j.status = 'running' AND j.leased_by = worker RETURNING j.id
$body$""",
    "metacore_next_job()": """
RETURNS double precision LANGUAGE sql STABLE AS $body$
  SELECT extract(epoch FROM least(
    (SELECT clock_timestamp() FROM public.metacore_jobs p WHERE p.status = 'pending' LIMIT 1),
    (SELECT min(w.run_at) FROM public.metacore_jobs w WHERE w.status = 'waiting'),
    (SELECT min(r.leased_until) FROM public.metacore_jobs r WHERE r.status = 'running')
  ) - clock_timestamp())::double precision
$body$""",
    # The two arrays are pairs. A subscription that runs reads on by itself, and its next run is asked for all the same:
    # what it has read already may not hold the event that wakes it.
    "metacore_wake_subscriptions(addons text[], organizations uuid[])": """
RETURNS bigint LANGUAGE sql VOLATILE AS $body$
  WITH woken AS (
    UPDATE public.metacore_jobs j SET wanted = true,
      status = CASE WHEN j.status = 'idle' THEN 'pending' ELSE j.status END,
      run_at = CASE WHEN j.status = 'idle' THEN clock_timestamp() ELSE j.run_at END
    FROM unnest(addons, organizations) AS w (addon_key, organization_id)
    WHERE j.kind = 'subscription' AND j.status IN ('idle', 'running') AND NOT (j.wanted AND j.status = 'running')
      AND j.addon_key = w.addon_key AND j.organization_id = w.organization_id
    RETURNING j.id
  ) SELECT count(*) FROM woken
$body$""",
    "metacore_sweep_subscriptions()": """
RETURNS bigint LANGUAGE sql VOLATILE AS $body$
  WITH woken AS (
    UPDATE public.metacore_jobs j SET status = 'pending', run_at = clock_timestamp()
    FROM public.metacore_event_counters c
    WHERE j.kind = 'subscription' AND j.status = 'idle' AND c.organization_id = j.organization_id
      AND c.value > j.progress
    RETURNING j.id
  ) SELECT count(*) FROM woken
$body$""",
}

INDEXES = (
    ("ix_metacore_jobs_pending", ["addon_key", "organization_id", "run_at", "seq"], "status = 'pending'"),
    ("ix_metacore_jobs_waiting", ["run_at"], "status = 'waiting'"),
    ("ix_metacore_jobs_running", ["leased_until"], "status = 'running'"),
    ("ix_metacore_jobs_lane", ["organization_id", "addon_key", "lane", "seq"], "lane <> ''"),
    ("ix_metacore_jobs_subscriptions", ["addon_key", "organization_id"], "kind = 'subscription'"),
    ("ix_metacore_jobs_lifecycle", ["addon_key"], "kind = 'lifecycle' AND status <> 'done'"),
    ("ix_metacore_jobs_finished", ["finished_at"], "finished_at IS NOT NULL"),
    ("ix_metacore_jobs_organization_id_seq", ["organization_id", "seq"], ""),
)


# The planner cannot know how few rows are due, nor that row-level security lets the owner see all of them: it would
# sort the backlog once per addon and organization, where the index has it in order.
IN_INDEX_ORDER = "SET enable_bitmapscan = off SET enable_seqscan = off SET enable_sort = off"


def upgrade() -> None:
    op.create_table(
        "metacore_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("addon_key", sa.String(length=48), nullable=False),
        sa.Column("digest", sa.String(length=64), server_default="", nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("handler", DOCUMENT, server_default="{}", nullable=False),
        sa.Column("payload", DOCUMENT, server_default="{}", nullable=False),
        sa.Column("status", sa.String(length=16), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default="8", nullable=False),
        sa.Column("run_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("every", sa.String(length=200), server_default="", nullable=False),
        sa.Column("lane", sa.String(length=64), server_default="", nullable=False),
        sa.Column("dedup", sa.String(length=255), nullable=True),
        sa.Column("progress", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("delivered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("wanted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("leased_by", sa.String(length=128), server_default="", nullable=False),
        sa.Column("leased_until", INSTANT, nullable=True),
        sa.Column("last_error", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", INSTANT, server_default=NOW, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name="fk_metacore_jobs_organization_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_metacore_jobs"),
        sa.UniqueConstraint("id", name="uq_metacore_jobs_id"),
        sa.UniqueConstraint(
            "organization_id", "addon_key", "dedup", name="uq_metacore_jobs_organization_id_addon_key_dedup"
        ),
    )
    for name, columns, condition in INDEXES:
        op.create_index(name, "metacore_jobs", columns, postgresql_where=sa.text(condition) if condition else None)
    # How many runs of subscriptions led to an event: what an addon does because of an event must end somewhere.
    op.add_column("metacore_events", sa.Column("depth", sa.SmallInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        _secure()


def _secure() -> None:
    mine = f"organization_id = {CURRENT_ORGANIZATION}"
    op.execute("ALTER TABLE public.metacore_jobs ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.metacore_jobs FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY metacore_tenant ON public.metacore_jobs TO PUBLIC USING ({mine}) WITH CHECK ({mine})")
    op.execute(
        "CREATE POLICY metacore_owner ON public.metacore_jobs TO CURRENT_USER"
        f" USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
    )
    for signature, rest in FUNCTIONS.items():
        planner = f" {IN_INDEX_ORDER}" if signature.startswith("metacore_claim_jobs(") else ""
        security = f"SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp{planner} AS $body$"
        definition = rest.replace("JOB_COLUMNS", JOB_COLUMNS).replace("AS $body$", security)
        op.execute(f"CREATE FUNCTION public.{signature} {definition}")
        op.execute(f"REVOKE ALL ON FUNCTION public.{signature} FROM PUBLIC")
