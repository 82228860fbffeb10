"""What the judge says about a statement: plain values, the same for every organization and every grant."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from metacore.wasm.abi import HostCode

KERNEL_SCHEMA = "public"


class StatementKind(StrEnum):
    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"


class Refused(Exception):
    """The statement may not run. Never leaves this room: whoever runs statements makes it a `HostError`."""

    def __init__(self, code: HostCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class OwnNames:
    """What an addon's schema holds. `schema` is the one that the addon calls its own, `addon_<key>`, also where every
    tenant has a schema."""

    schema: str
    tables: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation outside the addon's own schema, as the addon named it: `addon_other.invoices`, or a kernel's table."""

    schema: str
    table: str

    @property
    def of_kernel(self) -> bool:
        return self.schema == KERNEL_SCHEMA

    @property
    def target(self) -> str:
        """How a capability names it. A kernel's table has no schema there, as in the addon's SQL."""
        return self.table if self.of_kernel else f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Mention:
    """A column that the statement names, or every column when `name` is `*`. `qualifier` is what stands before it.
    `written` ones get a value."""

    qualifier: str
    name: str
    written: bool = False


@dataclass(frozen=True, slots=True)
class SchemaName:
    """Where the text names a schema: characters `start` to `end` of `Judgement.sql`."""

    start: int
    end: int
    schema: str


@dataclass(frozen=True, slots=True)
class ArgumentPlace:
    """Where the text asks for an argument: characters `start` to `end` of `Judgement.sql`."""

    start: int
    end: int
    number: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """A statement that may run if everything in `reads` and `writes` is granted.

    `sql` is the statement alone, without what stands around it. `own` are the relations of the addon itself,
    `aliases` by what names the statement calls which relation (by target; own ones by their bare name), `schemas` where
    it spells a schema, `places` where it asks for arguments. `organizations` are values, `organization_arguments` the
    numbers of arguments, that it compares with a row's organization.
    """

    kind: StatementKind
    sql: str
    arguments: int = 0
    reads: frozenset[Relation] = frozenset()
    writes: frozenset[Relation] = frozenset()
    own: frozenset[str] = frozenset()
    returning: bool = False
    mentions: frozenset[Mention] = frozenset()
    aliases: frozenset[tuple[str, str]] = frozenset()
    schemas: tuple[SchemaName, ...] = ()
    places: tuple[ArgumentPlace, ...] = ()
    organizations: frozenset[str] = frozenset()
    organization_arguments: frozenset[int] = frozenset()
