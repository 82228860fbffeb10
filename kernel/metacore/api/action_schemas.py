"""Actions of live models in the words of OpenAPI 3.1: their routes, and the schemas of their input. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from metacore.api.model_schemas import FAILED, Words, model_tag
from metacore.metadata.model import ActionDef
from metacore.registry import LiveModel

META: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["model", "action", "trigger"],
    "properties": {
        **{name: {"type": "string"} for name in ("model", "action", "trigger")},
        "rolled_back": {"type": "boolean"},
    },
}
REPLY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["success", "meta"],
    "properties": {"success": {"const": True}, "data": {}, "meta": META},
}

FIELD_SCHEMAS: Final[Mapping[str, dict[str, Any]]] = {
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
    "email": {"type": "string", "format": "email"},
    "url": {"type": "string", "format": "uri-reference"},
}
"""Fields of these types; every other one is a text."""


def action_paths(model: LiveModel, actions: Mapping[str, ActionDef], prefix: str, words: Words) -> dict[str, Any]:
    """The path items of a model's `actions`, which are by key."""
    identifier = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    paths: dict[str, Any] = {}
    for key, action in actions.items():
        place = "" if action.is_collection else "/{id}"
        label = words(action.label) or key
        operation = {
            "tags": [model_tag(model, words)],
            "summary": label,
            "operationId": f"{model.key}.action.{key}",
            "security": [{"HTTPBearer": []}],
            "requestBody": {
                "required": any(field.required for field in action.fields),
                "content": {"application/json": {"schema": input_schema(action, words)}},
            },
            "responses": {
                "200": {"description": label, "content": {"application/json": {"schema": REPLY}}},
                "4XX": FAILED,
            },
        }
        parameters = {} if action.is_collection else {"parameters": [identifier]}
        paths[f"{prefix}/dynamic/{model.key}{place}/action/{key}"] = {**parameters, "post": operation}
    return paths


def input_schema(action: ActionDef, words: Words) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in action.fields:
        schema = dict(FIELD_SCHEMAS.get(field.type, {"type": "string"}))
        if field.options and field.type == "select":
            schema = {"enum": [option.value for option in field.options]}
        if field.label:
            schema["title"] = words(field.label)
        if field.default_value is not None:
            schema["default"] = field.default_value
        properties[field.key] = schema
    required = [field.key for field in action.fields if field.required and field.default_value is None]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}
