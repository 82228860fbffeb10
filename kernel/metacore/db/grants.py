"""What the kernel role may do: on the kernel's own tables, exactly this; on an addon's tables, rows but no DDL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metacore.db.definers import DEFINERS
from metacore.db.rls import quoted

VERSION_TABLE = "metacore_schema_version"

ALL = ("*",)
NONE: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Column names per verb; `*` is the whole table, nothing means not at all. DELETE has no columns."""

    select: Sequence[str] = NONE
    insert: Sequence[str] = NONE
    update: Sequence[str] = NONE
    delete: bool = False


READ = Grant(select=ALL)
READ_AND_WRITE = Grant(select=ALL, insert=ALL, update=ALL)
EVERYTHING = Grant(select=ALL, insert=ALL, update=ALL, delete=True)

INSTALLATION_COLUMNS = (
    "id",
    "organization_id",
    "addon_key",
    "version",
    "status",
    "source",
    "settings",
    "installed_at",
    "enabled_at",
    "disabled_at",
    "created_at",
    "updated_at",
)

GUEST_COLUMNS: Mapping[str, Sequence[str]] = {
    "users": ("id", "organization_id", "name", "email", "role", "status", "last_login_at", "created_at", "updated_at"),
}
"""The kernel's tables that an addon's guests may read when it was granted, and the columns that they see then."""

KERNEL_GRANTS: Mapping[str, Grant] = {
    VERSION_TABLE: READ,
    "organizations": READ_AND_WRITE,
    "users": READ_AND_WRITE,
    "auth_sessions": READ_AND_WRITE,
    "auth_refresh_tokens": READ_AND_WRITE,
    "permission_role_grants": EVERYTHING,
    "permission_user_grants": EVERYTHING,
    "metacore_bundles": READ,
    "metacore_registry": READ,
    "metacore_addons": READ,
    "metacore_addon_models": READ,
    "metacore_schemas": READ,
    "metacore_epochs": Grant(select=ALL, update=ALL),
    "metacore_heartbeats": EVERYTHING,
    # Written by a definer function: one batch holds violations of many organizations.
    "metacore_violations": READ,
    "metacore_mode": Grant(select=ALL, update=("mode", "changed_by", "changed_at")),
    # Who reads the secret of a new installation takes it out of the row.
    "metacore_requests": Grant(select=ALL, insert=ALL, update=("sealed_result",)),
    "metacore_events": Grant(select=ALL, insert=ALL),
    "metacore_jobs": EVERYTHING,
    # secret_enc is sealed with the master key, and signs calls to the addon's backend; nobody needs secret_hash.
    "metacore_installations": Grant(select=(*INSTALLATION_COLUMNS, "secret_enc"), update=("settings", "updated_at")),
    "metacore_sequences": READ_AND_WRITE,
    "metacore_connectors": EVERYTHING,
    "metacore_hook_deliveries": EVERYTHING,
    "metacore_addon_migrations": Grant(),
    "metacore_event_counters": Grant(),
    "metacore_journal": Grant(),
}
"""Every table of the kernel. Rows of other organizations stay hidden by policy, whatever stands here."""


def kernel_grants(kernel_role: str) -> list[str]:
    """Statements that leave `kernel_role` with `KERNEL_GRANTS` and the definer functions, and with nothing else."""
    role = quoted(kernel_role)
    statements = ["REVOKE CREATE ON SCHEMA public FROM PUBLIC", f"GRANT USAGE ON SCHEMA public TO {role}"]
    for table, grant in KERNEL_GRANTS.items():
        target = f"public.{quoted(table)}"
        # This takes back column privileges too.
        statements.append(f"REVOKE ALL ON TABLE {target} FROM PUBLIC, {role}")
        verbs = [
            _verb("SELECT", grant.select),
            _verb("INSERT", grant.insert),
            _verb("UPDATE", grant.update),
            "DELETE" if grant.delete else "",
        ]
        if any(verbs):
            statements.append(f"GRANT {', '.join(verb for verb in verbs if verb)} ON TABLE {target} TO {role}")
    for definer in DEFINERS:
        statements.append(f"REVOKE ALL ON FUNCTION public.{definer.signature} FROM PUBLIC")
        statements.append(f"GRANT EXECUTE ON FUNCTION public.{definer.signature} TO {role}")
    return statements


def addon_grants(schema: str, table: str, kernel_role: str) -> list[str]:
    """Statements that let `kernel_role` read and write rows of one addon table, and number them by its sequences."""
    role = quoted(kernel_role)
    return [
        f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {quoted(schema)}.{quoted(table)} TO {role}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {quoted(schema)} TO {role}",
    ]


def _verb(verb: str, columns: Sequence[str]) -> str:
    if not columns:
        return ""
    return verb if tuple(columns) == ALL else f"{verb} ({', '.join(quoted(column) for column in columns)})"
