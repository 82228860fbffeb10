"""An addon with code: orders and their lines, whose guest does what its request says (tests/guests/script.wat)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import httpx2
from tests.control_plane import Headers, Plane
from tests.guests.build import guest
from tests.tickets import signed

from metacore.bundle.write import write_bundle

WORKSHOP: dict[str, Any] = {
    "apiVersion": "asteby.com/v3",
    "kind": "Addon",
    "metadata": {"key": "workshop", "name": "Workshop", "version": "1.0.0"},
    "compatibility": {"requires": [{"key": "kernel", "version": ">=3.0.0 <4.0.0"}]},
    "models": [
        {
            "key": "Order",
            "table": "orders",
            "columns": [
                {"name": "title", "type": "string", "size": 100, "not_null": True},
                {"name": "status", "type": "string", "size": 20, "not_null": True, "default": "open"},
                {"name": "count", "type": "int", "default": 0, "constraints": [{"expr": "count >= 0"}]},
                {
                    "name": "weight",
                    "type": "int",
                    "constraints": [{"expr": "weight >= 0", "error_key": "weight.negative"}],
                },
                {"name": "price", "type": "decimal", "default": 2},
                {"name": "total", "type": "decimal"},
                {"name": "pin", "type": "string", "widget": "password"},
                {"name": "closed_by", "type": "string", "size": 60, "readonly": True},
                {"name": "number", "type": "string", "size": 20, "not_null": True, "sequence": "number"},
                {"name": "place", "type": "int", "sequence": "place"},
            ],
            "sequences": [
                {"key": "number", "format": "A-{seq:06}"},
                {"key": "place", "scope": "status"},
            ],
            "formulas": [{"target": "total", "expr": "count * price"}],
        },
        {
            "key": "Line",
            "table": "order_lines",
            "soft_delete": True,
            "columns": [
                {"name": "order_id", "type": "uuid", "ref": "Order"},
                {"name": "code", "type": "string", "size": 20, "unique": True},
            ],
        },
    ],
    "backend": {
        "runtime": "wasm",
        "entry": "backend/backend.wasm",
        "exports": ["run", "run_too", "echo"],
        "memory_limit_mb": 16,
        "timeout_ms": 5000,
    },
    "capabilities": [{"kind": "event:emit", "target": "workshop.*"}],
    "settings": [
        {"key": "greeting", "type": "string", "default_value": "hi"},
        {"key": "limit", "type": "number", "default_value": 7},
        {"key": "token", "type": "string", "secret": True},
    ],
    "contributions": {
        "actions": [
            {"key": "run", "label": "Run", "target_model": "Order", "handler": {"type": "wasm", "function": "run"}},
            {
                "key": "close",
                "target_model": "Order",
                "handler": {"type": "wasm", "function": "run_too", "run_in_tx": True},
                "requires_state": ["open"],
            },
            {
                "key": "tally",
                "target_model": "Order",
                "placement": "table",
                "handler": {"type": "wasm", "function": "run"},
            },
            {
                "key": "rename",
                "label": "Rename",
                "target_model": "Order",
                "handler": {"type": "wasm", "function": "echo"},
                "fields": [
                    {"key": "title", "type": "text", "required": True, "validation": {"min": 3, "regex": "^[a-z]+$"}},
                    {"key": "count", "type": "number", "defaultValue": 4},
                    {"key": "kind", "type": "select", "options": [{"value": "a", "label": "A"}]},
                ],
            },
            {"key": "nothing", "target_model": "Order", "handler": {"type": "noop"}},
            {"key": "stamp", "target_model": "Order", "handler": {"type": "compiled", "function": "stamp"}},
            {"key": "link", "target_model": "Order", "linkUrl": "/somewhere"},
        ]
    },
}


def workshop_manifest(**changes: Any) -> dict[str, Any]:
    """The manifest with top-level keys set; `key`, `name` and `version` go into `metadata`."""
    manifest = copy.deepcopy(WORKSHOP)
    for word in ("key", "name", "version"):
        if word in changes:
            manifest["metadata"][word] = changes.pop(word)
    return manifest | changes


def workshop_bundle(manifest: Mapping[str, Any] | None = None, wasm: bytes | None = None) -> bytes:
    return write_bundle(
        {
            "manifest.json": json.dumps(manifest or workshop_manifest()).encode(),
            "backend/backend.wasm": wasm if wasm is not None else guest("script"),
        }
    )


async def install(plane: Plane, *organizations: Headers, manifest: Mapping[str, Any] | None = None) -> None:
    """Install the addon for the organizations of these callers and serve it."""
    manifest = manifest or workshop_manifest()
    content, signature = signed(workshop_bundle(manifest))
    async with plane.working():
        for headers in organizations:
            reply = await plane.install(headers, content, signature, key=manifest["metadata"]["key"])
            assert reply.status_code == 201, reply.text


async def act(plane: Plane, headers: Headers, key: str, row: str | None, **given: Any) -> httpx2.Response:
    """Run an action of orders, on a row or, with None, on the model."""
    place = f"/{row}" if row is not None else ""
    return await plane.client.post(f"/api/dynamic/orders{place}/action/{key}", json=given, headers=headers, timeout=60)


async def order(plane: Plane, headers: Headers, **values: Any) -> str:
    """A new order; its id."""
    reply = await plane.client.post("/api/dynamic/orders", json={"title": "one", **values}, headers=headers)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["data"]["id"])
