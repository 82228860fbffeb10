"""A small real addon in v3, and signed bundles made in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from nacl.signing import SigningKey

from metacore.bundle.read import Bundle, read_bundle
from metacore.bundle.signature import Signature, TrustedKeys, sign
from metacore.bundle.write import write_bundle

SIGNING_KEY = SigningKey(b"the signing key of the tests ...")
TRUSTED = TrustedKeys((bytes(SIGNING_KEY.verify_key),))

TICKETS: dict[str, Any] = {
    "apiVersion": "asteby.com/v3",
    "kind": "Addon",
    "metadata": {"key": "tickets", "name": "Tickets", "version": "1.0.0"},
    "compatibility": {"requires": [{"key": "kernel", "version": ">=3.0.0 <4.0.0"}]},
    "models": [
        {
            "key": "Ticket",
            "table": "tickets",
            "soft_delete": True,
            "columns": [
                {"name": "title", "type": "string", "size": 200, "not_null": True},
                {"name": "status", "type": "string", "size": 20, "not_null": True, "default": "open", "index": True},
                {"name": "priority", "type": "int", "not_null": True, "default": 3},
                {"name": "amount", "type": "decimal", "default": 0},
                {"name": "due_at", "type": "timestamp"},
                {"name": "meta", "type": "jsonb", "default": "{}"},
            ],
        },
        {
            "key": "Comment",
            "table": "ticket_comments",
            "columns": [
                {"name": "ticket_id", "type": "uuid", "not_null": True, "ref": "Ticket"},
                {"name": "body", "type": "text", "not_null": True},
            ],
            "relations": [
                {"name": "ticket", "kind": "belongs_to", "through": "Ticket", "foreign_key": "ticket_id"},
            ],
        },
        {
            "key": "TicketKind",
            "table": "ticket_kinds",
            "columns": [
                {"name": "code", "type": "string", "size": 20, "not_null": True, "unique": True},
                {"name": "label", "type": "string"},
            ],
            "seed": {"key": "code", "rows": [{"code": "bug", "label": "Bug"}, {"code": "wish", "label": "Wish"}]},
        },
    ],
    "capabilities": [{"kind": "event:emit", "target": "tickets.*", "reason": "tells others"}],
    "settings": [
        {"key": "greeting", "label": "Greeting", "type": "string", "default_value": "hi"},
        {"key": "token", "label": "Token", "type": "string", "secret": True},
    ],
}


def tickets_manifest(**changes: Any) -> dict[str, Any]:
    """The manifest with top-level keys set; `version`, `key` and `name` go into `metadata`, None takes a key away."""
    manifest = copy.deepcopy(TICKETS)
    for word in ("version", "key", "name"):
        if word in changes:
            manifest["metadata"][word] = changes.pop(word)
    for key, value in changes.items():
        if value is None:
            manifest.pop(key, None)
        else:
            manifest[key] = value
    return manifest


def make_bundle(
    manifest: Mapping[str, Any],
    migrations: Mapping[str, str] | None = None,
    frontend: Mapping[str, bytes] | None = None,
) -> bytes:
    """A bundle; `migrations` by file name (`0001_init.sql`), `frontend` by path below frontend/."""
    files = {"manifest.json": json.dumps(manifest).encode()}
    files.update({f"migrations/{name}": sql.encode() for name, sql in (migrations or {}).items()})
    files.update({f"frontend/{path}": content for path, content in (frontend or {}).items()})
    return write_bundle(files)


def signed(content: bytes) -> tuple[bytes, Signature]:
    """A bundle with the signature of the tests' key, which `TRUSTED` trusts."""
    return content, sign(content, SIGNING_KEY)


def read(manifest: Mapping[str, Any], migrations: Mapping[str, str] | None = None) -> Bundle:
    """The bundle as the installer reads it."""
    return read_bundle(make_bundle(manifest, migrations))
