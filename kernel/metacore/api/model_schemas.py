"""Live models in the words of OpenAPI 3.1: schemas of their rows, and their routes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from metacore.manifest.model import Column, ColumnType
from metacore.registry import LiveModel

Words = Callable[[str], str]
"""What a reader sees for a text of a manifest: the translation, where the text is a key of one."""

COLUMN_SCHEMAS: Final[Mapping[ColumnType, dict[str, Any]]] = {
    ColumnType.STRING: {"type": "string"},
    ColumnType.TEXT: {"type": "string"},
    ColumnType.UUID: {"type": "string", "format": "uuid"},
    ColumnType.INT: {"type": "integer", "format": "int32"},
    ColumnType.BIGINT: {"type": "integer", "format": "int64"},
    ColumnType.DECIMAL: {"type": "number"},
    ColumnType.BOOL: {"type": "boolean"},
    ColumnType.TIMESTAMP: {"type": "string", "format": "date-time"},
    ColumnType.DATE: {"type": "string", "format": "date"},
    ColumnType.JSONB: {},
}

LIST_PARAMETERS: Final[tuple[tuple[str, dict[str, Any], str], ...]] = (
    ("page", {"type": "integer", "default": 1}, "Page number, from 1"),
    ("per_page", {"type": "integer", "default": 20}, "Rows of a page"),
    ("sortBy", {"type": "string"}, "Column to sort by"),
    ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}, "Direction of the sort"),
    ("search", {"type": "string"}, "Text to find in the search columns"),
)

IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "ETag of the row as it was read: 412 when it is another one by now",
}

OBJECT_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}
"""The body of a route that takes any JSON object."""

OPTIONAL_OBJECT_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}
}
"""The body of a route that takes a JSON object or nothing."""

PAGE_META: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("total", "page", "per_page", "last_page")},
}

FAILURE_NAME: Final = "Failure"
FAILURE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["success", "message"],
    "properties": {
        "success": {"const": False},
        "message": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("field", "code", "message")},
            },
        },
    },
}
FAILED: Final[dict[str, Any]] = {
    "description": "Refused; `message` says why",
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{FAILURE_NAME}"}}},
}


def model_schemas(model: LiveModel, words: Words) -> dict[str, Any]:
    """The component schemas of a model. Their names have a dot, so no name of the kernel or a host is among them."""
    name = _name(model)
    writable = [column for column in model.definition.columns if not column.readonly and not column.generated]
    properties = {column.name: column_schema(column, words) for column in writable}
    required = [
        column.name for column in writable if column.required and column.default is None and not column.sequence
    ]
    title = model_tag(model, words)
    return {
        name: row_schema(model, words),
        f"{name}.create": {
            "type": "object",
            "title": f"{title}, new",
            "properties": properties,
            **({"required": required} if required else {}),
        },
        f"{name}.update": {"type": "object", "title": f"{title}, changes", "properties": properties},
    }


def model_tag(model: LiveModel, words: Words) -> str:
    """The section that a model's routes stand in."""
    return words(model.definition.label) or model.key


def row_schema(model: LiveModel, words: Words) -> dict[str, Any]:
    """The JSON schema of a row as it is read: every stored column except secret ones."""
    properties: dict[str, Any] = {}
    for name, stored in model.stored.items():
        declared = model.definition.column(name)
        if declared is not None and declared.secret:
            continue
        schema = column_schema(declared, words) if declared is not None else _stored_schema(stored.type)
        properties[name] = _or_null(schema) if stored.nullable else schema
    return {"type": "object", "title": model_tag(model, words), "properties": properties}


def column_schema(column: Column, words: Words) -> dict[str, Any]:
    schema = dict(COLUMN_SCHEMAS[column.type])
    if column.description:
        schema["description"] = words(column.description)
    if column.type is ColumnType.STRING:
        schema["maxLength"] = column.size or 255
    if column.validation.regex:
        schema["pattern"] = column.validation.regex
    if column.options and column.widget != "multi_select":
        schema["enum"] = [option.value for option in column.options]
    if column.secret:
        schema["writeOnly"] = True
    return schema


def model_paths(model: LiveModel, prefix: str, words: Words) -> dict[str, Any]:
    """The path items of a model under `prefix`."""
    root = f"{prefix}/dynamic/{model.key}"
    tag = model_tag(model, words)
    row = {"$ref": f"#/components/schemas/{_name(model)}"}
    identifier = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    security: list[dict[str, list[str]]] = [{"HTTPBearer": []}]

    def body(kind: str) -> dict[str, Any]:
        schema = {"$ref": f"#/components/schemas/{_name(model)}.{kind}"}
        return {"required": True, "content": {"application/json": {"schema": schema}}}

    def operation(
        what: str,
        name: str,
        data: Any,
        status: str = "200",
        *,
        meta: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        properties = {"success": {"const": True}, "data": data, **({"meta": meta} if meta else {})}
        reply = {"application/json": {"schema": {"type": "object", "properties": properties}}}
        return {
            "tags": [tag],
            "summary": what,
            "operationId": f"{model.key}.{name}",
            "security": security,
            "responses": {status: {"description": what, "content": reply}, "4XX": FAILED},
            **more,
        }

    filters = [
        (f"f_{column.key}", {"type": "string"}, f"Filter {words(column.label) or column.key}: value or op:value")
        for column in model.table.columns
        if column.filterable
    ]
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
        for name, schema, description in (*LIST_PARAMETERS, *filters)
    ]
    rows = {"type": "array", "items": row}
    gone = {"type": "object", "properties": {"id": {"type": "string", "format": "uuid"}}}
    return {
        root: {
            "get": operation("List rows", "list", rows, meta=PAGE_META, parameters=parameters),
            "post": operation("Create a row", "create", row, "201", requestBody=body("create")),
        },
        root + "/{id}": {
            "parameters": [identifier],
            "get": operation("Read a row", "get", row),
            "patch": operation("Change a row", "update", row, requestBody=body("update"), parameters=[IF_MATCH]),
            "delete": operation("Delete a row", "delete", gone, parameters=[IF_MATCH]),
        },
    }


def _name(model: LiveModel) -> str:
    return f"{model.addon_key}.{model.key}"


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not schema:
        return {}
    shown = {**schema, "type": [schema["type"], "null"]}
    return {**shown, "enum": [*shown["enum"], None]} if "enum" in shown else shown


def _stored_schema(stored_type: str) -> dict[str, Any]:
    if stored_type == "uuid":
        return {"type": "string", "format": "uuid"}
    if stored_type.startswith("timestamp"):
        return {"type": "string", "format": "date-time"}
    if stored_type in ("integer", "bigint", "smallint"):
        return {"type": "integer"}
    if stored_type.startswith(("numeric", "double", "real")):
        return {"type": "number"}
    if stored_type == "boolean":
        return {"type": "boolean"}
    return {} if stored_type.startswith("json") else {"type": "string"}
