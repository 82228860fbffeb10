"""The part of a plan that is about tables: columns, row security, indexes and foreign keys of one schema."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metacore.db.catalog import StoredTable
from metacore.errors import Problem
from metacore.installer import ddl, foreign_keys, names, tables
from metacore.installer.ddl import Place
from metacore.installer.foreign_keys import WantedKey
from metacore.installer.indexes import drop_index, missing_indexes, wanted_indexes
from metacore.installer.sql_effects import predict
from metacore.installer.sql_migrations import JudgedMigration
from metacore.installer.state import SchemaFacts, State
from metacore.installer.steps import Risk, RiskKind, Step, StepKind
from metacore.installer.tables import Frame
from metacore.manifest.model import Isolation, Manifest, ModelDefinition


@dataclass(frozen=True, slots=True)
class Target:
    """A schema that the addon has or gets; `organization_id` is None when organizations share it."""

    schema: str
    organization_id: uuid.UUID | None


@dataclass
class Draft:
    steps: list[Step] = field(default_factory=list)
    risks: list[Risk] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan_tables(
    manifest: Manifest,
    state: State,
    target: Target,
    frame: Frame,
    migrations: Sequence[JudgedMigration],
    draft: Draft,
) -> None:
    facts = state.schema(target.schema)
    stored = predict(target.schema, facts.tables, (effect for file in migrations for effect in file.effects))
    physical = {physical_table(manifest, target, model): model for model in manifest.models}
    for name in dict.fromkeys((*physical, *(stored if target.schema else ()))):
        _plan_one_table(
            physical.get(name), Place(target.schema, name, target.organization_id), stored, facts, frame, draft
        )
    keys = _keys(manifest, state, stored, frame, draft) if target.schema else {}
    for table, (_, stale) in keys.items():
        if stale:
            _step_for_keys(
                Place(target.schema, table), [_drop_key(target.schema, table, name) for name in stale], draft
            )
    for model in manifest.models:
        place = Place(target.schema, physical_table(manifest, target, model))
        _plan_indexes(manifest, model, place, stored, frame, draft)
    for table, (wanted, _) in keys.items():
        _plan_keys(Place(target.schema, table), wanted, stored.get(table), draft)


def physical_table(manifest: Manifest, target: Target, model: ModelDefinition) -> str:
    return model.table if target.schema else names.sqlite_table(manifest.key, model.table)


def _plan_one_table(
    model: ModelDefinition | None,
    place: Place,
    stored: Mapping[str, StoredTable],
    facts: SchemaFacts,
    frame: Frame,
    draft: Draft,
) -> None:
    have = stored.get(place.table)
    work = tables.plan_table(model, place, have, frame) if model is not None else tables.TableWork()
    draft.problems.extend(work.problems)
    draft.risks.extend(work.risks)
    if work.problems:
        return
    tenant = tables.tenant_column(have, frame, model)
    if have is not None and tenant and (problem := tables.tenant_problem(have, tenant)):
        draft.problems.append(problem)
        return
    granted = place.table in facts.granted
    protection, problems = tables.plan_protection(place, have, frame, tenant=tenant, granted=granted)
    draft.problems.extend(problems)
    if work.statements:
        reason = "; ".join(work.reasons)
        statements = (*work.statements, *protection)
        draft.steps.append(
            Step(f"table {place}", StepKind.TABLE, statements, reason, schema=place.schema, table=place.table)
        )
    elif protection:
        reason = "every table of an addon carries row security, and the kernel's role may use it"
        draft.steps.append(
            Step(
                f"protect {place}", StepKind.PROTECT, tuple(protection), reason, schema=place.schema, table=place.table
            )
        )


def _plan_indexes(
    manifest: Manifest,
    model: ModelDefinition,
    place: Place,
    stored: Mapping[str, StoredTable],
    frame: Frame,
    draft: Draft,
) -> None:
    have = stored.get(place.table)
    if have is None and not model.declared:
        return
    tenant = tables.tenant_column(have, frame, model)
    wanted, notes = wanted_indexes(
        model,
        table=place.table,
        tenant=tenant,
        referenced=model.table in foreign_keys.referenced_tables(manifest),
        pointing=foreign_keys.pointing_columns(manifest, model),
    )
    if have is not None:
        there = {*have.columns, *(column.name for column in ddl.wanted_columns(model, scoped=bool(tenant)))}
        wanted = [index for index in wanted if model.declared or set(index.plain_columns) <= set(have.columns)]
        wanted = [index for index in wanted if set(index.plain_columns) <= there]
    if not place.schema:
        wanted = [index for index in wanted if index.method == "btree"]
    draft.notes.extend(notes)
    missing, stale = missing_indexes(wanted, have.indexes if have is not None else {})
    concurrently = bool(place.schema) and have is not None and have.has_rows
    for name in stale:
        draft.steps.append(
            Step(
                f"drop index {place.schema}.{name}".replace(" .", " "),
                StepKind.INDEX,
                (drop_index(place.schema, name, concurrently=concurrently),),
                "it is broken, or nobody declares it any more",
                transactional=not concurrently,
                schema=place.schema,
                table=place.table,
            )
        )
    for index in missing:
        reason = "unique within an organization" if index.unique else "lists and lookups stay quick"
        draft.steps.append(
            Step(
                f"index {index.name}" if not place.schema else f"index {place.schema}.{index.name}",
                StepKind.INDEX,
                (index.create(place, concurrently=concurrently),),
                reason,
                transactional=not concurrently,
                schema=place.schema,
                table=place.table,
            )
        )


def _keys(
    manifest: Manifest, state: State, stored: Mapping[str, StoredTable], frame: Frame, draft: Draft
) -> dict[str, tuple[list[WantedKey], list[str]]]:
    """By table: the foreign keys that it should have, and the names of ours that nobody declares any more."""
    tenant = {model.table: tables.tenant_column(stored.get(model.table), frame, model) for model in manifest.models}
    types: dict[tuple[str, str], str] = {}
    for model in manifest.models:
        if model.declared:
            made = foreign_keys.column_types(model, scoped=bool(tenant[model.table]))
            types.update({(model.table, name): kind for name, kind in made.items()})
        if (have := stored.get(model.table)) is not None:
            types.update({(model.table, column.name): column.type for column in have.columns.values()})
    keys = {}
    for model in manifest.models:
        wanted, notes = foreign_keys.wanted_keys(
            manifest,
            model,
            tenant_of=lambda table: tenant.get(table, ""),
            types=types,
            server_version=state.server_version,
        )
        draft.notes.extend(notes)
        have = stored.get(model.table)
        known = {key.name for key in wanted}
        mine = sorted(name for name in (have.constraints if have else ()) if name.startswith(names.INDEX_PREFIX))
        keys[model.table] = (wanted, [name for name in mine if name not in known])
    return keys


def _plan_keys(place: Place, wanted: Sequence[WantedKey], have: StoredTable | None, draft: Draft) -> None:
    filled = have is not None and have.has_rows
    missing = [key for key in wanted if have is None or key.name not in have.constraints]
    if missing:
        _step_for_keys(place, [key.create(place.schema, filled=filled) for key in missing], draft)
    if filled:
        message = "rows that are there already are not checked against the new foreign key"
        draft.risks.extend(Risk(RiskKind.NOT_ENFORCED, f"{place}.{key.column}", message) for key in missing)


def _step_for_keys(place: Place, statements: Sequence[str], draft: Draft) -> None:
    what = "foreign keys" if " ADD CONSTRAINT " in statements[0] else "stale foreign keys"
    draft.steps.append(
        Step(
            f"{what} {place}",
            StepKind.FOREIGN_KEY,
            tuple(statements),
            "rows may point only at rows of their own organization",
            schema=place.schema,
            table=place.table,
        )
    )


def _drop_key(schema: str, table: str, name: str) -> str:
    return f"ALTER TABLE {Place(schema, table).sql} DROP CONSTRAINT IF EXISTS {names.quoted(name)}"


def frame_of(manifest: Manifest, state: State, target: Target, role: str, by_migrations: frozenset[str]) -> Frame:
    return Frame(
        schema=target.schema,
        shared=manifest.isolation is Isolation.SHARED,
        owner_roles=state.owner_roles if target.schema else (),
        role=role if target.schema else "",
        kernel_role=state.kernel_role,
        tenant_column=manifest.rls_column,
        by_migrations=by_migrations | _migrated_before(state.schema(target.schema)),
    )


def _migrated_before(facts: SchemaFacts) -> frozenset[str]:
    """Where migrations ran once, tables may be theirs: nullability is left to them."""
    return frozenset(facts.tables) if facts.applied else frozenset()
