"""The examples of docs/metadata.md and docs/export-import.md are true."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.factories import principal

from metacore.db.catalog import StoredColumn
from metacore.dynamic import export_formats, exports, lookup
from metacore.dynamic.import_files import MAX_CELLS, ImportLimits
from metacore.dynamic.imports import ImportService
from metacore.dynamic.shape import shape_of
from metacore.dynamic.validation import check_create
from metacore.identity import Principal
from metacore.ids import KERNEL_ADDON_KEY, new_uuid
from metacore.manifest.model import Column, ColumnType, Isolation, ModelDefinition
from metacore.manifest.read import parse_manifest
from metacore.metadata.derive import derive_modal, derive_table
from metacore.registry import LiveModel, Registry

DOCS = Path(__file__).parents[2] / "docs"
METADATA = (DOCS / "metadata.md").read_text("utf-8")
TRANSFER = (DOCS / "export-import.md").read_text("utf-8")


def block(page: str, language: str, title: str) -> str:
    found = re.search(rf'```{language} title="{title}"\n(.*?)```', page, re.DOTALL)
    assert found is not None, title
    return found.group(1)


@pytest.fixture(scope="module")
def model() -> ModelDefinition:
    manifest = parse_manifest(
        {
            "key": "desk",
            "name": "Desk",
            "version": "1.0.0",
            "kernel": ">=2.0.0 <3.0.0",
            "model_definitions": [
                json.loads(block(METADATA, "json", "model")),
                {"table_name": "customers", "model_key": "customers", "columns": [{"name": "name", "type": "string"}]},
            ],
        }
    )
    return manifest.models[0]


def test_the_table_on_the_page_is_the_one_that_is_derived(model: ModelDefinition) -> None:
    assert derive_table(model).as_json() == json.loads(block(METADATA, "json", "table"))


def test_the_form_on_the_page_is_the_one_that_is_derived(model: ModelDefinition) -> None:
    assert derive_modal(model).as_json() == json.loads(block(METADATA, "json", "modal"))


def test_the_translator_on_the_page_runs() -> None:
    code = re.search(r"```python\n(.*?)```", METADATA, re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), "docs/metadata.md", "exec", dont_inherit=True), {})


async def test_the_import_on_the_page_answers_so() -> None:
    columns = (
        Column(name="title", type=ColumnType.STRING, required=True),
        Column(name="status", type=ColumnType.STRING),
        Column(name="hours", type=ColumnType.INT),
    )
    definition = ModelDefinition(key="tickets", table="tickets", columns=columns)
    stored = {"id": "uuid", "organization_id": "uuid", "title": "text", "status": "text", "hours": "integer"}
    live = LiveModel(
        key="tickets",
        addon_key=KERNEL_ADDON_KEY,
        definition=definition,
        table_name="tickets",
        schema="public",
        isolation=Isolation.SHARED,
        stored={name: StoredColumn(name, kind) for name, kind in stored.items()},
        table=derive_table(definition),
        modal=derive_modal(definition),
        revision=1,
    )
    registry = Registry()
    registry.set_host_model(live)

    class Checking:
        async def create(self, _principal: Principal, _name: str, values: Mapping[str, Any]) -> Any:
            return check_create(shape_of(live), values)

    content = block(TRANSFER, "csv", "file").encode()
    report = await ImportService(Checking(), registry).run(principal(new_uuid()), "tickets", content, "tickets.csv")
    assert {"success": True, "data": report.imported_json()} == json.loads(block(TRANSFER, "json", "reply"))


def test_the_limits_on_the_pages_are_those_of_the_code() -> None:
    limits = ImportLimits()
    assert f"{limits.max_rows:,} rows, {limits.max_columns} columns, a million values" in TRANSFER
    assert f"and {limits.max_bytes >> 20} MiB, a JSON file {limits.max_json_bytes >> 20} MiB" in TRANSFER
    assert f"unpack to {limits.max_unpacked >> 20} MiB" in TRANSFER
    assert MAX_CELLS == 2_000_000
    assert f"holds {export_formats.XLSX_MAX_ROWS:,} rows" in TRANSFER
    assert f"beyond {export_formats.XLSX_MAX_TEXT:,} characters" in TRANSFER
    assert (exports.CONCURRENT_EXPORTS, exports.STALLED_SECONDS) == (4, 60)
    assert f"{lookup.DEFAULT_LIMIT}, at most {lookup.MAX_LIMIT}" in METADATA
    assert f"at most {lookup.MAX_IDS})" in METADATA
