"""Foreign keys inside one addon.

Both sides carry the organization, so a row can point only at rows of its own tenant: otherwise a reference to a known
id would tell whether it exists elsewhere, and hold another tenant's row against deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metacore.db.rls import quoted
from metacore.installer.column_types import spelled
from metacore.installer.ddl import Place, wanted_columns
from metacore.installer.names import constraint_name
from metacore.manifest.model import ForeignKey, Manifest, ModelDefinition

SET_NULL_COLUMNS = 150000
"""From PostgreSQL 15 on, `ON DELETE SET NULL (column)` leaves the other columns of the key alone."""


@dataclass(frozen=True, slots=True)
class WantedKey:
    table: str
    column: str
    target: str
    target_column: str
    on_delete: str
    tenant: str

    @property
    def name(self) -> str:
        definition = f"{self.target}|{self.target_column}|{self.on_delete}|{self.tenant}"
        return constraint_name(self.table, self.column, definition)

    def create(self, schema: str, *, filled: bool) -> str:
        """`filled` tables keep rows that break the key: it holds from now on (NOT VALID)."""
        own, theirs = [quoted(self.column)], [quoted(self.target_column)]
        if self.tenant:
            own.insert(0, quoted(self.tenant))
            theirs.insert(0, quoted(self.tenant))
        action = self.on_delete.upper()
        if self.on_delete == "set null" and self.tenant:
            action += f" ({quoted(self.column)})"
        return (
            f"ALTER TABLE {Place(schema, self.table).sql} ADD CONSTRAINT {quoted(self.name)} "
            f"FOREIGN KEY ({', '.join(own)}) REFERENCES {Place(schema, self.target).sql} ({', '.join(theirs)}) "
            f"ON DELETE {action}" + (" NOT VALID" if filled else "")
        )


def declared_keys(manifest: Manifest, model: ModelDefinition) -> list[ForeignKey]:
    """Physical foreign keys and belongs_to relations that stay inside the addon; one per column."""
    found = {key.column: key for key in model.foreign_keys if key.physical and not key.references_addon}
    for relation in model.relations:
        target = manifest.model(relation.through)
        if relation.kind == "belongs_to" and target is not None:
            found.setdefault(
                relation.foreign_key,
                ForeignKey(
                    column=relation.foreign_key,
                    references_table=target.table,
                    references_column=relation.references,
                ),
            )
    return list(found.values())


def referenced_tables(manifest: Manifest) -> frozenset[str]:
    """Tables whose `id` some foreign key of the addon points at."""
    return frozenset(
        key.references_table
        for model in manifest.models
        for key in declared_keys(manifest, model)
        if key.references_column == "id"
    )


def pointing_columns(manifest: Manifest, model: ModelDefinition) -> frozenset[str]:
    """Columns of `model` by which rows are looked up from the other side."""
    own = {key.column for key in declared_keys(manifest, model)}
    for parent in manifest.models:
        for relation in parent.relations:
            if relation.kind == "one_to_many" and manifest.model(relation.through) is model:
                own.add(relation.foreign_key)
    return frozenset(own)


def wanted_keys(
    manifest: Manifest,
    model: ModelDefinition,
    *,
    tenant_of: Callable[[str], str],
    types: Mapping[tuple[str, str], str],
    server_version: int,
) -> tuple[list[WantedKey], list[str]]:
    """The foreign keys of a model's table, and why a declared one is not enforced.

    `tenant_of` gives a table's organization column or ''; `types` the stored type by (table, column).
    """
    wanted: list[WantedKey] = []
    notes: list[str] = []
    for key in declared_keys(manifest, model):
        target = manifest.model(key.references_table)
        shown = f"{model.table}.{key.column} → {key.references_table}.{key.references_column}"
        tenant = tenant_of(model.table) if tenant_of(model.table) == tenant_of(key.references_table) else ""
        own_type = types.get((model.table, key.column), "")
        target_type = types.get((key.references_table, key.references_column), "")
        if target is None:
            problem = "the target is not a model of this addon"
        elif own_type and target_type and own_type != target_type:
            problem = f"{own_type} cannot point at {target_type}"
        elif key.references_column != "id" and not _unique(target, key.references_column):
            problem = "the target column is not unique over all rows"
        elif key.on_delete == "set null" and tenant and server_version < SET_NULL_COLUMNS:
            problem = "set null within a tenant needs PostgreSQL 15"
        else:
            wanted.append(
                WantedKey(model.table, key.column, key.references_table, key.references_column, key.on_delete, tenant)
            )
            continue
        notes.append(f"foreign key {shown} is not enforced by the database: {problem}")
    return wanted, notes


def column_types(model: ModelDefinition, *, scoped: bool) -> dict[str, str]:
    """The types that a table made from `model` has, as PostgreSQL spells them."""
    return {column.name: spelled(column) for column in wanted_columns(model, scoped=scoped)}


def _unique(target: ModelDefinition, name: str) -> bool:
    """A unique index of a model that deletes softly leaves deleted rows out: no key can point at it."""
    column = target.column(name)
    return column is not None and column.unique and not target.soft_delete
