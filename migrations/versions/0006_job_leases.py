"""Workers renew the jobs that they name, not whatever the database holds for them.

An answer that was lost on its way leaves a job with a worker that does not know of it. As long as such a worker renewed
everything under its name, that job ran nowhere; now its lease runs out and another try begins. The former function
stays, for the kernels of the release before this one.

Revision ID: 0006
Revises: 0005

What stands here is frozen: statements are written out, nothing is imported from the package, so that this revision
makes the same database in every later release.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

RENEW = """
CREATE FUNCTION public.metacore_renew_jobs(worker text, jobs uuid[], lease double precision)
RETURNS TABLE (id uuid) LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $body$
  UPDATE public.metacore_jobs j SET leased_until = clock_timestamp() + make_interval(secs => lease)
  WHERE j.status = 'running' AND j.leased_by = worker AND j.id = ANY (jobs) RETURNING j.id
$body$"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(RENEW)
        op.execute("REVOKE ALL ON FUNCTION public.metacore_renew_jobs(text, uuid[], double precision) FROM PUBLIC")
