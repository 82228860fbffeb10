"""What the roles of guests may do, as values, and the statements that make it so. Pure.

An addon's guest role has its own tables and what was granted, its shadow role is a member of that and of the one role
that has every tenant-scoped table of any addon. Secret columns are in none of them, and of the kernel's own tables
only the columns of `db.grants.GUEST_COLUMNS`, and those only for who was granted the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.grants import Grants
from metacore.db.grants import GUEST_COLUMNS
from metacore.db.rls import quoted

KERNEL_SCHEMA = "public"

Secrets = Mapping[str, frozenset[str]]
"""By table, the columns that no guest reads."""


class RelationKind(StrEnum):
    TABLE = "table"
    VIEW = "view"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class Rights:
    """Privileges on a whole relation, and on single columns of it by privilege."""

    whole: frozenset[str] = frozenset()
    columns: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.whole) or any(self.columns.values())


NOTHING = Rights()


@dataclass(frozen=True, slots=True)
class GuestRelation:
    """A relation of an addon's schema, or a kernel's table. `tenant` tells whether row security holds every role to
    the rows of one organization. `held` is what each role has now."""

    schema: str
    name: str
    kind: RelationKind
    addon_key: str
    tenant: bool
    columns: tuple[str, ...]
    held: Mapping[str, Rights]

    @property
    def target(self) -> str:
        """How capabilities name it: where tenants have schemas, by the addon's shared name."""
        return self.name if self.schema == KERNEL_SCHEMA else f"addon_{self.addon_key}.{self.name}"


@dataclass(frozen=True, slots=True)
class GuestRole:
    """`key` is the addon whose guests it is for; '' for the role of all tables. `grants` are the addon's."""

    name: str
    key: str
    grants: Grants


def wanted(role: GuestRole, relation: GuestRelation, readable: Sequence[str]) -> Rights:
    """What `role` should have on `relation`, whose columns `readable` are not secret."""
    if relation.schema == KERNEL_SCHEMA:
        shown = GUEST_COLUMNS.get(relation.name, ())
        if role.key and shown and _covers(role, CapabilityKind.DB_READ, relation):
            return Rights(columns={"SELECT": frozenset(shown)})
        return NOTHING
    own = role.key == relation.addon_key
    everything = not role.key
    writes = own or everything or _covers(role, CapabilityKind.DB_WRITE, relation)
    reads = writes or _covers(role, CapabilityKind.DB_READ, relation)
    match relation.kind:
        case RelationKind.SEQUENCE:
            return Rights(frozenset({"USAGE", "SELECT"})) if own or everything else NOTHING
        case RelationKind.VIEW:
            return Rights(frozenset({"SELECT"})) if reads else NOTHING
    if not relation.tenant or not reads:
        return NOTHING
    hidden = len(readable) < len(relation.columns)
    whole = {"DELETE"} if writes else set()
    columns = {}
    for verb in ("SELECT", "INSERT", "UPDATE"):
        if verb != "SELECT" and not writes:
            continue
        # An addon may write its own secret columns, and read none.
        if hidden and not (own and verb != "SELECT"):
            columns[verb] = frozenset(readable)
        else:
            whole.add(verb)
    return Rights(frozenset(whole), columns)


def _covers(role: GuestRole, kind: CapabilityKind, relation: GuestRelation) -> bool:
    return bool(role.key) and role.grants.cover(kind, relation.target, None)


def change(role: str, relation: GuestRelation, rights: Rights) -> list[str]:
    """Statements that leave `role` with exactly `rights` on `relation`; none when it has them."""
    held = relation.held.get(role, NOTHING)
    if _plain(held) == _plain(rights):
        return []
    what = "SEQUENCE" if relation.kind is RelationKind.SEQUENCE else "TABLE"
    place = f"{what} {quoted(relation.schema)}.{quoted(relation.name)}"
    statements = []
    if held:
        # This takes back privileges on columns, too.
        statements.append(f"REVOKE ALL ON {place} FROM {quoted(role)}")
    verbs = sorted(rights.whole)
    verbs += [
        f"{verb} ({', '.join(quoted(name) for name in sorted(names))})"
        for verb, names in sorted(rights.columns.items())
        if names
    ]
    if verbs:
        statements.append(f"GRANT {', '.join(verbs)} ON {place} TO {quoted(role)}")
    return statements


def readable_columns(relation: GuestRelation, secrets: Secrets | None, tables_role: str) -> tuple[str, ...]:
    """The columns that are not secret: by the manifest where it is known, else as the role of all tables shows them,
    which the addon's own installation made so."""
    if relation.schema == KERNEL_SCHEMA:
        return tuple(GUEST_COLUMNS.get(relation.name, ()))
    if secrets is not None:
        hidden = secrets.get(relation.name, frozenset())
        return tuple(name for name in relation.columns if name not in hidden)
    shown = relation.held.get(tables_role, NOTHING)
    if "SELECT" in shown.whole:
        return relation.columns
    return tuple(name for name in relation.columns if name in shown.columns.get("SELECT", ()))


def schema_change(role: str, schema: str, *, held: bool, needed: bool) -> list[str]:
    if held == needed:
        return []
    if needed:
        return [f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(role)}"]
    return [f"REVOKE ALL ON SCHEMA {quoted(schema)} FROM {quoted(role)}"]


def _plain(rights: Rights) -> tuple[frozenset[str], frozenset[tuple[str, frozenset[str]]]]:
    return rights.whole, frozenset((verb, names) for verb, names in rights.columns.items() if names)


def schemas_of(relations: Iterable[GuestRelation]) -> tuple[str, ...]:
    return tuple(sorted({relation.schema for relation in relations}))
