"""What the manifest, the table and the organization demand of a save."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from tests.live_models import live_model

from metacore.dynamic.rules import needs_current, rules_of
from metacore.dynamic.shape import ModelShape, shape_of
from metacore.dynamic.validation import Custom, check_create, check_update
from metacore.errors import InvalidInput, MetacoreError, Refused
from metacore.manifest.model import (
    Column,
    ColumnType,
    ColumnValidation,
    Constraint,
    Formula,
    ModelDefinition,
    Option,
    Transition,
    VisibleWhen,
)

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def ticket() -> ModelShape:
    return shape_of(live_model())


def shaped(*columns: Column, **definition: Any) -> ModelShape:
    return shape_of(live_model(ModelDefinition(key="Thing", table="things", columns=columns, **definition)))


def codes(error: MetacoreError) -> dict[str, str]:
    return {problem.field: problem.code for problem in error.problems}


def refusal(shape: ModelShape, values: dict[str, Any], custom: Custom | None = None) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        check_create(shape, values, custom or Custom({}, {}))
    return codes(refused.value)


def test_required_columns_without_default_must_come(ticket: ModelShape) -> None:
    assert refusal(ticket, {}) == {"title": "required"}
    assert refusal(ticket, {"title": None}) == {"title": "required"}
    assert refusal(ticket, {"title": ""}) == {"title": "required"}


def test_null_for_a_column_with_default_means_the_default(ticket: ModelShape) -> None:
    assert check_create(ticket, {"title": "x", "status": None, "urgent": None}) == {"title": "x", "total": None}


def test_an_update_may_not_empty_a_required_column(ticket: ModelShape) -> None:
    for value in (None, ""):
        with pytest.raises(Refused) as refused:
            check_update(ticket, {"title": value}, None, NOW)
        assert codes(refused.value) == {"title": "required"}
    assert check_update(ticket, {"body": None}, None, NOW) == {"body": None}


def test_wrong_types_and_broken_rules_are_told_together(ticket: ModelShape) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_create(ticket, {"priority": "high", "code": "x", "kind": "fault"})
    assert codes(refused.value) == {"priority": "type", "code": "regex", "kind": "option", "title": "required"}


def test_a_field_that_the_form_hides_is_not_asked_for() -> None:
    shape = shaped(
        Column(name="delivery", type=ColumnType.STRING, size=16),
        Column(
            name="address",
            type=ColumnType.TEXT,
            visible_when=VisibleWhen(field="delivery", any_of=("post", "courier")),
        ),
    )
    address = shape.columns["address"].declared
    assert address is not None
    columns = (shape.model.definition.columns[0], address.model_copy(update={"required": True}))
    definition = shape.model.definition.model_copy(update={"columns": columns})
    model = live_model(definition)
    stored = dict(model.stored)
    stored["address"] = shape.columns["address"].stored
    shape = shape_of(type(model)(**{name: getattr(model, name) for name in model.__slots__} | {"stored": stored}))
    assert check_create(shape, {"delivery": "pickup"}) == {"delivery": "pickup"}
    assert refusal(shape, {"delivery": "post"}) == {"address": "required"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"n": 0}, {"n": "min"}), ({"n": 11}, {"n": "max"}), ({"t": "a"}, {"t": "min"}), ({"t": "abcd"}, {"t": "max"})],
)
def test_bounds_are_of_a_numbers_value_and_a_texts_length(values: dict[str, Any], expected: dict[str, str]) -> None:
    shape = shaped(
        Column(name="n", type=ColumnType.INT, validation=ColumnValidation(min=1, max=10)),
        Column(name="t", type=ColumnType.TEXT, validation=ColumnValidation(min=2, max=3)),
    )
    assert refusal(shape, values) == expected
    assert check_create(shape, {"n": 10, "t": "abc"}) == {"n": 10, "t": "abc"}


def test_only_declared_options_can_be_selected() -> None:
    options = (Option(value="a", label="A"), Option(value="b", label="B"))
    shape = shaped(
        Column(name="one", type=ColumnType.STRING, widget="select", options=options),
        Column(name="many", type=ColumnType.JSONB, widget="multi_select", options=options),
        Column(name="hint", type=ColumnType.STRING, widget="text", options=options),
    )
    assert check_create(shape, {"one": "a", "many": ["a", "b"], "hint": "c"})["hint"] == "c"
    assert refusal(shape, {"one": "c", "many": ["a", {"b": 1}]}) == {"one": "option", "many": "option"}
    with pytest.raises(Refused, match=r"one: is not one of the options: a, b$"):
        check_create(shape, {"one": "c"})


def test_of_many_options_a_refusal_names_some() -> None:
    options = tuple(Option(value=f"o{number}", label="") for number in range(25))
    shape = shaped(Column(name="one", type=ColumnType.STRING, widget="select", options=options))
    with pytest.raises(Refused, match=r"o0, o1, .*, o19 and 5 more$"):
        check_create(shape, {"one": "c"})


def test_formulas_are_computed_from_defaults_and_input(ticket: ModelShape) -> None:
    assert check_create(ticket, {"title": "x", "price": "2.5"})["total"] == Decimal("2.5000")
    assert check_create(ticket, {"title": "x", "price": 2.5, "quantity": 3})["total"] == Decimal("7.5000")
    assert check_create(ticket, {"title": "x"})["total"] is None


def test_formulas_that_do_not_fit_are_refused_on_their_column(ticket: ModelShape) -> None:
    assert refusal(ticket, {"title": "x", "price": 99_999_999_999_999, "quantity": 2}) == {"total": "out_of_range"}


def test_formulas_may_build_on_each_other_and_round_to_whole_numbers() -> None:
    shape = shaped(
        Column(name="net", type=ColumnType.DECIMAL),
        Column(name="tax", type=ColumnType.DECIMAL),
        Column(name="gross", type=ColumnType.INT),
        formulas=(Formula(target="tax", expr="net * 0.19"), Formula(target="gross", expr="net + tax")),
    )
    assert check_create(shape, {"net": 10}) == {"net": Decimal(10), "tax": Decimal("1.9000"), "gross": 12}


def test_constraints_name_their_column_and_key() -> None:
    shape = shaped(
        Column(name="low", type=ColumnType.DATE, constraints=(Constraint(expr="low <= high", error_key="order"),)),
        Column(name="high", type=ColumnType.DATE),
    )
    assert refusal(shape, {"low": "2026-02-01", "high": "2026-01-01"}) == {"low": "order"}
    check_create(shape, {"low": "2026-02-01"})
    with pytest.raises(Refused):
        check_update(shape, {"high": "2026-01-01"}, {"low": "2026-02-01", "high": None}, NOW)


def test_an_update_needs_the_row_only_where_rules_read_it(ticket: ModelShape) -> None:
    rules = rules_of(ticket)
    assert not needs_current(rules, {"title": "x"})
    assert needs_current(rules, {"status": "closed"})
    assert needs_current(rules, {"price": 1})
    assert not needs_current(rules, {"price": 1, "quantity": 1})


def test_a_move_brings_what_it_sets(ticket: ModelShape) -> None:
    columns = check_update(ticket, {"status": "closed"}, {"status": "open"}, NOW)
    assert columns == {"status": "closed", "closed_at": NOW}
    assert check_update(ticket, {"status": "open"}, {"status": "open"}, NOW) == {"status": "open"}


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [("closed", "open", "transition"), ("open", "lost", "unknown_stage"), ("open", None, "required")],
)
def test_moves_outside_the_machine_are_refused(ticket: ModelShape, before: str, after: Any, code: str) -> None:
    with pytest.raises(Refused) as refused:
        check_update(ticket, {"status": after}, {"status": before}, NOW)
    assert codes(refused.value) == {"status": code}


def test_a_move_to_no_stage_is_told_in_words() -> None:
    stages = ("new", "done")
    shape = shaped(
        Column(name="stage", type=ColumnType.STRING),
        stage_field="stage",
        stages=stages,
        transitions=(Transition(source="new", target="done"),),
    )
    with pytest.raises(Refused, match="'new' to no stage is not allowed: from there to done"):
        check_update(shape, {"stage": None}, {"stage": "new"}, NOW)


def test_a_row_starts_in_a_stage_that_exists(ticket: ModelShape) -> None:
    assert refusal(ticket, {"title": "x", "status": "lost"}) == {"status": "unknown_stage"}
    assert check_create(ticket, {"title": "x", "status": "waiting"})["status"] == "waiting"


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"regex": "^[0-9]+$"}, "12a", {"taxcode": "regex"}),
        ({"min": 5}, "1234", {"taxcode": "min"}),
        ({"custom": "even"}, "3", {"taxcode": "even"}),
        ("even", "3", {"taxcode": "even"}),
    ],
)
def test_an_organization_replaces_its_own_validator(
    ticket: ModelShape, rule: Any, value: str, expected: dict[str, str]
) -> None:
    custom = Custom({"even": lambda text: None if int(text) % 2 == 0 else "must be even"}, {"taxcode": rule})
    assert refusal(ticket, {"title": "x", "taxcode": value}, custom) == expected


def test_an_organizations_rule_wins_over_the_authors() -> None:
    limits = ColumnValidation(regex="^[A-Z]+$", min=3, custom="$org.code")
    shape = shaped(Column(name="code", type=ColumnType.STRING, validation=limits))
    own = Custom({}, {"code": {"regex": "^[0-9]+$"}})
    assert check_create(shape, {"code": "1234"}, own) == {"code": "1234"}
    assert refusal(shape, {"code": "12"}, own) == {"code": "min"}
    assert refusal(shape, {"code": "1234"}) == {"code": "regex"}


def test_an_organization_without_a_validator_lets_pass(ticket: ModelShape) -> None:
    assert check_create(ticket, {"title": "x", "taxcode": "?"}, Custom({}, {}))["taxcode"] == "?"


def test_registered_validators_are_asked_by_name() -> None:
    shape = shaped(Column(name="iban", type=ColumnType.STRING, validation=ColumnValidation(custom="iban")))
    custom = Custom({"iban": lambda value: "is no IBAN" if len(value) < 15 else None}, {})
    assert refusal(shape, {"iban": "DE00"}, custom) == {"iban": "iban"}
    assert check_create(shape, {"iban": "DE00"}, Custom({}, {})) == {"iban": "DE00"}
