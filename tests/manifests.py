"""Small valid manifests to break, and the words to say where they broke."""

from __future__ import annotations

import copy
import json
from typing import Any

from metacore.errors import Problem
from metacore.manifest.model import Manifest
from metacore.manifest.read import inspect_manifest, parse_manifest

Json = dict[str, Any]

V2: Json = {
    "key": "tickets",
    "name": "Tickets",
    "version": "1.0.0",
    "kernel": ">=2.0.0 <3.0.0",
    "model_definitions": [
        {
            "table_name": "tickets",
            "model_key": "tickets",
            "columns": [
                {"name": "title", "type": "string", "required": True},
                {"name": "status", "type": "string", "size": 20, "default": "'open'"},
                {"name": "amount", "type": "decimal", "default": 0},
            ],
        }
    ],
}
V3: Json = {
    "apiVersion": "asteby.com/v3",
    "kind": "Addon",
    "metadata": {"key": "shop", "name": "Shop", "version": "1.2.0"},
    "compatibility": {"requires": [{"key": "kernel", "version": ">=3.0.0 <4.0.0"}]},
    "models": [
        {
            "key": "Order",
            "table": "orders",
            "columns": [
                {"name": "number", "type": "string"},
                {"name": "status", "type": "string", "default": "new"},
                {"name": "net", "type": "decimal", "default": 0},
                {"name": "tax", "type": "decimal", "default": 0},
                {"name": "total", "type": "decimal"},
                {"name": "lines_count", "type": "int", "default": 0},
                {"name": "placed_on", "type": "date"},
                {"name": "paid_on", "type": "date"},
            ],
        },
        {
            "key": "Line",
            "table": "order_lines",
            "columns": [
                {"name": "order_id", "type": "uuid", "not_null": True, "ref": "Order"},
                {"name": "quantity", "type": "int", "not_null": True, "default": 1},
                {"name": "price", "type": "decimal", "not_null": True, "default": 0},
                {"name": "note", "type": "text"},
            ],
        },
    ],
}


def v2(**changes: Any) -> Json:
    """The v2 manifest with top-level keys set; None takes one away."""
    return _changed(V2, changes)


def v3(**changes: Any) -> Json:
    """The v3 manifest with top-level keys set; None takes one away."""
    return _changed(V3, changes)


def v2_model(**changes: Any) -> Json:
    """The v2 manifest with keys of its one model set."""
    manifest = v2()
    manifest["model_definitions"][0].update(changes)
    return manifest


def v2_column(**column: Any) -> Json:
    """The v2 manifest with one more column, `extra`, of type string."""
    manifest = v2()
    manifest["model_definitions"][0]["columns"].append({"name": "extra", "type": "string", **column})
    return manifest


def v3_order(**changes: Any) -> Json:
    """The v3 manifest with keys of the model Order set."""
    manifest = v3()
    manifest["models"][0].update(changes)
    return manifest


def v3_column(**column: Any) -> Json:
    """The v3 manifest with one more column of Order, `extra`, of type string."""
    manifest = v3()
    manifest["models"][0]["columns"].append({"name": "extra", "type": "string", **column})
    return manifest


EXTRA_V2 = "manifest.model_definitions[0].columns[3]"
EXTRA_V3 = "manifest.models[0].columns[8]"
"""Where `v2_column` and `v3_column` put their column."""


def read(manifest: Json) -> Manifest:
    """The manifest by way of its JSON text."""
    return parse_manifest(json.dumps(manifest).encode())


def problems(manifest: Json) -> list[tuple[str, str]]:
    """(path, code) of everything that is wrong."""
    return [(problem.field, problem.code) for problem in found(manifest)]


def found(manifest: Json) -> tuple[Problem, ...]:
    return inspect_manifest(json.dumps(manifest).encode()).problems


def warnings(manifest: Json) -> list[tuple[str, str]]:
    return [(problem.field, problem.code) for problem in inspect_manifest(manifest).warnings]


def _changed(base: Json, changes: Json) -> Json:
    made = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = value
    return made
