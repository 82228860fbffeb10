"""Everything that can be refused before anything changes. Pure: a manifest and the state of a database."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from metacore.bundle.read import Bundle
from metacore.errors import Conflict, KeyOwned, MigrationRefused, ModelConflict, NotFound, Problem, Refused
from metacore.installer.plan import targets_of
from metacore.installer.sql_migrations import Migration
from metacore.installer.sql_names import KERNEL_TABLES
from metacore.installer.state import SchemaFacts, State
from metacore.manifest.compatibility import check_kernel, satisfies
from metacore.manifest.model import Isolation, Manifest
from metacore.manifest.ranges import parse_version


def check(
    manifest: Manifest,
    state: State,
    organizations: Sequence[uuid.UUID],
    migrations: Sequence[Migration],
    *,
    owner_uid: str,
    allow_downgrade: bool = False,
) -> None:
    """Whether `manifest` may be installed for `organizations`.

    Raises:
        KeyOwned, ModelConflict, NotFound, MigrationRefused, Refused: it may not; the message says why.
    """
    check_kernel(manifest)
    check_owner(manifest.key, state, owner_uid)
    check_version(manifest, state, allow_downgrade=allow_downgrade)
    unknown = [organization for organization in organizations if organization not in state.organizations]
    if unknown:
        raise NotFound(f"there is no organization {unknown[0]}", code="unknown_organization")
    _check_names(manifest, state)
    _check_requirements(manifest, state, organizations)
    if state.dialect == "sqlite":
        _check_sqlite(manifest, migrations)
    shared = manifest.isolation is Isolation.SHARED
    for facts in state.schemas.values():
        if facts.addon_key == manifest.key and (facts.organization_id is None) is not shared:
            raise Conflict(
                f"addon {manifest.key!r} has the schema {facts.name!r}: its tenant isolation cannot change",
                code="isolation",
            )
    everybody = tuple(dict.fromkeys((*state.installed, *organizations)))
    for target in targets_of(manifest, everybody, state.dialect):
        if target.schema:
            _check_schema(manifest, state.schema(target.schema), target.organization_id)
            _check_checksums(state.schema(target.schema), migrations)


def check_bundle(
    bundle: Bundle, state: State, organizations: Sequence[uuid.UUID], *, owner_uid: str, allow_downgrade: bool
) -> None:
    """`check` of what a bundle holds."""
    check(
        bundle.manifest,
        state,
        organizations,
        bundle.migrations,
        owner_uid=owner_uid,
        allow_downgrade=allow_downgrade,
    )


def check_owner(key: str, state: State, owner_uid: str) -> None:
    """The first to claim a key keeps it. A claim that never led to an installation holds nobody off."""
    addon = state.addon
    if addon is None or addon.owner_uid == owner_uid or (not addon.digest and not state.installed):
        return
    holder = f"the Addon with uid {addon.owner_uid}" if addon.owner_uid else "an installation through the API or a host"
    raise KeyOwned(f"addon key {key!r} is claimed by {holder}")


def check_version(manifest: Manifest, state: State, *, allow_downgrade: bool) -> None:
    addon = state.addon
    if addon is None or not addon.digest:
        return
    if not allow_downgrade and parse_version(manifest.version) < parse_version(addon.version):
        raise Refused(
            f"addon {manifest.key!r} is installed in version {addon.version}: {manifest.version} would go back",
            code="downgrade",
        )
    for other in state.others.values():
        for requirement in other.requires:
            if requirement.key == manifest.key and not satisfies(manifest.version, requirement.version):
                raise Refused(
                    f"addon {other.key!r} requires {manifest.key!r} {requirement.version}, this is {manifest.version}",
                    code="required_version",
                )


def check_removable(key: str, state: State, organizations: Collection[uuid.UUID]) -> None:
    """Whether other addons of these organizations can do without `key`."""
    for other in state.others.values():
        needs = any(requirement.key == key and not requirement.optional for requirement in other.requires)
        if needs and other.organizations & set(organizations):
            raise Conflict(f"addon {other.key!r} requires {key!r}: remove it first", code="required")


def _check_names(manifest: Manifest, state: State) -> None:
    problems: list[Problem] = []
    for model in manifest.models:
        for name, what in ((model.key, "model"), (model.table, "table")):
            other = state.models.get(name) or state.tables.get(name)
            if other:
                problems.append(Problem(name, "model_conflict", f"{what} {name!r} is served by addon {other!r}"))
            elif name in state.host:
                problems.append(Problem(name, "model_conflict", f"{what} {name!r} is served by the host"))
        if model.table in KERNEL_TABLES:
            problems.append(
                Problem(model.table, "model_conflict", f"table {model.table!r} is the name of a table of the kernel")
            )
    if problems:
        raise ModelConflict(problems[0].message, problems=tuple(dict.fromkeys(problems)))


def _check_requirements(manifest: Manifest, state: State, organizations: Sequence[uuid.UUID]) -> None:
    for requirement in manifest.requires:
        if requirement.optional or requirement.key in ("kernel", manifest.key):
            continue
        wish = f"{requirement.key!r} {requirement.version}".removesuffix(" *")
        other = state.others.get(requirement.key)
        if other is None or not other.version:
            raise Refused(f"addon {manifest.key!r} requires addon {wish}, which is not installed", code="requires")
        if not satisfies(other.version, requirement.version):
            raise Refused(
                f"addon {manifest.key!r} requires addon {wish}; version {other.version} is installed", code="requires"
            )
        without = [organization for organization in organizations if organization not in other.organizations]
        if without:
            raise Refused(
                f"addon {manifest.key!r} requires addon {wish}, which organization {without[0]} does not have",
                code="requires",
            )


def _check_schema(manifest: Manifest, facts: SchemaFacts, organization_id: uuid.UUID | None) -> None:
    if not facts.addon_key and not facts.exists:
        return
    if not facts.addon_key:
        raise Conflict(f"schema {facts.name!r} exists already and was not made by Metacore", code="schema_taken")
    if facts.addon_key != manifest.key:
        raise Conflict(f"schema {facts.name!r} belongs to addon {facts.addon_key!r}", code="schema_taken")
    if facts.organization_id != organization_id:
        raise Conflict(f"schema {facts.name!r} belongs to organization {facts.organization_id}", code="schema_taken")


def _check_checksums(facts: SchemaFacts, migrations: Sequence[Migration]) -> None:
    for migration in migrations:
        applied = facts.applied.get(migration.version)
        if applied is not None and applied != migration.checksum:
            raise MigrationRefused(
                f"{migration.path} changed after it ran in schema {facts.name!r}: add a new migration instead",
                code="migration_changed",
                problems=[Problem(migration.path, "migration_changed", "the checksum differs from the one that ran")],
            )


def _check_sqlite(manifest: Manifest, migrations: Sequence[Migration]) -> None:
    if migrations:
        raise Refused(
            f"addon {manifest.key!r} brings SQL migrations ({migrations[0].path}), which need PostgreSQL; "
            "this database is SQLite",
            code="needs_postgresql",
        )
    if manifest.isolation is Isolation.SCHEMA_PER_TENANT:
        raise Refused(
            f"addon {manifest.key!r} wants a schema per tenant, which needs PostgreSQL; this database is SQLite",
            code="needs_postgresql",
        )
    listed = [model.key for model in manifest.models if not model.declared]
    if listed:
        raise Refused(
            f"model {listed[0]!r} is only listed: its table would come from SQL migrations, which need PostgreSQL",
            code="needs_postgresql",
        )
