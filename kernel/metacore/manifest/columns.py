"""One declared column, in v2's words and in v3's; a column may use both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from metacore.errors import InvalidInput
from metacore.manifest import names
from metacore.manifest.defaults import sql_default
from metacore.manifest.model import (
    Column,
    ColumnType,
    ColumnValidation,
    Constraint,
    Option,
    OptionsSource,
    VisibleWhen,
)
from metacore.manifest.walk import Node, kind_of, shown

TYPES: Mapping[str, ColumnType] = {
    "string": ColumnType.STRING,
    "text": ColumnType.TEXT,
    "uuid": ColumnType.UUID,
    "int": ColumnType.INT,
    "integer": ColumnType.INT,
    "bigint": ColumnType.BIGINT,
    "decimal": ColumnType.DECIMAL,
    "numeric": ColumnType.DECIMAL,
    "float": ColumnType.DECIMAL,
    "double": ColumnType.DECIMAL,
    "bool": ColumnType.BOOL,
    "boolean": ColumnType.BOOL,
    "timestamp": ColumnType.TIMESTAMP,
    "datetime": ColumnType.TIMESTAMP,
    "timestamptz": ColumnType.TIMESTAMP,
    "date": ColumnType.DATE,
    "jsonb": ColumnType.JSONB,
    "json": ColumnType.JSONB,
}
DEFAULT_SIZE, MAX_SIZE = 255, 10_485_760
"""Characters of a string column; the most that PostgreSQL's varchar(n) takes."""
WIDGETS = frozenset(
    {"text", "textarea", "select", "multi_select", "search", "number", "date", "datetime", "email", "url", "boolean"}
    | {"image", "file", "richtext", "json", "relation", "password", "slider", "rating"}
)
VISIBILITIES = ("all", "table", "modal", "list")
MAX_REGEX = 500


def read_column(node: Node, *, v3: bool) -> Column:
    """The column at `node`; what is wrong is reported and replaced."""
    name = node.text("name", required=True, pattern=names.COLUMN, form=names.COLUMN_FORM)
    if name in names.SYSTEM_COLUMNS:
        node.refuse("name", f"{shown(name)} is a system column of PostgreSQL", "reserved")
    kind = _type(node)
    size = _size(node, kind)
    required, not_null = node.flag("required"), node.flag("not_null")
    generated = node.text("generated")
    default = _default(node, kind, size, v3)
    if generated and (node.has("default") or required or not_null):
        node.refuse("generated", "a generated column has no default and is not required", "generated")
    if node.flag("primary_key") and name and name != "id":
        node.refuse("primary_key", "is not allowed: the primary key is always the kernel's own id", "primary_key")
    options, source = _options(node)
    provider, provided = _provider(node)
    column = Column(
        name=name,
        type=kind,
        size=size,
        label=node.text("label"),
        required=required or not_null,
        index=node.flag("index"),
        unique=node.flag("unique"),
        default=default,
        generated=generated,
        ref=node.text("ref", pattern=names.REFERENCE, form=names.REFERENCE_FORM),
        visibility=cast(
            "Literal['all', 'table', 'modal', 'list']", node.text("visibility", "all", choices=VISIBILITIES)
        ),
        searchable=node.flag("searchable"),
        validation=_validation(node),
        constraints=_constraints(node),
        widget=_widget(node, v3),
        display=node.text("display"),
        display_config=node.free("display_config"),
        options=options,
        options_source=source or provided,
        options_provider=provider,
        depends_on=node.text("depends_on"),
        scan=node.flag("scan"),
        section=node.text("section"),
        visible_when=read_visible_when(node),
        readonly=node.flag("readonly"),
        sequence=node.text("sequence"),
        tooltip=node.text("tooltip"),
        description=node.text("description"),
        comment=node.text("comment"),
    )
    node.warn_unknown()
    return column


def read_options(node: Node, key: str = "options") -> tuple[Option, ...]:
    """A list of choices: objects `{value, label, color, icon, image}`, or bare values that are their own label."""
    found: list[Option] = []
    for path, item in node.members(key):
        if isinstance(item, Mapping):
            inner = Node(item, path, node.report)
            value = inner.raw("value")
            if not isinstance(value, str | int | float | bool):
                inner.refuse("value", f"must be a string, a number, true or false, not {kind_of(value)}", "type")
                continue
            found.append(
                Option(
                    value=value,
                    label=inner.text("label", str(value)),
                    color=inner.text("color"),
                    icon=inner.text("icon"),
                    image=inner.text("image"),
                )
            )
            inner.warn_unknown()
        elif isinstance(item, str | int | float | bool):
            found.append(Option(value=item, label=str(item)))
        else:
            node.report.refuse(path, "type", f"must be an option, not {kind_of(item)}")
    values = [(type(option.value), option.value) for option in found]
    if len(set(values)) != len(values):
        node.refuse(key, "holds the same value twice", "duplicate")
    return tuple(found)


def read_visible_when(node: Node) -> VisibleWhen | None:
    inner = node.node("visible_when")
    if inner is None:
        return None
    field = inner.text("field", required=True)
    any_of = tuple(item for _, item in inner.members("in"))
    if inner.raw("equals") is None and not any_of:
        inner.refuse(None, "needs equals or in", "required")
    return VisibleWhen(field=field, equals=inner.raw("equals"), any_of=any_of)


def _type(node: Node) -> ColumnType:
    written = node.text("type", required=True)
    kind = TYPES.get(written.lower())
    if kind is None:
        if written:
            node.refuse("type", f"{shown(written)} is not a column type: use one of {', '.join(sorted(TYPES))}", "type")
        return ColumnType.TEXT
    return kind


def _size(node: Node, kind: ColumnType) -> int | None:
    if kind is ColumnType.STRING:
        return node.whole("size", DEFAULT_SIZE, low=1, high=MAX_SIZE) or DEFAULT_SIZE
    if node.raw("size"):
        node.warn("size", "only string columns have a size; it is not used", "unused")
    return None


def _default(node: Node, kind: ColumnType, size: int | None, v3: bool) -> str | None:
    try:
        return sql_default(node.raw("default"), kind, size=size, bare_text=v3)
    except InvalidInput as error:
        node.refuse("default", error.message, "default")
        return None


def _widget(node: Node, v3: bool) -> str:
    widget = node.text("widget", pattern=names.NAME, form=names.NAME_FORM)
    if widget and widget not in WIDGETS:
        if v3:
            node.warn("widget", f"{shown(widget)} is not one of {', '.join(sorted(WIDGETS))}", "unknown_widget")
        else:
            node.refuse("widget", f"{shown(widget)} is not one of {', '.join(sorted(WIDGETS))}", "choice")
    return widget


def _validation(node: Node) -> ColumnValidation:
    inner = node.node("validation")
    if inner is None:
        return ColumnValidation()
    regex = inner.text("regex", limit=MAX_REGEX)
    try:
        re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        inner.refuse("regex", f"is not a regular expression: {error}", "regex")
        regex = ""
    low, high = inner.number("min"), inner.number("max")
    if low is not None and high is not None and low > high:
        inner.refuse("min", "is larger than max", "range")
    custom = inner.text("custom", limit=200)
    inner.warn_unknown()
    return ColumnValidation(regex=regex, min=low, max=high, custom=custom)


def _constraints(node: Node) -> tuple[Constraint, ...]:
    found: list[Constraint] = []
    for path, item in node.members("constraints"):
        if isinstance(item, str):
            found.append(Constraint(expr=item))
        elif isinstance(item, Mapping):
            inner = Node(item, path, node.report)
            found.append(Constraint(expr=inner.text("expr", required=True), error_key=inner.text("error_key")))
            inner.warn_unknown()
        else:
            node.report.refuse(path, "type", f"must be an object, not {kind_of(item)}")
    return tuple(found)


def _options(node: Node) -> tuple[tuple[Option, ...], OptionsSource | None]:
    value: Any = node.raw("options")
    if isinstance(value, Mapping):
        inner = node.node("options")
        return (), None if inner is None else _source(inner)
    return read_options(node), None


def _provider(node: Node) -> tuple[str, OptionsSource | None]:
    if isinstance(node.raw("options_source"), Mapping):
        inner = node.node("options_source")
        return "", None if inner is None else _source(inner)
    return node.text("options_source", pattern=names.NAME, form=names.NAME_FORM), None


def _source(node: Node) -> OptionsSource:
    found = OptionsSource(
        source=node.text("source", required=True, pattern=names.REFERENCE, form=names.REFERENCE_FORM),
        filter_by=node.text("filter_by", pattern=names.COLUMN, form=names.COLUMN_FORM),
        value=node.text("value", "id", pattern=names.COLUMN, form=names.COLUMN_FORM),
        label=node.text("label", pattern=names.COLUMN, form=names.COLUMN_FORM),
    )
    node.warn_unknown()
    return found
