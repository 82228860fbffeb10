"""A plan as values: what would be done, in which order, and what it puts at risk."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from metacore.installer.sql_migrations import JudgedMigration
from metacore.manifest.model import Capability, Column


class StepKind(StrEnum):
    CLAIM = "claim"
    GUESTS = "guests"
    ROLE = "role"
    SCHEMA = "schema"
    MIGRATION = "migration"
    TABLE = "table"
    PROTECT = "protect"
    INDEX = "index"
    FOREIGN_KEY = "foreign_key"
    SEED = "seed"
    INSTALL = "install"


class RiskKind(StrEnum):
    """`data_loss` takes values away, `data_rewrite` writes over those that are there, `rewrite` writes a table anew,
    `lock` keeps others waiting while a table is read, `not_enforced` is a promise of the manifest that rows already
    there keep the database from holding, `kept` something that stays though nobody declares it."""

    DATA_LOSS = "data_loss"
    DATA_REWRITE = "data_rewrite"
    REWRITE = "rewrite"
    LOCK = "lock"
    NOT_ENFORCED = "not_enforced"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Risk:
    """`subject` is a table, a column or a place in a migration file."""

    kind: RiskKind
    subject: str
    message: str

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind.value, "subject": self.subject, "message": self.message}


@dataclass(frozen=True, slots=True)
class Impact:
    """What one statement of a migration did to a table that was there before, as seen when it was tried.

    `place` is `path:line`, `lock` PostgreSQL's mode such as `AccessExclusiveLock`. `rows` were counted up to a limit;
    `more` tells that there are more.
    """

    place: str
    statement: str
    table: str
    lock: str
    rewrites: bool
    scans: bool
    rows: int
    more: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "statement": self.statement,
            "table": self.table,
            "lock": self.lock,
            "rewrites": self.rewrites,
            "scans": self.scans,
            "rows": self.rows,
            "more": self.more,
        }


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How the migrations went that were tried on a copy. `failure` says what failed, '' when nothing did. `risks` are
    what is dangerous with the rows that are really there, `notes` what could not be tried."""

    impacts: tuple[Impact, ...] = ()
    risks: tuple[Risk, ...] = ()
    failure: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "impacts": [impact.as_json() for impact in self.impacts],
            "risks": [risk.as_json() for risk in self.risks],
            "failure": self.failure,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class SeedRows:
    """Rows that should exist in one table for one organization (None: the table has no organizations).

    `columns` are the declared ones, whose types the values have."""

    table: str
    key: str
    rows: tuple[Mapping[str, Any], ...]
    organization_id: uuid.UUID | None
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens completely or not at all.

    `name` is unique in a plan and names the thing, such as `table addon_tickets.tickets`. `statements` are shown as
    they run; what steps of kind claim, guests, migration, seed and install do beyond them is in
    `metacore.installer.runner`.
    `transactional` is false for what PostgreSQL refuses inside a transaction (CONCURRENTLY).
    """

    name: str
    kind: StepKind
    statements: tuple[str, ...] = ()
    reason: str = ""
    transactional: bool = True
    schema: str = ""
    table: str = ""
    migration: JudgedMigration | None = None
    seed: SeedRows | None = None
    organization_id: uuid.UUID | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind.value,
            "reason": self.reason,
            "transactional": self.transactional,
            "statements": list(self.statements),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What installing a bundle would do. Without steps there is nothing to do.

    `capabilities` are all that the addon asks for, `new_capabilities` those that were not granted before.
    `notes` tell what is left out on purpose. `organizations` get the addon, `upgraded` have it already.
    """

    addon_key: str
    version: str
    digest: str
    steps: tuple[Step, ...] = ()
    risks: tuple[Risk, ...] = ()
    notes: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    new_capabilities: tuple[Capability, ...] = ()
    organizations: tuple[uuid.UUID, ...] = ()
    upgraded: tuple[uuid.UUID, ...] = ()
    schemas: tuple[str, ...] = field(default=())

    @property
    def changed(self) -> bool:
        return bool(self.steps)

    @property
    def data_at_risk(self) -> tuple[Risk, ...]:
        """What is taken away from rows that are there; a schema that the plan makes itself holds none."""
        return self._in_old_schemas(RiskKind.DATA_LOSS)

    @property
    def data_rewritten(self) -> tuple[Risk, ...]:
        """What is written over in rows that are there, in columns that were there before: an upgrade's own business,
        unless it is a tenant's and the rows are others'."""
        return self._in_old_schemas(RiskKind.DATA_REWRITE)

    def _in_old_schemas(self, kind: RiskKind) -> tuple[Risk, ...]:
        fresh = {step.schema for step in self.steps if step.kind is StepKind.SCHEMA}
        return tuple(risk for risk in self.risks if risk.kind is kind and risk.subject not in fresh)

    @property
    def migrates(self) -> bool:
        """Whether SQL of the addon itself runs, after which the rest is planned anew."""
        return any(step.kind is StepKind.MIGRATION for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        return {
            "addon": self.addon_key,
            "version": self.version,
            "digest": self.digest,
            "changed": self.changed,
            "organizations": [str(organization) for organization in self.organizations],
            "upgraded": [str(organization) for organization in self.upgraded],
            "schemas": list(self.schemas),
            "steps": [step.as_json() for step in self.steps],
            "risks": [risk.as_json() for risk in self.risks],
            "notes": list(self.notes),
            "capabilities": [
                {**capability.model_dump(), "new": capability in self.new_capabilities}
                for capability in self.capabilities
            ],
        }
