"""The internal model: what every manifest becomes, whichever version it was written in.

Values are frozen and hold no wire quirks; `metacore.manifest.v2` and `.v3` translate. Names follow contract 8.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from metacore.manifest.parts import Backend as Backend
from metacore.manifest.parts import Capability as Capability
from metacore.manifest.parts import Frontend as Frontend
from metacore.manifest.parts import Icon as Icon
from metacore.manifest.parts import InboundWebhook as InboundWebhook
from metacore.manifest.parts import NavigationGroup as NavigationGroup
from metacore.manifest.parts import NavigationItem as NavigationItem
from metacore.manifest.parts import Requirement as Requirement
from metacore.manifest.parts import Schedule as Schedule


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
    image: str = ""


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
    options_provider: str = ""
    """Names a list that the host computes (`options_source` of v3), or ''."""
    depends_on: str = ""
    scan: bool = False
    section: str = ""
    visible_when: VisibleWhen | None = None
    readonly: bool = False
    sequence: str = ""
    tooltip: str = ""
    description: str = ""
    comment: str = ""

    @property
    def secret(self) -> bool:
        """Whether the value may be written but never read back."""
        return self.widget == "password"


class Rollup(Value):
    """`target`, a column of the parent, is kept at `fn` of its children's `source` column, or of `expr` over them."""

    target: str
    fn: Literal["sum", "count", "avg", "min", "max"]
    source: str = ""
    expr: str = ""


class Relation(Value):
    """`references` is the column pointed to. `pivot` is the join table: always and only for many_to_many.
    `scope` narrows the children by equality, column by column."""

    name: str
    kind: Literal["one_to_many", "many_to_many", "belongs_to"]
    through: str
    foreign_key: str
    references: str = "id"
    pivot: str = ""
    embed: bool = False
    readonly: bool = False
    scope: dict[str, Any] = {}
    label: str = ""
    rollups: tuple[Rollup, ...] = ()


class Index(Value):
    name: str
    columns: tuple[str, ...]
    unique: bool = False
    method: Literal["btree", "hash", "gin", "gist", "brin"] = "btree"


class ForeignKey(Value):
    """`references_table` is a table of this addon, unless `references_addon` names another one. Only a `physical` key
    becomes a database constraint, and only within the addon."""

    column: str
    references_table: str
    references_column: str = "id"
    on_delete: Literal["no action", "restrict", "cascade", "set null"] = "no action"
    references_addon: str = ""
    physical: bool = True


class Formula(Value):
    """Tier 1: `target` is set to `expr` at each save. Tier 3: `handler` names a function of the addon."""

    target: str
    expr: str = ""
    tier: int = 1
    handler: str = ""


class Sequence(Value):
    """`format` holds one `{seq}` or `{seq:06}` field; `scope` is '' (per organization) or a column of the model."""

    key: str
    scope: str = ""
    format: str = "{seq}"


class Stage(Value):
    key: str
    label: str = ""
    color: str = ""
    order: int = 0
    final: bool = False


class Transition(Value):
    source: str
    target: str


class OnTransition(Value):
    """What follows a move from `source` to `target`, stage keys or '' for any. `do` is a handler: `wasm:fn`, …"""

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
    """One model: reachable by `key` and by `table`. `formulas` stand in the order in which they must be computed.

    `columns` hold declared ones only; the kernel's own (id, organization_id, created_by_id, created_at, updated_at,
    deleted_at) are implied. `table_metadata` and `modal_metadata` are the wire objects of contract 4, when the
    manifest gave them. `declared` is false for a model that is only listed: its columns come from the database.
    `kernel_columns` holds what the author said of the kernel's own columns (labels, display); it changes no table.
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
    stage_details: tuple[Stage, ...] = ()
    transitions: tuple[Transition, ...] = ()
    on_transition: tuple[OnTransition, ...] = ()
    importable: dict[str, Any] | bool = True
    table_metadata: dict[str, Any] | None = None
    modal_metadata: dict[str, Any] | None = None
    kernel_columns: tuple[Column, ...] = ()

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


class Setting(Value):
    """`validation` is a rule for the value: a regular expression or a validator's name."""

    key: str
    label: str = ""
    type: str = "string"
    default_value: Any = None
    options: tuple[Option, ...] = ()
    secret: bool = False
    required: bool = False
    description: str = ""
    validation: str = ""


class Connector(Value):
    """A service outside for which an organization gives credentials.

    `test_export` is a function of the addon that tries them. Handlers of kind `connector` send them to `base_url` in
    the way that `auth` says; `header` names the header of `api_key`.
    """

    key: str
    label: str = ""
    description: str = ""
    auth: str = ""
    base_url: str = ""
    header: str = ""
    credentials: tuple[Setting, ...] = ()
    test_export: str = ""


class ActionDefinition(Value):
    """`model` is a model key, '' for an action of the addon itself. `trigger` is '' when the manifest names none (then
    hooks or backend.url decide). `function` is the export of a wasm trigger, or the compiled or connector function."""

    key: str
    model: str
    name: str = ""
    label: str = ""
    type: str = ""
    link_url: str = ""
    condition: Any = None
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


class Manifest(Value):
    """One addon as its author declared it. `raw` is the JSON as read, which clients get back from `GET manifests`.

    `lifecycle` maps install, uninstall, enable and disable to lists of handlers `{type, function, url, …}`, and upgrade
    to a list of `{from, type, function}`. `lifecycle_hooks` are the v2 hooks around rows, as written: lists of
    `{event, target, …}` by event or by model. `contributions` is the v3 object as written; what has a field of its own
    here stands in both. `preset`, `theme` and `connector_pack` belong to the kinds of those names.
    """

    api: Literal["v2", "v3"]
    kind: str = "Addon"
    key: str
    name: str
    description: str = ""
    version: str
    category: str = ""
    icon: Icon = Icon()
    author: str = ""
    website: str = ""
    license: str = ""
    readme: str = ""
    screenshots: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    price: Any = None
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
    lifecycle_hooks: dict[str, Any] = {}
    default_locale: str = ""
    i18n: dict[str, dict[str, str]] = {}
    """Translations by locale: `{"en": {"models.tickets.title": "Tickets"}}`."""
    i18n_files: tuple[tuple[str, str], ...] = ()
    """Further translations: (locale, path in the bundle). `read_bundle` merges them into `i18n`."""
    metadata_i18n: dict[str, Any] = {}
    frontend: Frontend | None = None
    backend: Backend | None = None
    connectors: tuple[Connector, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    webhooks: tuple[InboundWebhook, ...] = ()
    roles: tuple[dict[str, Any], ...] = ()
    permissions: tuple[str, ...] = ()
    extensions: tuple[dict[str, Any], ...] = ()
    contributions: dict[str, Any] = {}
    subscriptions: tuple[dict[str, Any], ...] = ()
    extension_points: dict[str, Any] = {}
    billing: dict[str, Any] = {}
    signature: dict[str, Any] = {}
    preset: dict[str, Any] = {}
    theme: dict[str, Any] = {}
    connector_pack: dict[str, Any] = {}
    raw: dict[str, Any] = {}

    def model(self, key: str) -> ModelDefinition | None:
        return next((model for model in self.models if key in (model.key, model.table)), None)
