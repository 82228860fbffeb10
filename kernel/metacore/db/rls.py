"""Row-level security: the two policies that every tenant table carries."""

from __future__ import annotations

from collections.abc import Sequence

TENANT_POLICY = "metacore_tenant"
OWNER_POLICY = "metacore_owner"

CURRENT_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')::uuid)"
"""After a transaction PostgreSQL gives a custom setting back as '', not null: the bare cast would raise then. The
scalar subselect makes the planner evaluate it once per statement instead of once per row."""

NO_ORGANIZATION = "(select nullif(current_setting('app.current_org', true), '')) IS NULL"
"""What an owner's policy asks for: it sees all rows until it says for which organization it works. So a program that
embeds the kernel with one role for everything is still held by the tenant policy in every request."""


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def tenant_policies(
    schema: str, table: str, *, column: str = "organization_id", owner_roles: Sequence[str]
) -> list[str]:
    """Statements that let everybody see and write the rows of `app.current_org` only, and `owner_roles` all rows while
    that is not set.

    The tenant policy is for PUBLIC, so every role that will ever exist is held by it. Policies are OR-ed, so the
    owners keep their own; without it FORCE would hide every row from a migration's backfill. Running them again
    gives the same result.
    """
    target = f"{quoted(schema)}.{quoted(table)}"
    mine = f"{quoted(column)} = {CURRENT_ORGANIZATION}"
    statements = [
        f"ALTER TABLE {target} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {target} FORCE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS {TENANT_POLICY} ON {target}",
        f"CREATE POLICY {TENANT_POLICY} ON {target} TO PUBLIC USING ({mine}) WITH CHECK ({mine})",
        f"DROP POLICY IF EXISTS {OWNER_POLICY} ON {target}",
    ]
    if owner_roles:
        owners = ", ".join(quoted(role) for role in owner_roles)
        rule = f"USING ({NO_ORGANIZATION}) WITH CHECK ({NO_ORGANIZATION})"
        statements.append(f"CREATE POLICY {OWNER_POLICY} ON {target} TO {owners} {rule}")
    return statements
