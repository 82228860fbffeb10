"""What the kernel computes and keeps true: relations, rollups, keys, indices, formulas, sequences, seeds, stages."""

from __future__ import annotations

from typing import Any

import pytest
from tests.manifests import Json, problems, read, v2_model, v3, v3_order

from metacore.manifest.model import ModelDefinition, OnTransition

LINES: Json = {"name": "lines", "kind": "one_to_many", "through": "Line", "foreign_key": "order_id"}
ORDER = "manifest.models[0]"
BACKEND: Json = {"runtime": "wasm", "exports": ["on_paid", "score"]}


def order(**changes: Any) -> ModelDefinition:
    return read(v3_order(**changes)).models[0]


def refused(**changes: Any) -> list[tuple[str, str]]:
    return [(field.removeprefix(f"{ORDER}."), code) for field, code in problems(v3_order(**changes))]


def line(**changes: Any) -> list[tuple[str, str]]:
    manifest = v3()
    manifest["models"][1].update(changes)
    return [(field.removeprefix("manifest.models[1]."), code) for field, code in problems(manifest)]


def test_relations_point_at_models_of_this_and_of_other_addons() -> None:
    relations = order(
        relations=[
            {**LINES, "embed": True, "readonly": True, "scope": {"note": "x"}, "label": "Lines"},
            {
                "name": "tags",
                "kind": "many_to_many",
                "through": "tags.Tag",
                "foreign_key": "order_id",
                "pivot": "order_tags",
            },
            {"name": "buyer", "kind": "belongs_to", "through": "people.Person", "foreign_key": "number"},
        ]
    ).relations
    assert [(item.kind, item.through, item.references, item.pivot) for item in relations] == [
        ("one_to_many", "Line", "id", ""),
        ("many_to_many", "tags.Tag", "id", "order_tags"),
        ("belongs_to", "people.Person", "id", ""),
    ]
    assert (relations[0].embed, relations[0].readonly, relations[0].scope) == (True, True, {"note": "x"})


@pytest.mark.parametrize(
    ("relation", "path", "code"),
    [
        ({"kind": "has_many"}, "kind", "choice"),
        ({"kind": None}, "kind", "required"),
        ({"through": None}, "through", "required"),
        ({"foreign_key": None}, "foreign_key", "required"),
        ({"foreign_key": "nope"}, "foreign_key", "unknown_column"),
        ({"kind": "belongs_to", "foreign_key": "order_id"}, "foreign_key", "unknown_column"),
        ({"kind": "many_to_many"}, "pivot", "required"),
        ({"pivot": "a_b"}, "pivot", "pivot"),
        ({"kind": "belongs_to", "foreign_key": "number", "pivot": "a_b"}, "pivot", "pivot"),
        ({"references": "nope"}, "references", "unknown_column"),
        ({"scope": {"nope": 1}}, "scope", "unknown_column"),
        ({"scope": {"note": [1]}}, "scope", "type"),
        ({"rollups": [{"target": "nope", "fn": "count"}]}, "rollups[0].target", "unknown_column"),
        ({"rollups": [{"target": "total", "fn": "median"}]}, "rollups[0].fn", "choice"),
        ({"rollups": [{"target": "total", "fn": "sum"}]}, "rollups[0]", "required"),
        (
            {"rollups": [{"target": "total", "fn": "sum", "from": "price", "expr": "price"}]},
            "rollups[0].expr",
            "rollup",
        ),
        ({"rollups": [{"target": "total", "fn": "sum", "from": "nope"}]}, "rollups[0].from", "unknown_column"),
        ({"rollups": [{"target": "total", "fn": "sum", "from": "note"}]}, "rollups[0].from", "type"),
        ({"rollups": [{"target": "status", "fn": "count"}]}, "rollups[0].target", "type"),
        ({"rollups": [{"target": "total", "fn": "sum", "expr": "quantity * net"}]}, "rollups[0].expr", "expression"),
        ({"rollups": [{"target": "updated_at", "fn": "max", "from": "price"}]}, "rollups[0].target", "reserved"),
        (
            {"kind": "belongs_to", "foreign_key": "number", "rollups": [{"target": "total", "fn": "count"}]},
            "rollups",
            "rollup",
        ),
    ],
)
def test_what_is_wrong_with_a_relation(relation: Json, path: str, code: str) -> None:
    assert (f"relations[0].{path}", code) in refused(relations=[{**LINES, **relation}])


def test_v2_relations_follow_the_same_rules() -> None:
    relation = {"name": "a", "kind": "belongs_to", "through": "people", "foreign_key": "nope"}
    assert problems(v2_model(relations=[relation])) == [
        ("manifest.model_definitions[0].relations[0].foreign_key", "unknown_column")
    ]


def test_rollups_aggregate_a_column_or_an_expression_of_the_children() -> None:
    rollups = (
        order(
            relations=[
                {
                    **LINES,
                    "rollups": [
                        {"target": "total", "fn": "sum", "expr": "quantity * price"},
                        {"target": "net", "fn": "max", "from": "price"},
                        {"target": "lines_count", "fn": "count"},
                    ],
                }
            ]
        )
        .relations[0]
        .rollups
    )
    assert [(item.target, item.fn, item.source, item.expr) for item in rollups] == [
        ("total", "sum", "", "quantity * price"),
        ("net", "max", "price", ""),
        ("lines_count", "count", "", ""),
    ]


def test_relation_names_are_told_apart() -> None:
    assert refused(relations=[LINES, LINES]) == [("relations[1].name", "duplicate")]


def test_indices_may_use_the_kernels_columns() -> None:
    found = order(indices=[{"name": "orders_org", "columns": ["organization_id", "status"], "unique": True}]).indices
    assert [(item.name, item.columns, item.unique, item.method) for item in found] == [
        ("orders_org", ("organization_id", "status"), True, "btree")
    ]


@pytest.mark.parametrize(
    ("index", "path", "code"),
    [
        ({"columns": ["nope"]}, "columns", "unknown_column"),
        ({"columns": ["deleted_at"]}, "columns", "unknown_column"),
        ({"columns": []}, "columns", "required"),
        ({"columns": ["net", "net"]}, "columns", "duplicate"),
        ({"name": "Bad Name"}, "name", "pattern"),
        ({"name": "x" * 64}, "name", "pattern"),
        ({"name": "orders"}, "name", "duplicate"),
        ({"name": None}, "name", "required"),
        ({"method": "rtree"}, "method", "choice"),
        ({"method": "gin", "unique": True}, "unique", "index"),
        ({"method": "hash", "columns": ["net", "tax"]}, "columns", "index"),
    ],
)
def test_what_is_wrong_with_an_index(index: Json, path: str, code: str) -> None:
    assert (f"indices[0].{path}", code) in refused(indices=[{"name": "orders_a", "columns": ["net"], **index}])


def test_index_names_are_told_apart_over_all_models() -> None:
    manifest = v3_order(indices=[{"name": "same", "columns": ["net"]}])
    manifest["models"][1]["indices"] = [{"name": "same", "columns": ["price"]}]
    assert problems(manifest) == [("manifest.models[1].indices[0].name", "duplicate")]


@pytest.mark.parametrize(
    "written",
    [
        {
            "columns": ["order_id"],
            "references": {"model": "shop.Order", "columns": ["id"]},
            "policy": "physical",
            "on_delete": "cascade",
        },
        {"columns": ["order_id"], "references": {"model": "Order", "columns": ["id"]}, "on_delete": "cascade"},
        {"column": "order_id", "references": "orders(id)", "on_delete": "cascade"},
        {"column": "order_id", "references": "orders", "on_delete": "cascade"},
        {"column": "order_id", "references": "addon_shop.orders(id)", "on_delete": "cascade"},
    ],
)
def test_a_foreign_key_within_the_addon(written: Json) -> None:
    manifest = v3()
    manifest["models"][1]["foreign_keys"] = [written]
    (key,) = read(manifest).models[1].foreign_keys
    assert (key.column, key.references_table, key.references_column, key.on_delete) == (
        "order_id",
        "orders",
        "id",
        "cascade",
    )
    assert (key.references_addon, key.physical) == ("", True)


def test_a_foreign_key_into_another_addon_is_no_database_constraint() -> None:
    key = {"column": "order_id", "references": {"model": "people.Person", "columns": ["id"]}}
    assert line(foreign_keys=[key]) == [("foreign_keys[0].policy", "foreign_key")]
    manifest = v3()
    manifest["models"][1]["foreign_keys"] = [{**key, "policy": "logical"}]
    (found,) = read(manifest).models[1].foreign_keys
    assert (found.references_addon, found.references_table, found.physical) == ("people", "Person", False)


@pytest.mark.parametrize(
    ("key", "path", "code"),
    [
        ({"column": "nope"}, "column", "unknown_column"),
        ({"columns": ["order_id", "note"], "column": None}, "columns", "columns"),
        ({"references": "nowhere"}, "references", "unknown_model"),
        ({"references": "orders(nope)"}, "references", "unknown_column"),
        ({"references": "orders; drop"}, "references", "required"),
        ({"references": None}, "references", "required"),
        ({"on_delete": "explode"}, "on_delete", "choice"),
        ({"on_delete": "set_null"}, "on_delete", "on_delete"),
        ({"policy": "maybe"}, "policy", "choice"),
    ],
)
def test_what_is_wrong_with_a_foreign_key(key: Json, path: str, code: str) -> None:
    assert (f"foreign_keys[0].{path}", code) in line(
        foreign_keys=[{"column": "order_id", "references": "orders", **key}]
    )


def test_formulas_stand_in_the_order_of_their_needs() -> None:
    formulas = order(
        formulas=[{"target": "total", "expr": "net + tax"}, {"target": "tax", "expr": "net * 0.16"}],
    ).formulas
    assert [(item.target, item.tier) for item in formulas] == [("tax", 1), ("total", 1)]


def test_a_handled_formula_names_an_export() -> None:
    manifest = {**v3_order(formulas=[{"target": "total", "tier": 3, "handler": "score"}]), "backend": BACKEND}
    assert read(manifest).models[0].formulas[0].handler == "score"
    manifest["backend"] = {"runtime": "wasm", "exports": []}
    assert problems(manifest) == [("manifest.models[0].formulas[0].handler", "export")]


@pytest.mark.parametrize(
    ("formula", "path", "code"),
    [
        ({"target": "nope"}, "target", "unknown_column"),
        ({"target": None}, "target", "required"),
        ({"target": "status"}, "target", "type"),
        ({"target": "created_at"}, "target", "reserved"),
        ({"expr": None}, "expr", "required"),
        ({"expr": "total + 1"}, "expr", "expression"),
        ({"expr": "net > 1"}, "expr", "expression"),
        ({"expr": "net + status"}, "expr", "expression"),
        ({"expr": "now()"}, "expr", "expression"),
        ({"handler": "score", "tier": 1}, "handler", "formula"),
        ({"tier": 3}, "handler", "required"),
        ({"tier": 4}, "tier", "range"),
    ],
)
def test_what_is_wrong_with_a_formula(formula: Json, path: str, code: str) -> None:
    assert (f"formulas[0].{path}", code) in refused(formulas=[{"target": "total", "expr": "net + tax", **formula}])


def test_formulas_cannot_chase_each_other_nor_share_a_target() -> None:
    assert refused(formulas=[{"target": "net", "expr": "tax"}, {"target": "tax", "expr": "net"}]) == [
        ("formulas[0].expr", "cycle"),
        ("formulas[1].expr", "cycle"),
    ]
    assert refused(formulas=[{"target": "total", "expr": "net"}] * 2) == [("formulas[1].target", "duplicate")]


@pytest.mark.parametrize(("scope", "stored"), [("", ""), ("org", ""), ("status", "status"), ("buyer", "buyer_id")])
def test_a_sequence_counts_per_organization_or_per_column(scope: str, stored: str) -> None:
    manifest = v3_order(sequences=[{"key": "no", "scope": scope, "format": "A-{seq:06}"}])
    manifest["models"][0]["columns"].append({"name": "buyer_id", "type": "uuid"})
    manifest["models"][0]["columns"][0]["sequence"] = "no"
    (sequence,) = read(manifest).models[0].sequences
    assert (sequence.key, sequence.scope, sequence.format) == ("no", stored, "A-{seq:06}")


@pytest.mark.parametrize("written", ["A-", "{seq}{seq}", "{seq:x}", "{seq", "{n}-{seq}", "{{seq}}", "{seq:0}"])
def test_a_format_holds_one_number(written: str) -> None:
    assert refused(sequences=[{"key": "no", "format": written}]) == [("sequences[0].format", "format")]


def test_what_is_wrong_with_sequences() -> None:
    assert refused(sequences=[{"key": "no"}, {"key": "no"}]) == [("sequences[1].key", "duplicate")]
    assert refused(sequences=[{"key": "no", "scope": "nope"}]) == [("sequences[0].scope", "unknown_column")]
    manifest = v3_order(sequences=[{"key": "no", "format": "A-{seq}"}])
    manifest["models"][0]["columns"][5]["sequence"] = "no"
    assert problems(manifest) == [("manifest.models[0].columns[5].sequence", "type")]


def test_seeds_are_rows_of_declared_columns() -> None:
    seed = order(seed={"key": "number", "rows": [{"number": "1", "net": 2.5}, {"number": "2"}]}).seed
    assert seed is not None and (seed.key, len(seed.rows)) == ("number", 2)


@pytest.mark.parametrize(
    ("seed", "path", "code"),
    [
        ({"key": "nope"}, "seed.key", "unknown_column"),
        ({"key": "id"}, "seed.key", "reserved"),
        ({"rows": [{}]}, "seed.rows[0].number", "required"),
        ({"rows": [{"number": "1"}, {"number": "1"}]}, "seed.rows[1].number", "duplicate"),
        ({"rows": [{"number": "1", "nope": 1}]}, "seed.rows[0].nope", "unknown_column"),
        ({"rows": [{"number": "1", "organization_id": "x"}]}, "seed.rows[0].organization_id", "unknown_column"),
        ({"rows": [{"number": "1", "net": "much"}]}, "seed.rows[0].net", "type"),
        ({"rows": [{"number": "1", "lines_count": 2.5}]}, "seed.rows[0].lines_count", "type"),
        ({"rows": [{"number": "1" * 300}]}, "seed.rows[0].number", "type"),
        ({"rows": [{"number": "1", "placed_on": "yesterday"}]}, "seed.rows[0].placed_on", "type"),
        ({"rows": [5]}, "seed.rows[0]", "type"),
    ],
)
def test_what_is_wrong_with_a_seed(seed: Json, path: str, code: str) -> None:
    assert (path, code) in refused(seed={"key": "number", "rows": [{"number": "1"}], **seed})


def test_a_seed_gives_what_is_required() -> None:
    assert line(seed={"key": "note", "rows": [{"note": "a"}]}) == [("seed.rows[0].order_id", "required")]


STAGES: Json = {
    "stage_field": "status",
    "stages": [{"key": "new", "label": "New", "color": "blue", "order": 2}, "paid", {"key": "done", "is_final": True}],
    "transitions": [{"from": "new", "to": "paid"}, {"from": "paid", "to": "done"}],
}


def test_the_stage_machine() -> None:
    hook = {"from": "*", "to": "paid", "set": {"paid_on": "now()", "net": 1}, "do": "wasm:on_paid", "required": True}
    model = read({**v3_order(**STAGES, on_transition=[hook]), "backend": BACKEND}).models[0]
    assert model.stage_field == "status"
    assert set(model.stages) == {"new", "paid", "done"}
    assert [(stage.key, stage.final) for stage in model.stage_details if stage.final] == [("done", True)]
    assert [(move.source, move.target) for move in model.transitions] == [("new", "paid"), ("paid", "done")]
    assert model.on_transition == (
        OnTransition(source="", target="paid", set={"paid_on": "now()", "net": 1}, do="wasm:on_paid", required=True),
    )


def test_stages_come_in_their_order() -> None:
    stages = [{"key": "b", "order": 2}, {"key": "a", "order": 1}, {"key": "new", "order": 3}]
    assert order(stage_field="status", stages=stages).stages == ("a", "b", "new")


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"stage_field": "nope"}, "stage_field", "unknown_column"),
        ({"stage_field": None}, "stage_field", "required"),
        ({"stage_field": "net"}, "stage_field", "type"),
        ({"stages": ["paid", "done"], "transitions": []}, "stage_field", "unknown_stage"),
        ({"stages": None}, "stages", "required"),
        ({"stages": ["new", "new", "paid", "done"]}, "stages[1]", "duplicate"),
        ({"stages": ["new", "paid", "done", "*"]}, "stages[3]", "pattern"),
        ({"stages": ["new", "paid", "done", 5]}, "stages[3]", "type"),
        ({"stages": ["new", "paid", "done", "x" * 256]}, "stages", "too_long"),
        ({"transitions": [{"from": "new", "to": "lost"}]}, "transitions[0].to", "unknown_stage"),
        ({"transitions": [{"from": "*", "to": "paid"}]}, "transitions[0].from", "unknown_stage"),
        ({"transitions": [{"to": "paid"}]}, "transitions[0].from", "required"),
        ({"on_transition": [{"to": "lost", "set": {"net": 1}}]}, "on_transition[0].to", "unknown_stage"),
        ({"on_transition": [{"to": "paid"}]}, "on_transition[0]", "required"),
        ({"on_transition": [{"to": "paid", "set": {"nope": 1}}]}, "on_transition[0].set", "unknown_column"),
        ({"on_transition": [{"to": "paid", "set": {"net": "much"}}]}, "on_transition[0].set", "type"),
        ({"on_transition": [{"to": "paid", "set": {"id": "x"}}]}, "on_transition[0].set", "reserved"),
        ({"on_transition": [{"to": "paid", "do": "run it"}]}, "on_transition[0].do", "handler"),
        ({"on_transition": [{"to": "paid", "do": "wasm:nope"}]}, "on_transition[0].do", "export"),
        ({"on_transition": [{"to": "paid", "do": {"type": "wasm"}}]}, "on_transition[0].do.function", "required"),
    ],
)
def test_what_is_wrong_with_stages(changes: Json, path: str, code: str) -> None:
    assert (path, code) in refused(**{**STAGES, **changes})
