"""What a plan starts from: the facts of one database about one addon, as plain values."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metacore.db.catalog import StoredTable
from metacore.installer.sql_names import Names
from metacore.manifest.model import Capability, Requirement


@dataclass(frozen=True, slots=True)
class AddonRow:
    """The row of `metacore_addons`. `digest` is '' until a first installation was finished."""

    key: str
    owner_uid: str = ""
    digest: str = ""
    version: str = ""
    signer: str = ""
    source: str = "bundle"
    mode: str = "inherit"
    grants: tuple[Capability, ...] = ()
    fenced_reason: str = ""
    attempt: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class InstalledRow:
    """One row of `metacore_installations`; `settings` as stored, secrets sealed."""

    version: str
    status: str = "enabled"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OtherAddon:
    """Another addon of the database; `requires` is filled only where somebody asked for dependents."""

    key: str
    version: str
    organizations: frozenset[uuid.UUID]
    requires: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """One schema as it is. `exists` and `owner` are about the database, `addon_key` and `organization_id` about
    `metacore_schemas` ('' when it is not listed there). `applied` maps the versions of migrations that ran to their
    checksums, `granted` are the tables that the kernel role may use, `names` what addon SQL may refer to."""

    name: str
    exists: bool = False
    addon_key: str = ""
    organization_id: uuid.UUID | None = None
    owner: str = ""
    tables: Mapping[str, StoredTable] = field(default_factory=dict)
    applied: Mapping[str, str] = field(default_factory=dict)
    granted: frozenset[str] = frozenset()
    names: Names = field(default_factory=Names)


@dataclass(frozen=True, slots=True)
class State:
    """`schemas` holds every schema that the plan may touch, by name; on SQLite one with the name ''.

    `owner_role` is the role that installs, `kernel_role` the one that serves ('' when they are the same), `addon_role`
    the name of the addon's own role, `addon_role_made` whether the server has it and `addon_role_exists` whether the
    owner is a member of it, too.
    `installed` maps the organizations that have the addon to their installations, `organizations` are those that exist.
    `models` and `tables` map names to the other addon that serves them, `host` holds the names that the host serves.
    `guests` are the statements that the roles of guests lack right now; see `metacore.installer.guest_roles`.
    """

    dialect: str = "postgresql"
    server_version: int = 0
    owner_role: str = ""
    kernel_role: str = ""
    addon_role: str = ""
    addon_role_made: bool = False
    addon_role_exists: bool = False
    addon: AddonRow | None = None
    installed: Mapping[uuid.UUID, InstalledRow] = field(default_factory=dict)
    organizations: frozenset[uuid.UUID] = frozenset()
    others: Mapping[str, OtherAddon] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    host: frozenset[str] = frozenset()
    schemas: Mapping[str, SchemaFacts] = field(default_factory=dict)
    guests: tuple[str, ...] = ()

    @property
    def owner_roles(self) -> tuple[str, ...]:
        """Roles whose statements row security lets through on the addon's tables."""
        return (self.owner_role, self.addon_role) if self.addon_role_exists else (self.owner_role,)

    def schema(self, name: str) -> SchemaFacts:
        return self.schemas.get(name) or SchemaFacts(name)


def empty_state(*, owner_role: str, kernel_role: str, addon_role: str, organizations: frozenset[uuid.UUID]) -> State:
    """A database that holds nothing but these organizations: what `metacore plan` assumes without one."""
    return State(
        server_version=180000,
        owner_role=owner_role,
        kernel_role=kernel_role,
        addon_role=addon_role,
        organizations=organizations,
    )
