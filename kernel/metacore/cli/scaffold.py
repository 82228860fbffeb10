"""The addon that `metacore bundle init` writes: small, and valid as it is; with code where a language is named."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from metacore.errors import InvalidInput
from metacore.manifest import names

TEMPLATES = Path(__file__).parent / "templates"


class Language(StrEnum):
    """What `--lang` may say."""

    NONE = "none"
    GO = "go"
    ASSEMBLYSCRIPT = "assemblyscript"
    WAT = "wat"


KERNEL_V2, KERNEL_V3 = ">=2.0.0 <3.0.0", ">=3.0.0 <4.0.0"


def key_from(name: str) -> str:
    """An addon key made from a folder's name: `Help Desk` gives `help_desk`."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    word = word if word[:1].isalpha() else f"addon_{word}".rstrip("_")
    return (word if len(word) > 1 else f"{word}_addon")[:48].rstrip("_")


def scaffold(key: str, *, v2: bool = False, language: Language = Language.NONE) -> dict[str, bytes]:
    """The files of a new addon by path.

    Raises:
        InvalidInput: the key cannot be one, or a version 2 manifest shall have code.
    """
    if not names.ADDON_KEY.fullmatch(key) or names.TENANT_SUFFIX.fullmatch(key) or key == "kernel":
        raise InvalidInput(f"{key!r} cannot be the key of an addon: it {names.ADDON_KEY_FORM}", code="key")
    if v2 and language is not Language.NONE:
        raise InvalidInput("code is written for version 3 manifests: leave out --v2 or --lang", code="v2")
    manifest = _v2(key) if v2 else _v3(key)
    code: dict[str, bytes] = {}
    if language is not Language.NONE:
        _add_action(manifest, _model(key))
        folder = TEMPLATES / language
        files = sorted(place for place in folder.rglob("*") if place.is_file())
        code = {f"code/{place.relative_to(folder).as_posix()}": place.read_bytes() for place in files}
        code[".gitignore"] = b"/backend/\nnode_modules/\n"
    return {
        "manifest.json": json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n",
        "README.md": _readme(key, _table(key) if v2 else _model(key), language).encode(),
        **code,
    }


def _title(key: str) -> str:
    return " ".join(word.capitalize() for word in key.split("_") if word)


def _model(key: str) -> str:
    # Models of all addons share one space of names, so the addon's key is part of each.
    return "".join(word.capitalize() for word in key.split("_") if word) + "Item"


def _table(key: str) -> str:
    return f"{key}_items"


def _v3(key: str) -> dict[str, Any]:
    model = _model(key)
    return {
        "apiVersion": "asteby.com/v3",
        "kind": "Addon",
        "metadata": {
            "key": key,
            "name": _title(key),
            "description": f"What {_title(key)} is for.",
            "version": "0.1.0",
            "category": "utility",
            "icon": {"type": "lucide", "slug": "Box", "color": "#0EA5E9"},
        },
        "compatibility": {"requires": [{"key": "kernel", "version": KERNEL_V3}]},
        "tenancy": {"isolation": "shared"},
        "models": [
            {
                "key": model,
                "table": _table(key),
                "label": _title(key),
                "columns": [
                    {"name": "title", "type": "string", "size": 120, "not_null": True, "searchable": True},
                    {
                        "name": "status",
                        "type": "string",
                        "size": 20,
                        "not_null": True,
                        "default": "open",
                        "options": [
                            {"value": "open", "label": "Open", "color": "green"},
                            {"value": "done", "label": "Done", "color": "gray"},
                        ],
                    },
                    {"name": "quantity", "type": "integer", "default": 1, "constraints": [{"expr": "quantity >= 0"}]},
                    {"name": "due_at", "type": "timestamptz"},
                    {"name": "notes", "type": "text", "widget": "textarea"},
                ],
                "indices": [{"name": f"{_cut(key)}_items_status_idx", "columns": ["organization_id", "status"]}],
            }
        ],
        "contributions": {
            "navigation": [
                {"title": _title(key), "icon": "Box", "items": [{"title": "Items", "model": model, "icon": "List"}]}
            ]
        },
        "settings": [{"key": "reminder_days", "label": "Remind after days", "type": "integer", "default": 3}],
    }


def _v2(key: str) -> dict[str, Any]:
    return {
        "key": key,
        "name": _title(key),
        "description": f"What {_title(key)} is for.",
        "version": "0.1.0",
        "category": "utility",
        "icon_type": "lucide",
        "icon_slug": "Box",
        "kernel": KERNEL_V2,
        "tenant_isolation": "shared",
        "model_definitions": [
            {
                "model_key": _table(key),
                "table_name": _table(key),
                "label": _title(key),
                "org_scoped": True,
                "soft_delete": True,
                "columns": [
                    {"name": "title", "type": "string", "size": 120, "required": True, "searchable": True},
                    {"name": "status", "type": "string", "size": 20, "default": "'open'", "index": True},
                    {"name": "quantity", "type": "int", "default": 1, "validation": {"min": 0}},
                    {"name": "due_at", "type": "timestamp"},
                    {"name": "notes", "type": "text", "widget": "textarea"},
                ],
            }
        ],
        "navigation": [
            {"title": _title(key), "icon": "Box", "items": [{"title": "Items", "model": _table(key), "icon": "List"}]}
        ],
        "settings": [{"key": "reminder_days", "label": "Remind after days", "type": "integer", "default_value": 3}],
    }


def _cut(key: str) -> str:
    return key[:45].rstrip("_")


def _add_action(manifest: dict[str, Any], model: str) -> None:
    """The action `greet` on a row, run by the export of that name."""
    manifest["backend"] = {"runtime": "wasm", "exports": ["greet"], "memory_limit_mb": 64, "timeout_ms": 5_000}
    handler = {"type": "wasm", "function": "greet"}
    manifest["contributions"]["actions"] = [
        {"key": "greet", "label": "Greet", "target_model": model, "placement": "row", "handler": handler}
    ]


def _readme(key: str, model: str, language: Language) -> str:
    kind = "that needs no code: its model is served as soon as it is installed"
    after = f"The rows are then at `/api/dynamic/{model}`."
    if language is not Language.NONE:
        kind = "with code in `code/`, which `bundle build` compiles into `backend/backend.wasm`"
        after += f" `POST /api/dynamic/{model}/<id>/action/greet` runs the code."
    return f"""# {_title(key)}

An addon for Metacore {kind}.

    metacore bundle build . -o {key}.tar.gz
    metacore bundle sign {key}.tar.gz

{after}
"""
