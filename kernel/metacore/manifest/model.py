"""The internal model: what every manifest becomes, whichever version it was written in.

Values are frozen and hold no wire quirks; `metacore.manifest.v2` and `.v3` translate. Names follow contract 8.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnType(StrEnum):
    """Canonical column types; aliases of the wire (integer, float, datetime, json, …) are folded into these."""

    STRING = "string"
    TEXT = "text"
    UUID = "uuid"
    INT = "int"
    BIGINT = "bigint"
    DECIMAL = "decimal"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    DATE = "date"
    JSONB = "jsonb"


class Isolation(StrEnum):
    SHARED = "shared"
    SCHEMA_PER_TENANT = "schema-per-tenant"


class Option(Value):
    value: str | int | float | bool
    label: str
    color: str = ""
    icon: str = ""


class OptionsSource(Value):
    """Options that are rows of another model: `source` is a model key, the others column names of it."""

    source: str
    filter_by: str = ""
    value: str = "id"
    label: str = ""


class ColumnValidation(Value):
    """`min` and `max` bound a number's value and a string's length. `custom` names a registered validator;
    `$org.<key>` means the one that the organization configured."""

    regex: str = ""
    min: float | None = None
    max: float | None = None
    custom: str = ""


class Constraint(Value):
    """An expression over columns that must hold; the grammar is in `metacore.manifest.expressions`."""

    expr: str
    error_key: str = ""


class VisibleWhen(Value):
    field: str
    equals: Any = None
    any_of: tuple[Any, ...] = ()


class Column(Value):
    """One declared column.

    `default` is a checked SQL default expression (see `metacore.manifest.defaults`), never free text.
    `ref` is the key or table of the model that the column points to, or ''.
    `visibility` is one of all, table, modal, list.
    """

    name: str
    type: ColumnType
    size: int | None = None
    label: str = ""
    required: bool = False
    index: bool = False
    unique: bool = False
    default: str | None = None
    generated: str = ""
    ref: str = ""
    visibility: Literal["all", "table", "modal", "list"] = "all"
    searchable: bool = False
    validation: ColumnValidation = ColumnValidation()
    constraints: tuple[Constraint, ...] = ()
    widget: str = ""
    display: str = ""
    display_config: dict[str, Any] = {}
    options: tuple[Option, ...] = ()
    options_source: OptionsSource | None = None
    depends_on: str = ""
    scan: bool = False
    section: str = ""
    visible_when: VisibleWhen | None = None
    readonly: bool = False
    sequence: str = ""
    tooltip: str = ""
    description: str = ""

    @property
    def secret(self) -> bool:
        """Whether the value may be written but never read back."""
        return self.widget == "password"


class Rollup(Value):
    target: str
    fn: Literal["sum", "count", "avg", "min", "max"]
    source: str = ""
    expr: str = ""


class Relation(Value):
    """`references` is the column pointed to. `pivot` is the join table: always and only for many_to_many."""

    name: str
    kind: Literal["one_to_many", "many_to_many", "belongs_to"]
    through: str
    foreign_key: str
    references: str = "id"
    pivot: str = ""
    embed: bool = False
    readonly: bool = False
    scope: str = ""
    rollups: tuple[Rollup, ...] = ()


class Index(Value):
    name: str
    columns: tuple[str, ...]
    unique: bool = False
    method: Literal["btree", "hash", "gin", "gist", "brin"] = "btree"


class ForeignKey(Value):
    column: str
    references_table: str
    references_column: str = "id"
    on_delete: Literal["no action", "restrict", "cascade", "set null"] = "no action"


class Formula(Value):
    """Tier 1: `target` is set to `expr` at each save. Tier 3: `handler` names a function of the addon."""

    target: str
    expr: str = ""
    tier: int = 1
    handler: str = ""


class Sequence(Value):
    """`format` holds one `{seq}` or `{seq:06}` field; `scope` is '' (per organization) or a column."""

    key: str
    scope: str = ""
    format: str = "{seq}"


class Transition(Value):
    source: str
    target: str


class OnTransition(Value):
    source: str = ""
    target: str = ""
    set: dict[str, Any] = {}
    do: dict[str, Any] | str | None = None
    required: bool = False


class Seed(Value):
    """Rows that exist once per organization; `key` is the column that tells whether a row is there already."""

    key: str
    rows: tuple[dict[str, Any], ...]


class ModelDefinition(Value):
    """One model: reachable by `key` and by `table`.

    `columns` hold declared ones only; the kernel's own (id, organization_id, created_by_id, created_at, updated_at,
    deleted_at) are implied. `table_metadata` and `modal_metadata` are the wire objects of contract 4, when the
    manifest gave them. `declared` is false for a model that is only listed: its columns come from the database.
    """

    key: str
    table: str
    label: str = ""
    org_scoped: bool = True
    soft_delete: bool = False
    declared: bool = True
    columns: tuple[Column, ...] = ()
    relations: tuple[Relation, ...] = ()
    indices: tuple[Index, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    extensions: tuple[dict[str, Any], ...] = ()
    seed: Seed | None = None
    formulas: tuple[Formula, ...] = ()
    sequences: tuple[Sequence, ...] = ()
    form_layout: dict[str, Any] = {}
    locking: Literal["", "row"] = ""
    stage_field: str = ""
    stages: tuple[str, ...] = ()
    transitions: tuple[Transition, ...] = ()
    on_transition: tuple[OnTransition, ...] = ()
    importable: dict[str, Any] | bool = True
    table_metadata: dict[str, Any] | None = None
    modal_metadata: dict[str, Any] | None = None

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


class Requirement(Value):
    key: str
    version: str = "*"
    optional: bool = False
    reason: str = ""


class Capability(Value):
    """`kind` is one of contract 11's; `target` a name, a `prefix.*`, a host, or for events `*`."""

    kind: str
    target: str
    reason: str = ""


class NavigationItem(Value):
    title: str
    url: str = ""
    icon: str = ""
    model: str = ""
    permission: str = ""
    items: tuple[NavigationItem, ...] = ()


class NavigationGroup(Value):
    title: str = ""
    icon: str = ""
    target: str = ""
    items: tuple[NavigationItem, ...] = ()


class Setting(Value):
    key: str
    label: str = ""
    type: str = "string"
    default_value: Any = None
    options: tuple[Option, ...] = ()
    secret: bool = False


class ActionDefinition(Value):
    """`model` is a model key. `trigger` is '' when the manifest names none (then hooks or backend.url decide)."""

    key: str
    model: str
    label: str = ""
    placement: Literal["", "row", "table", "create"] = ""
    trigger: Literal["", "wasm", "webhook", "compiled", "connector", "noop"] = ""
    function: str = ""
    url: str = ""
    run_in_tx: bool = False
    requires_state: tuple[str, ...] = ()
    confirm: bool = False
    confirm_message: str = ""
    fields: tuple[dict[str, Any], ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    modal: str = ""
    icon: str = ""
    css_class: str = ""
    color: str = ""
    idempotency_key_field: str = ""


class Frontend(Value):
    entry: str
    format: Literal["federation", "script"] = "federation"
    expose: str = ""
    integrity: str = ""
    container: str = ""
    layout: Literal["shell", "immersive"] = "shell"


class Backend(Value):
    runtime: Literal["webhook", "wasm", "binary"]
    entry: str = ""
    url: str = ""
    exports: tuple[str, ...] = ()
    memory_limit_mb: int = 64
    timeout_ms: int = 10_000


class Schedule(Value):
    key: str
    every: str
    do: dict[str, Any] | str


class InboundWebhook(Value):
    key: str
    path: str
    verify: str = ""
    secret_ref: str = ""
    do: dict[str, Any] | str | None = None


class Manifest(Value):
    """One addon as its author declared it. `raw` is the JSON as read, which clients get back from `GET manifests`."""

    api: Literal["v2", "v3"]
    kind: str = "Addon"
    key: str
    name: str
    description: str = ""
    version: str
    category: str = ""
    kernel: str = "*"
    requires: tuple[Requirement, ...] = ()
    isolation: Isolation = Isolation.SHARED
    rls_column: str = ""
    capabilities: tuple[Capability, ...] = ()
    models: tuple[ModelDefinition, ...] = ()
    navigation: tuple[NavigationGroup, ...] = ()
    settings: tuple[Setting, ...] = ()
    actions: tuple[ActionDefinition, ...] = ()
    hooks: dict[str, Any] = {}
    tools: tuple[dict[str, Any], ...] = ()
    events: tuple[str, ...] = ()
    lifecycle: dict[str, Any] = {}
    i18n: dict[str, dict[str, str]] = {}
    """Translations by locale: `{"en": {"models.tickets.title": "Tickets"}}`."""
    frontend: Frontend | None = None
    backend: Backend | None = None
    connectors: tuple[dict[str, Any], ...] = ()
    schedules: tuple[Schedule, ...] = ()
    webhooks: tuple[InboundWebhook, ...] = ()
    roles: tuple[dict[str, Any], ...] = ()
    permissions: tuple[str, ...] = ()
    extensions: tuple[dict[str, Any], ...] = ()
    contributions: dict[str, Any] = {}
    raw: dict[str, Any] = {}

    def model(self, key: str) -> ModelDefinition | None:
        return next((model for model in self.models if key in (model.key, model.table)), None)
