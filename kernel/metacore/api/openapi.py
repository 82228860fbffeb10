"""The API described: the kernel's routes for anybody, the live models of the caller's organization after login."""

import copy
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.deps import OptionalPrincipalDependency
from metacore.api.route import KernelRoute
from metacore.errors import NotFound
from metacore.identity import Principal
from metacore.manifest.model import Column, ColumnType
from metacore.registry import LiveModel, Registry

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

ASSETS: Final[Mapping[str, tuple[str, str, str]]] = {
    "swagger-ui-bundle.js": ("fastapi_swagger.resources", "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("fastapi_swagger.resources", "swagger-ui.css", "text/css"),
    "login.js": ("metacore.api", "docs_page/login.js", "text/javascript"),
    "login.css": ("metacore.api", "docs_page/login.css", "text/css"),
}

CONTENT_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"


def build_docs_router(
    described: FastAPI | APIRouter,
    registry: Registry,
    optional_principal: OptionalPrincipalDependency,
    *,
    prefix: str,
    version: str,
) -> APIRouter:
    """`/docs`, `/docs/assets/*` and `/openapi.json`; nothing is loaded from other hosts."""
    router = APIRouter(route_class=KernelRoute, include_in_schema=False)
    Caller = Annotated[Principal | None, Depends(optional_principal)]  # noqa: N806 - a type.
    base: dict[str, Any] = {}

    @router.get("/openapi.json")
    async def openapi(principal: Caller) -> Response:
        if not base:
            base.update(
                get_openapi(
                    title="Metacore",
                    version=version,
                    routes=described.routes,
                    description="Log in on /docs to see the models of your organization.",
                )
            )
        models = registry.models_of(principal.organization_id) if principal is not None else {}
        return envelope.bare(with_models(base, models, prefix), headers={"Cache-Control": "private, no-cache"})

    @router.get("/docs")
    async def docs() -> Response:
        page = (resources.files("metacore.api") / "docs_page" / "index.html").read_text("utf-8")
        return Response(
            page.replace("{{prefix}}", prefix),
            media_type="text/html",
            headers={"Content-Security-Policy": CONTENT_POLICY, "X-Content-Type-Options": "nosniff"},
        )

    @router.get("/docs/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(f"no asset {name[:64]!r}")
        package, path, media_type = ASSETS[name]
        content = resources.files(package).joinpath(*path.split("/")).read_bytes()
        return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"})

    return router


def with_models(base: Mapping[str, Any], models: Mapping[str, LiveModel], prefix: str) -> dict[str, Any]:
    """A copy of the kernel's OpenAPI document with the paths and schemas of `models` added."""
    document = copy.deepcopy(dict(base))
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for key in sorted(models):
        model = models[key]
        schemas[f"{model.key}"] = row_schema(model)
        schemas[f"{model.key}Input"] = input_schema(model)
        document["paths"].update(model_paths(model, prefix))
    return document


def row_schema(model: LiveModel) -> dict[str, Any]:
    """The JSON schema of a row as it is read: every stored column except secret ones."""
    properties: dict[str, Any] = {}
    for name in model.stored:
        declared = model.definition.column(name)
        if declared is None:
            properties[name] = _stored_schema(model.stored[name].type)
        elif not declared.secret:
            properties[name] = column_schema(declared)
    return {"type": "object", "title": model.definition.label or model.key, "properties": properties}


def input_schema(model: LiveModel) -> dict[str, Any]:
    """The JSON schema of what a client may send."""
    writable = [column for column in model.definition.columns if not column.readonly and not column.generated]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {column.name: column_schema(column) for column in writable},
    }
    required = [column.name for column in writable if column.required and column.default is None]
    if required:
        schema["required"] = required
    return schema


def column_schema(column: Column) -> dict[str, Any]:
    schema = dict(COLUMN_SCHEMAS[column.type])
    if column.description:
        schema["description"] = column.description
    if column.type is ColumnType.STRING:
        schema["maxLength"] = column.size or 255
    if column.validation.regex:
        schema["pattern"] = column.validation.regex
    if column.options and column.widget != "multi_select":
        schema["enum"] = [option.value for option in column.options]
    if column.secret:
        schema["writeOnly"] = True
    return schema


def model_paths(model: LiveModel, prefix: str) -> dict[str, Any]:
    root = f"{prefix}/dynamic/{model.key}"
    tag = model.definition.label or model.key
    row = {"$ref": f"#/components/schemas/{model.key}"}
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.key}Input"}}},
    }
    identifier = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    security: list[dict[str, list[str]]] = [{"HTTPBearer": []}]

    def operation(what: str, name: str, data: Any, status: str = "200", **more: Any) -> dict[str, Any]:
        reply = {"type": "object", "properties": {"success": {"type": "boolean"}, "data": data}}
        return {
            "tags": [tag],
            "summary": what,
            "operationId": f"{model.key}.{name}",
            "security": security,
            "responses": {status: {"description": what, "content": {"application/json": {"schema": reply}}}},
            **more,
        }

    filters = [
        (f"f_{column.key}", {"type": "string"}, f"Filter {column.label or column.key}: value or op:value")
        for column in model.table.columns
        if column.filterable
    ]
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
        for name, schema, description in (*LIST_PARAMETERS, *filters)
    ]
    return {
        root: {
            "get": operation("List rows", "list", {"type": "array", "items": row}, parameters=parameters),
            "post": operation("Create a row", "create", row, "201", requestBody=body),
        },
        root + "/{id}": {
            "parameters": [identifier],
            "get": operation("Read a row", "get", row),
            "patch": operation("Update a row", "update", row, requestBody=body),
            "delete": operation("Delete a row", "delete", {"type": "object"}),
        },
    }


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
