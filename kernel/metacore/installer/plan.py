"""The plan of an installation: a pure function of the bundle and of what the database holds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from metacore.bundle.read import Bundle
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE
from metacore.errors import Refused
from metacore.installer import ddl, names
from metacore.installer.ddl import Place
from metacore.installer.plan_tables import Draft, Target, frame_of, physical_table, plan_tables
from metacore.installer.sql_migrations import JudgedMigration, judge
from metacore.installer.sql_names import Names
from metacore.installer.state import State, empty_state
from metacore.installer.steps import Plan as Plan
from metacore.installer.steps import Risk as Risk
from metacore.installer.steps import RiskKind, SeedRows, StepKind
from metacore.installer.steps import Step as Step
from metacore.installer.tables import tenant_column
from metacore.manifest.compatibility import check_kernel
from metacore.manifest.model import Isolation, Manifest


class BundleFacts(Protocol):
    """What a plan needs of a bundle; `metacore.bundle.read.Bundle` has it."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def digest(self) -> str: ...


def targets_of(manifest: Manifest, organizations: Sequence[uuid.UUID], dialect: str) -> tuple[Target, ...]:
    """The schemas of an addon for these organizations; on SQLite there is one without a name."""
    if dialect == "sqlite":
        return (Target("", None),)
    if manifest.isolation is Isolation.SCHEMA_PER_TENANT:
        return tuple(
            Target(names.schema_name(manifest.key, manifest.isolation, organization), organization)
            for organization in organizations
        )
    return (Target(names.schema_name(manifest.key, manifest.isolation, None), None),)


def build_plan(
    bundle: BundleFacts,
    migrations: Mapping[str, Sequence[JudgedMigration]],
    state: State,
    organizations: Sequence[uuid.UUID],
    *,
    registering: bool = False,
) -> Plan:
    """What installing `bundle` for `organizations` (and for those that have it already) takes.

    `migrations` holds, by schema, the judged files that did not run there yet. `registering` adds the last step even
    when nothing of the addon itself changes, because its mode, grants or settings do.

    Raises:
        Refused: the tables that are there cannot become what is declared; `problems` names every one.
    """
    manifest = bundle.manifest
    everybody = tuple(dict.fromkeys((*state.installed, *organizations)))
    joining = tuple(organization for organization in organizations if organization not in state.installed)
    targets = targets_of(manifest, everybody, state.dialect)
    upgrade = state.addon is None or state.addon.digest != bundle.digest
    draft = Draft()
    role = state.addon_role if any(migrations.values()) or state.addon_role_exists else ""
    planned = replace(state, addon_role_exists=bool(role))
    by_migrations = frozenset(
        effect.table for files in migrations.values() for file in files for effect in file.effects
    )
    if state.guests:
        reason = "guests run as roles that see their own tables and what was granted; the last step looks once more"
        draft.steps.append(Step("guests", StepKind.GUESTS, state.guests, reason))
    if role and state.dialect == "postgresql":
        planned = _plan_role(manifest, planned, state, targets, draft)
    for target in targets:
        _plan_schema(manifest, planned, target, role, migrations.get(target.schema, ()), draft)
    for target in targets:
        frame = frame_of(manifest, planned, target, role, by_migrations)
        plan_tables(manifest, planned, target, frame, migrations.get(target.schema, ()), draft)
    _plan_seeds(manifest, state, targets, everybody if upgrade else joining, draft)
    if draft.problems:
        first = draft.problems[0]
        more = f" (and {len(draft.problems) - 1} more)" if len(draft.problems) > 1 else ""
        raise Refused(f"{first.message}{more}", code="plan_refused", problems=draft.problems)
    steps = draft.steps
    if steps or upgrade or joining or registering or _behind(manifest, state):
        reason = "the addon is new" if state.addon is None else f"version {manifest.version}"
        claim = Step("claim", StepKind.CLAIM, reason=f"{reason}: hold the key, its models and the bundle")
        finish = Step("install", StepKind.INSTALL, reason="installation rows, secrets and the registry's revision")
        steps = [claim, *steps, finish]
    granted = {(item.kind, item.target) for item in (state.addon.grants if state.addon else ())}
    return Plan(
        addon_key=manifest.key,
        version=manifest.version,
        digest=bundle.digest,
        steps=tuple(steps),
        risks=tuple(draft.risks),
        notes=tuple(draft.notes),
        capabilities=manifest.capabilities,
        new_capabilities=tuple(item for item in manifest.capabilities if (item.kind, item.target) not in granted),
        organizations=joining,
        upgraded=tuple(organization for organization in everybody if organization in state.installed),
        schemas=tuple(target.schema for target in targets if target.schema),
    )


def _behind(manifest: Manifest, state: State) -> bool:
    return any(row.version != manifest.version for row in state.installed.values())


def _plan_role(manifest: Manifest, planned: State, state: State, targets: Sequence[Target], draft: Draft) -> State:
    """The addon's own role, owner of whatever its schemas hold already. Returns `planned` as it is then."""
    statements: list[str] = []
    role = names.quoted(state.addon_role)
    if not state.addon_role_made:
        statements.append(f"CREATE ROLE {role} NOLOGIN NOINHERIT")
    if not state.addon_role_exists:
        statements.append(f"GRANT {role} TO CURRENT_USER")
    schemas = dict(state.schemas)
    for target in targets:
        facts = state.schema(target.schema)
        if not facts.exists or facts.owner == state.addon_role:
            continue
        statements.append(f"ALTER SCHEMA {names.quoted(target.schema)} OWNER TO {role}")
        handed = {}
        for table in facts.tables.values():
            place = Place(target.schema, table.name, target.organization_id)
            statements.append(ddl.change_owner(place, state.addon_role))
            column = tenant_column(table, frame_of(manifest, planned, target, state.addon_role, frozenset()), None)
            if column or target.organization_id:
                statements += ddl.protection(place, column=column, owner_roles=planned.owner_roles)
            handed[table.name] = replace(table, owner=state.addon_role)
        schemas[target.schema] = replace(facts, owner=state.addon_role, tables=handed)
    if statements:
        reason = "the addon brings SQL, which runs as a role that owns nothing but its schemas"
        draft.steps.append(Step(f"role {state.addon_role}", StepKind.ROLE, tuple(statements), reason))
    return replace(planned, schemas=schemas)


def _plan_schema(
    manifest: Manifest,
    state: State,
    target: Target,
    role: str,
    migrations: Sequence[JudgedMigration],
    draft: Draft,
) -> None:
    if not target.schema:
        return
    facts = state.schema(target.schema)
    if not facts.exists:
        schema = names.quoted(target.schema)
        owner = f" AUTHORIZATION {names.quoted(role)}" if role else ""
        statements = [f"CREATE SCHEMA {schema}{owner}"]
        if state.kernel_role:
            statements.append(f"GRANT USAGE ON SCHEMA {schema} TO {names.quoted(state.kernel_role)}")
        draft.steps.append(
            Step(
                f"schema {target.schema}",
                StepKind.SCHEMA,
                tuple(statements),
                "the schema is missing",
                schema=target.schema,
                organization_id=target.organization_id,
            )
        )
    for migration in migrations:
        draft.steps.append(
            Step(
                f"migration {target.schema} {migration.version}",
                StepKind.MIGRATION,
                tuple(statement.sql for statement in migration.statements),
                f"{migration.path} did not run there yet",
                schema=target.schema,
                migration=migration,
            )
        )
        draft.risks.extend(Risk(RiskKind.DATA_LOSS, target.schema, risk) for risk in migration.risks)
        draft.risks.extend(Risk(RiskKind.DATA_REWRITE, target.schema, rewrite) for rewrite in migration.rewrites)


def _plan_seeds(
    manifest: Manifest,
    state: State,
    targets: Sequence[Target],
    organizations: Sequence[uuid.UUID],
    draft: Draft,
) -> None:
    """Seeds come with an installation and with each new version, so rows that people deleted do not come back."""
    for target in targets:
        for model in manifest.models:
            if model.seed is None or not model.seed.rows:
                continue
            scoped = manifest.isolation is Isolation.SHARED or model.org_scoped
            receivers = [target.organization_id] if target.organization_id else list(organizations)
            for organization in receivers:
                if organization not in organizations:
                    continue
                place = Place(target.schema, physical_table(manifest, target, model))
                owner = organization if scoped else None
                seed = SeedRows(place.table, model.seed.key, model.seed.rows, owner, model.columns)
                draft.steps.append(
                    Step(
                        f"seed {place} {organization}",
                        StepKind.SEED,
                        reason=f"{len(model.seed.rows)} rows, found by {model.seed.key}",
                        schema=target.schema,
                        table=place.table,
                        seed=seed,
                        organization_id=organization,
                    )
                )


def plan_for_empty(bundle: Bundle, organizations: Sequence[uuid.UUID]) -> Plan:
    """What installing `bundle` into a PostgreSQL that holds nothing but `organizations` would do. No I/O.

    Addons that it requires are taken as present. CPU-bound: off the event loop, please.

    Raises:
        MigrationRefused, Refused: it could not be installed anywhere.
    """
    manifest = bundle.manifest
    check_kernel(manifest)
    state = empty_state(
        owner_role=OWNER_ROLE,
        kernel_role=KERNEL_ROLE,
        addon_role=names.role_name("metacore", manifest.key),
        organizations=frozenset(organizations),
    )
    judged = judge(bundle.migrations, Names())
    targets = targets_of(manifest, organizations, state.dialect)
    return build_plan(bundle, {target.schema: judged for target in targets if judged}, state, organizations)
