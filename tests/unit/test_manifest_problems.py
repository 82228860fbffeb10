"""Every problem is found in one go, and no input brings anything else than a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.manifests import V2, V3, Json, found, problems, v2, v2_model, v3

from metacore.errors import ManifestInvalid
from metacore.manifest.read import inspect_manifest, parse_manifest
from metacore.manifest.scope import MAX_COLUMNS
from metacore.manifest.walk import ARRAY_LIMIT, MAX_PROBLEMS


def test_all_problems_come_at_once_with_their_paths() -> None:
    manifest = v2(name=5, version="one", tenant_isolation="database-per-tenant")
    manifest["model_definitions"][0]["columns"] += [
        {"name": "a b", "type": "money", "default": "f()"},
        {"name": "ok", "type": "int", "default": "f()"},
    ]
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(json.dumps(manifest).encode())
    assert {problem.field for problem in caught.value.problems} == {
        "manifest.name",
        "manifest.version",
        "manifest.tenant_isolation",
        "manifest.model_definitions[0].columns[3].name",
        "manifest.model_definitions[0].columns[3].type",
        "manifest.model_definitions[0].columns[3].default",
        "manifest.model_definitions[0].columns[4].default",
    }
    assert "and 2 more problems" in caught.value.message
    assert caught.value.message.startswith("manifest.")


def test_a_flood_of_problems_is_cut() -> None:
    assert len(found(v2(model_definitions=[7] * ARRAY_LIMIT))) == MAX_PROBLEMS


def test_arrays_and_tables_have_a_largest_size() -> None:
    long = [{"name": f"c{number}", "type": "int"} for number in range(MAX_COLUMNS + 1)]
    assert problems(v2_model(columns=long)) == [("manifest.model_definitions[0].columns", "too_large")]
    assert problems(v2(permissions=["a"] * (ARRAY_LIMIT + 1))) == [("manifest.permissions", "too_large")]


def test_a_path_shows_the_start_of_an_endless_key() -> None:
    manifest = v2(hooks={"k" * 100_000: 5, "ö" * 100_000: 5})
    assert all(len(problem.field) < 120 for problem in found(manifest))


def test_one_mistake_is_one_problem() -> None:
    manifest = v3()
    manifest["contributions"] = {"actions": [{"key": "a", "steps": [5]}]}
    assert [problem.field for problem in found(manifest)] == ["manifest.contributions.actions[0].steps[0]"]


def test_a_version_that_nobody_serves_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match=r"manifest\.apiVersion: \"asteby.com/v4\" is not served"):
        parse_manifest({"apiVersion": "asteby.com/v4"})
    with pytest.raises(ManifestInvalid, match=r"manifest\.apiVersion: 3 is not served"):
        parse_manifest({"apiVersion": 3})


def test_a_v3_manifest_without_its_version_gets_a_hint() -> None:
    with pytest.raises(ManifestInvalid, match=r"manifest\.apiVersion: is required"):
        parse_manifest(v3(apiVersion=None))


def test_a_reading_holds_no_manifest_when_there_are_problems() -> None:
    assert inspect_manifest(b"nonsense").manifest is None
    assert inspect_manifest(v2(name=None)).manifest is None
    assert inspect_manifest(v2()).manifest is not None


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [inner for key, item in items for inner in paths_of(item, (*path, key))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {key: replaced(item, path[1:], new) if key == path[0] else item for key, item in value.items()}
    return [replaced(item, path[1:], new) if index == path[0] else item for index, item in enumerate(value)]


RICH_V2: Json = {
    **V2,
    "actions": {
        "tickets": [
            {"key": "go", "trigger": {"type": "wasm", "export": "go", "run_in_tx": True}, "fields": [{"key": "a"}]}
        ]
    },
    "backend": {"runtime": "wasm", "exports": ["go"]},
    "frontend": {"entry": "remoteEntry.js"},
    "tools": [{"id": "a", "input_schema": [{"name": "x"}]}],
    "lifecycle_hooks": {"after_create": [{"target": {"type": "wasm", "function": "go"}}]},
    "settings": [{"key": "a", "type": "select", "options": [{"value": 1, "label": "x"}]}],
    "navigation": [{"title": "a", "items": [{"title": "b", "items": [{"title": "c"}]}]}],
    "hooks": {"tickets::go": "/x"},
    "i18n": {"en": {"a": "b"}},
    "requires": [{"key": "aa"}],
    "capabilities": [{"kind": "http:fetch", "target": "*.example.com"}],
}
RICH_V3: Json = {
    **V3,
    "connectors": [{"key": "git", "credentials": [{"key": "token", "type": "secret"}]}],
    "schedules": [{"key": "a", "every": "5m", "do": "webhook:/x"}],
    "webhooks": [{"key": "a", "path": "/a", "do": {"type": "webhook", "url": "/x"}}],
    "rbac": {"roles": [{"key": "r"}], "permissions": ["a.b"]},
    "i18n": {"default_locale": "en", "bundles": [{"locale": "en", "messages": {"a": "b"}}]},
    "lifecycle": {"install": "/x", "upgrade": [{"from": "<1.0.0", "type": "sql", "function": "a.sql"}]},
    "models": [
        {
            **V3["models"][0],
            "relations": [
                {
                    "name": "lines",
                    "kind": "one_to_many",
                    "through": "Line",
                    "foreign_key": "order_id",
                    "rollups": [{"target": "net", "fn": "sum", "expr": "quantity * price"}],
                }
            ],
            "formulas": [{"target": "total", "expr": "net + tax"}],
            "sequences": [{"key": "no", "format": "A-{seq:06}"}],
            "seed": {"key": "number", "rows": [{"number": "1"}]},
            "stage_field": "status",
            "stages": ["new", {"key": "paid"}],
            "transitions": [{"from": "new", "to": "paid"}],
            "on_transition": [{"to": "paid", "set": {"paid_on": "now()"}, "do": "webhook:/x"}],
            "indices": [{"name": "orders_status", "columns": ["status"]}],
            "form_layout": {
                "mode": "steps",
                "sections": [{"key": "a", "visible_when": {"field": "status", "in": ["new"]}}],
            },
        },
        {
            **V3["models"][1],
            "foreign_keys": [{"columns": ["order_id"], "references": {"model": "shop.Order", "columns": ["id"]}}],
            "extensions": [{"target_model": "people.Person", "columns": [{"name": "vip", "type": "bool"}]}],
        },
    ],
}


@pytest.mark.parametrize("manifest", [RICH_V2, RICH_V3], ids=["v2", "v3"])
def test_the_rich_manifests_are_valid(manifest: Json) -> None:
    assert found(manifest) == ()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_junk_in_any_place_is_a_refusal_or_a_manifest_never_a_crash(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([RICH_V2, RICH_V3]))
    changed = base
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(paths_of(changed)))
        changed = replaced(changed, place, data.draw(junk))
    if not isinstance(changed, dict):
        return
    try:
        parse_manifest(changed)
    except ManifestInvalid as error:
        assert error.problems
        assert all(problem.field.startswith("manifest") and problem.message for problem in error.problems)


@pytest.mark.parametrize("junk_value", [None, True, 3, 2.5, "text", [], {}, [None], [[]], [{}], {"a": None}])
@pytest.mark.parametrize("manifest", [RICH_V2, RICH_V3], ids=["v2", "v3"])
def test_every_place_survives_every_wrong_type(manifest: Json, junk_value: Any) -> None:
    for place in paths_of(manifest)[1:]:
        inspect_manifest(replaced(manifest, place, junk_value))
