"""How a column type and a widget show: as a form field, as a table cell, as a filter. Tables only, no rules."""

from __future__ import annotations

from collections.abc import Mapping

from metacore.manifest.model import ColumnType

FIELD_TYPES = frozenset({"text", "textarea", "select", "search", "number", "date", "email", "url", "boolean", "image"})
"""The field types of contract 4; clients know no others."""

FIELD_OF_WIDGET: Mapping[str, str] = {
    **{name: name for name in FIELD_TYPES},
    "multi_select": "select",
    "datetime": "date",
    "file": "url",
    "richtext": "textarea",
    "json": "textarea",
    "relation": "search",
    "password": "text",
    "slider": "number",
    "rating": "number",
}

FIELD_OF_TYPE: Mapping[ColumnType, str] = {
    ColumnType.STRING: "text",
    ColumnType.TEXT: "textarea",
    ColumnType.UUID: "text",
    ColumnType.INT: "number",
    ColumnType.BIGINT: "number",
    ColumnType.DECIMAL: "number",
    ColumnType.BOOL: "boolean",
    ColumnType.TIMESTAMP: "date",
    ColumnType.DATE: "date",
    ColumnType.JSONB: "textarea",
}

CELL_OF_WIDGET: Mapping[str, str] = {
    "text": "text",
    "textarea": "text",
    "richtext": "text",
    "select": "badge",
    "multi_select": "tags",
    "search": "search",
    "relation": "search",
    "number": "number",
    "slider": "number",
    "rating": "number",
    "date": "date",
    "datetime": "datetime",
    "email": "email",
    "url": "url",
    "file": "url",
    "boolean": "boolean",
    "image": "image",
    "json": "json",
}

CELL_OF_TYPE: Mapping[ColumnType, str] = {
    ColumnType.STRING: "text",
    ColumnType.TEXT: "text",
    ColumnType.UUID: "text",
    ColumnType.INT: "number",
    ColumnType.BIGINT: "number",
    ColumnType.DECIMAL: "number",
    ColumnType.BOOL: "boolean",
    ColumnType.TIMESTAMP: "datetime",
    ColumnType.DATE: "date",
    ColumnType.JSONB: "json",
}

FILTER_OF_TYPE: Mapping[ColumnType, str] = {
    ColumnType.STRING: "text",
    ColumnType.TEXT: "text",
    ColumnType.UUID: "text",
    ColumnType.INT: "number_range",
    ColumnType.BIGINT: "number_range",
    ColumnType.DECIMAL: "number_range",
    ColumnType.BOOL: "boolean",
    ColumnType.TIMESTAMP: "date_range",
    ColumnType.DATE: "date_range",
}

UNSORTABLE_WIDGETS = frozenset({"image", "file", "json", "richtext", "multi_select"})
UNFILTERABLE_WIDGETS = UNSORTABLE_WIDGETS | {"textarea"}
UNSEARCHABLE_WIDGETS = frozenset({"image", "file", "json", "password"})
