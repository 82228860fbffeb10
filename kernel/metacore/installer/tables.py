"""What one table needs, from what was declared and what is there. Pure, and additive only: nothing is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from metacore.db.catalog import StoredColumn, StoredTable
from metacore.db.rls import OWNER_POLICY, TENANT_POLICY
from metacore.errors import Problem
from metacore.installer import ddl
from metacore.installer.column_types import Fit, fit, spelled
from metacore.installer.ddl import Place
from metacore.installer.steps import Risk, RiskKind
from metacore.manifest.model import Column, ColumnType, ModelDefinition


@dataclass(frozen=True, slots=True)
class Frame:
    """What all tables of one schema have in common.

    `shared` is whether rows of several organizations live in it. `role` is the addon's own role, which owns the tables,
    or ''. `tenant_column` is the manifest's `rls_column` or '': it stands in where a table of a migration has no
    `organization_id`. `by_migrations` are the tables that the addon's SQL takes care of itself.
    """

    schema: str
    shared: bool
    owner_roles: Sequence[str] = ()
    role: str = ""
    kernel_role: str = ""
    tenant_column: str = ""
    by_migrations: frozenset[str] = frozenset()


@dataclass
class TableWork:
    """Statements for one table, in order; `problems` mean that the plan as a whole is refused."""

    statements: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    risks: list[Risk] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan_table(model: ModelDefinition, place: Place, stored: StoredTable | None, frame: Frame) -> TableWork:
    """Make the table of `model`, or add what it lacks."""
    scoped = frame.shared or model.org_scoped
    columns = ddl.wanted_columns(model, scoped=scoped)
    work = TableWork()
    if stored is None:
        if not model.declared:
            work.problems.append(
                Problem(place.table, "unknown_table", f"model {model.key!r} is only listed, and no migration makes it")
            )
            return work
        work.statements.append(ddl.create_table(place, columns))
        if frame.role:
            work.statements.append(ddl.change_owner(place, frame.role))
        work.reasons.append("the table is missing")
        return work
    names = [column.name for column in columns]
    if not model.declared:
        if "id" not in stored.columns:
            message = f"model {model.key!r} is only listed, and its table {place} has no column id"
            work.problems.append(Problem(place.table, "unknown_table", message))
        return work
    for column in columns:
        have = stored.columns.get(column.name)
        if have is None:
            _add(column, place, stored, names, work)
        else:
            _hold(column, have, place, stored, frame, work)
    _relax(place, stored, names, model, frame, work)
    return work


def plan_protection(
    place: Place, stored: StoredTable | None, frame: Frame, *, tenant: str, granted: bool
) -> tuple[list[str], list[Problem]]:
    """Row security, owner and grants of a table that is there or about to be. `tenant` is its organization column."""
    if not place.schema:
        return [], []
    if not tenant and frame.shared:
        message = (
            f"table {place} has no organization_id, and rows of all organizations share its schema: "
            "add the column, or give each tenant a schema of its own "
            "(tenancy.isolation 'schema'; in v2 tenant_isolation 'schema-per-tenant')"
        )
        return [], [Problem(place.table, "tenant_column", message)]
    statements: list[str] = []
    protected = (
        stored is not None
        and stored.rls_enabled
        and stored.rls_forced
        and {TENANT_POLICY, OWNER_POLICY} <= stored.policies
    )
    if stored is not None and frame.role and stored.owner and stored.owner != frame.role:
        statements.append(ddl.change_owner(place, frame.role))
        protected = False
    if not protected:
        statements.extend(ddl.protection(place, column=tenant, owner_roles=frame.owner_roles))
    if not granted:
        statements.extend(ddl.grants(place, frame.kernel_role))
    return statements, []


def tenant_column(stored: StoredTable | None, frame: Frame, model: ModelDefinition | None) -> str:
    """The column that tells a row's organization, in a table as it will be; '' when there is none."""
    if stored is not None and "organization_id" in stored.columns:
        return "organization_id"
    if model is not None and model.declared and (frame.shared or model.org_scoped):
        return "organization_id"
    if stored is not None and frame.tenant_column in stored.columns:
        return frame.tenant_column
    return ""


def tenant_problem(stored: StoredTable, column: str) -> Problem | None:
    kind = stored.columns[column].type if column in stored.columns else "uuid"
    if kind in ("uuid", ""):
        return None
    return Problem(
        f"{stored.name}.{column}", "tenant_column", f"column {stored.name}.{column} must be a uuid, it is {kind}"
    )


def _add(column: Column, place: Place, stored: StoredTable, names: Sequence[str], work: TableWork) -> None:
    on_sqlite = not place.schema
    constant = column.default is not None and not (on_sqlite and column.default in ddl.SQLITE_DEFAULTS)
    fillable = constant or (not stored.has_rows and not on_sqlite)
    required = column.required and fillable
    work.statements.append(ddl.add_column(place, column, names, nullable=not required))
    work.reasons.append(f"column {column.name} is missing")
    if column.required and not required:
        work.risks.append(
            Risk(
                RiskKind.NOT_ENFORCED,
                f"{place}.{column.name}",
                "the column is required, but rows are there already and it has no default: NOT NULL is left out",
            )
        )


def _hold(column: Column, have: StoredColumn, place: Place, stored: StoredTable, frame: Frame, work: TableWork) -> None:
    if column.name in ddl.KERNEL_COLUMNS:
        _hold_kernel_column(column, have, place, stored, work)
        return
    match fit(have.type, column):
        case Fit.REFUSE:
            message = (
                f"column {place}.{column.name} is {have.type} and cannot become {spelled(column)} without loss: "
                "add a new column, or convert it in a migration"
            )
            work.problems.append(Problem(f"{place.table}.{column.name}", "type", message))
            return
        case Fit.WIDEN:
            work.statements.append(ddl.widen_column(place, column))
            work.reasons.append(f"column {column.name} gets wider")
            if column.type is ColumnType.BIGINT and stored.has_rows:
                message = f"{have.type} becomes bigint: the table is locked while it is rewritten"
                work.risks.append(Risk(RiskKind.REWRITE, f"{place}.{column.name}", message))
        case Fit.KEEP:
            pass
    if not place.schema or column.generated or have.generated or place.table in frame.by_migrations:
        return
    if column.required and have.nullable:
        if stored.has_rows:
            message = "the column is required now, but rows are there already: NOT NULL is left out"
            work.risks.append(Risk(RiskKind.NOT_ENFORCED, f"{place}.{column.name}", message))
        else:
            work.statements.append(ddl.set_not_null(place, column.name))
            work.reasons.append(f"column {column.name} is required now")
    elif not column.required and not have.nullable:
        work.statements.append(ddl.drop_not_null(place, column.name))
        work.reasons.append(f"column {column.name} is no longer required")


def _hold_kernel_column(column: Column, have: StoredColumn, place: Place, stored: StoredTable, work: TableWork) -> None:
    """A kernel's column that a migration made stays as it is, but must work without being given."""
    fillable = column.name in ("created_at", "updated_at") or (column.name == "id" and have.type == "uuid")
    if fillable and have.default is None and not have.generated and place.schema:
        work.statements.append(ddl.set_default(place, column))
        work.reasons.append(f"column {column.name} needs a default")


def _relax(
    place: Place, stored: StoredTable, names: Sequence[str], model: ModelDefinition, frame: Frame, work: TableWork
) -> None:
    """Columns that nobody declares any more stay with their values, but may no longer be demanded."""
    if not model.declared or place.table in frame.by_migrations:
        return
    for name, have in stored.columns.items():
        if name in names or name in ddl.KERNEL_COLUMNS:
            continue
        work.risks.append(
            Risk(RiskKind.KEPT, f"{place}.{name}", "the column is no longer declared: it stays with its values")
        )
        if not have.nullable and have.default is None and not have.generated and place.schema:
            work.statements.append(ddl.drop_not_null(place, name))
            work.reasons.append(f"column {name} is no longer declared")
