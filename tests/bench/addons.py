"""The addons that are installed for a measurement: one that is driven, and others that a kernel has to carry."""

from __future__ import annotations

import json
from typing import Any

from nacl.signing import SigningKey

from metacore.bundle.signature import Signature, TrustedKeys, sign
from metacore.bundle.write import write_bundle

KEY = "bench"
MODEL = "BenchItem"
TABLE = "bench_items"
SCHEMA = "addon_bench"

COLUMNS: list[dict[str, Any]] = [
    {"name": "title", "type": "string", "size": 200, "not_null": True},
    {"name": "description", "type": "text"},
    {"name": "status", "type": "string", "size": 20, "not_null": True, "default": "open", "index": True},
    {"name": "priority", "type": "int", "not_null": True, "default": 3},
    {"name": "amount", "type": "decimal", "default": 0},
    {"name": "active", "type": "bool", "not_null": True, "default": True},
    {"name": "due", "type": "date"},
    {"name": "seen_at", "type": "timestamp"},
    {"name": "owner_ref", "type": "uuid"},
    {"name": "meta", "type": "jsonb", "default": "{}"},
]
"""One of every usual type; with the kernel's own columns a row has sixteen."""

SIGNING_KEY = SigningKey.generate()
TRUSTED = TrustedKeys((bytes(SIGNING_KEY.verify_key),))


def driven() -> tuple[bytes, Signature]:
    """The addon whose rows are listed, read and written."""
    return _signed(_manifest(KEY, [_model(MODEL, TABLE)]))


def carried(number: int) -> tuple[bytes, Signature]:
    """One of those that are only there: three models, a menu, settings and texts in two languages."""
    key = f"carried{number}"
    models = [_model(f"Carried{number}Thing{each}", f"{key}_things{each}") for each in range(3)]
    manifest = _manifest(key, models)
    items = [{"title": model["label"], "model": model["key"]} for model in models]
    manifest["contributions"] = {"navigation": [{"title": f"Carried {number}", "items": items}]}
    manifest["settings"] = [{"key": "greeting", "label": "Greeting", "type": "string", "default": "hi"}]
    texts = {f"{key}.{column['name']}": column["name"].title() for column in COLUMNS}
    bundles = [{"locale": locale, "messages": texts} for locale in ("en", "de")]
    manifest["i18n"] = {"default_locale": "en", "bundles": bundles}
    return _signed(manifest)


def _manifest(key: str, models: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "asteby.com/v3",
        "kind": "Addon",
        "metadata": {"key": key, "name": key.title(), "version": "1.0.0"},
        "compatibility": {"requires": [{"key": "kernel", "version": ">=3.0.0 <4.0.0"}]},
        "models": models,
    }


def _model(key: str, table: str) -> dict[str, Any]:
    return {"key": key, "table": table, "label": key, "soft_delete": True, "columns": COLUMNS}


def _signed(manifest: dict[str, Any]) -> tuple[bytes, Signature]:
    content = write_bundle({"manifest.json": json.dumps(manifest).encode()})
    return content, sign(content, SIGNING_KEY)
