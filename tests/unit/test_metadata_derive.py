"""Tables and forms derived from a model's columns, and what an author declared kept as it is."""

from __future__ import annotations

from typing import Any

import pytest

from metacore.errors import ManifestInvalid
from metacore.manifest.model import (
    ActionDefinition,
    Column,
    ColumnType,
    ColumnValidation,
    Formula,
    ModelDefinition,
    Option,
    OptionsSource,
    Relation,
    Rollup,
    Stage,
)
from metacore.metadata.derive import derive_modal, derive_table
from metacore.metadata.widgets import FIELD_TYPES

STATUS = Column(
    name="status",
    type=ColumnType.STRING,
    default="'open'",
    options=(Option(value="open", label="Open", color="green"), Option(value="done", label="Done")),
)


def model(*columns: Column, **more: Any) -> ModelDefinition:
    return ModelDefinition(**{"key": "tickets", "table": "tickets", "label": "Tickets", "columns": columns, **more})


def table(*columns: Column, **more: Any) -> dict[str, Any]:
    return derive_table(model(*columns, **more)).as_json()


def modal(*columns: Column, **more: Any) -> dict[str, Any]:
    return derive_modal(model(*columns, **more)).as_json()


def keys(items: list[dict[str, Any]]) -> list[str]:
    return [item["key"] for item in items]


def by_key(items: list[dict[str, Any]], key: str) -> dict[str, Any]:
    return next(item for item in items if item["key"] == key)


def test_a_model_without_declared_metadata_shows_its_columns_with_types_labels_and_crud() -> None:
    shown = table(
        Column(name="title", type=ColumnType.STRING, label="Subject"),
        Column(name="due_at", type=ColumnType.TIMESTAMP),
        Column(name="amount", type=ColumnType.DECIMAL),
        Column(name="urgent", type=ColumnType.BOOL),
        Column(name="extra", type=ColumnType.JSONB),
        STATUS,
    )
    assert shown["title"] == "Tickets"
    assert shown["enableCRUDActions"] is True
    assert shown["perPageOptions"] == [10, 20, 50, 100]
    assert shown["defaultPerPage"] == 20
    assert [(column["key"], column["label"], column["type"]) for column in shown["columns"]] == [
        ("title", "Subject", "text"),
        ("due_at", "Due at", "datetime"),
        ("amount", "Amount", "number"),
        ("urgent", "Urgent", "boolean"),
        ("extra", "Extra", "json"),
        ("status", "Status", "badge"),
    ]
    assert by_key(shown["columns"], "extra")["sortable"] is False
    assert by_key(shown["columns"], "title")["sortable"] is True


def test_a_model_without_a_label_is_titled_by_its_key_in_words() -> None:
    assert table(key="SalesOrder", label="")["title"] == "Sales order"


@pytest.mark.parametrize(
    ("visibility", "in_table", "in_form"),
    [("all", True, True), ("table", True, False), ("modal", False, True), ("list", True, False)],
)
def test_visibility_places_a_column(visibility: Any, in_table: bool, in_form: bool) -> None:
    column = Column(name="note", type=ColumnType.STRING, visibility=visibility)
    assert ("note" in keys(table(column)["columns"])) is in_table
    assert ("note" in keys(modal(column)["fields"])) is in_form


def test_a_list_only_column_is_hidden_from_people_but_known_to_clients() -> None:
    shown = table(Column(name="note", type=ColumnType.STRING, visibility="list"))
    assert shown["columns"][0]["hidden"] is True
    assert "filters" not in shown


def test_a_secret_column_is_written_in_the_form_and_shown_nowhere() -> None:
    secret = Column(name="token", type=ColumnType.STRING, widget="password", searchable=True)
    shown = table(
        secret,
        table_metadata={"columns": [{"key": "token"}], "searchColumns": ["token", "title"], "filters": []},
    )
    assert shown["columns"] == []
    assert shown["searchColumns"] == ["title"]
    assert "searchColumns" not in table(secret)
    field = modal(secret)["fields"][0]
    assert (field["type"], field["hideInView"]) == ("text", True)


def test_kernel_columns_are_not_shown_unless_the_author_lists_them() -> None:
    assert table(Column(name="title", type=ColumnType.STRING), soft_delete=True)["columns"][0]["key"] == "title"
    shown = table(table_metadata={"columns": [{"key": "created_at", "sortable": True}]})
    assert shown["columns"] == [
        {"key": "created_at", "label": "Created at", "type": "datetime", "sortable": True, "filterable": False}
    ]


def test_what_the_kernel_computes_is_not_asked_for_in_the_form() -> None:
    shown = modal(
        Column(name="number", type=ColumnType.STRING, sequence="ticket"),
        Column(name="total", type=ColumnType.DECIMAL),
        Column(name="lines", type=ColumnType.INT),
        Column(name="slug", type=ColumnType.STRING, generated="lower(title)"),
        Column(name="locked", type=ColumnType.STRING, readonly=True),
        Column(name="title", type=ColumnType.STRING),
        formulas=(Formula(target="total", expr="a + b"),),
        relations=(
            Relation(
                name="rows",
                kind="one_to_many",
                through="rows",
                foreign_key="ticket_id",
                rollups=(Rollup(target="lines", fn="count"),),
            ),
        ),
    )
    assert keys(shown["fields"]) == ["title"]


@pytest.mark.parametrize(
    ("widget", "field_type"),
    [
        ("text", "text"),
        ("textarea", "textarea"),
        ("select", "select"),
        ("multi_select", "select"),
        ("search", "search"),
        ("number", "number"),
        ("date", "date"),
        ("datetime", "date"),
        ("email", "email"),
        ("url", "url"),
        ("boolean", "boolean"),
        ("image", "image"),
        ("file", "url"),
        ("richtext", "textarea"),
        ("json", "textarea"),
        ("relation", "search"),
        ("password", "text"),
        ("slider", "number"),
        ("rating", "number"),
    ],
)
def test_every_widget_becomes_one_of_the_ten_field_types(widget: str, field_type: str) -> None:
    field = modal(Column(name="x", type=ColumnType.STRING, widget=widget))["fields"][0]
    assert field["type"] == field_type


@pytest.mark.parametrize("kind", list(ColumnType))
def test_every_column_type_has_a_field_type_and_a_cell_type(kind: ColumnType) -> None:
    column = Column(name="x", type=kind)
    assert modal(column)["fields"][0]["type"] in FIELD_TYPES
    assert table(column)["columns"][0]["type"]


def test_what_the_author_says_of_a_kernel_column_is_heard() -> None:
    said = Column(name="created_at", type=ColumnType.TIMESTAMP, label="Opened", display="relative")
    shown = table(kernel_columns=(said,), table_metadata={"columns": [{"key": "created_at"}]})
    assert (shown["columns"][0]["label"], shown["columns"][0]["cellStyle"]) == ("Opened", "relative")
    assert modal(kernel_columns=(said,))["fields"] == []


def test_a_list_that_the_host_computes_is_fetched_through_the_own_model() -> None:
    field = modal(Column(name="currency", type=ColumnType.STRING, options_provider="currencies"))["fields"][0]
    assert (field["type"], field["searchEndpoint"]) == ("select", "/options/tickets?field=currency")


def test_a_declared_field_with_a_widget_for_a_type_gets_a_type_that_clients_know() -> None:
    shown = modal(
        Column(name="tags", type=ColumnType.JSONB),
        modal_metadata={"fields": [{"key": "tags", "type": "multi_select"}, {"key": "odd", "type": "hologram"}]},
    )
    assert [field["type"] for field in shown["fields"]] == ["select", "text"]


def test_ref_comes_from_a_belongs_to_relation_and_leads_to_the_options_of_the_other_model() -> None:
    definition = {
        "relations": (
            Relation(name="customer", kind="belongs_to", through="customers", foreign_key="customer_id"),
            Relation(name="lines", kind="one_to_many", through="lines", foreign_key="ticket_id"),
        )
    }
    column = Column(name="customer_id", type=ColumnType.UUID)
    cell = table(column, **definition)["columns"][0]
    assert (cell["label"], cell["ref"], cell["relationPath"]) == ("Customer", "customers", "customer")
    assert (cell["type"], cell["searchEndpoint"], cell["useOptions"]) == ("search", "/options/customers", True)
    field = modal(column, **definition)["fields"][0]
    assert (field["type"], field["ref"], field["searchEndpoint"]) == ("search", "customers", "/options/customers")


def test_the_ref_of_a_column_wins_over_a_relation_and_a_declared_one_over_both() -> None:
    column = Column(name="customer_id", type=ColumnType.UUID, ref="contacts")
    relations = (Relation(name="customer", kind="belongs_to", through="customers", foreign_key="customer_id"),)
    assert table(column, relations=relations)["columns"][0]["ref"] == "contacts"
    declared = {"columns": [{"key": "customer_id", "ref": "people", "searchEndpoint": "/people"}]}
    cell = table(column, relations=relations, table_metadata=declared)["columns"][0]
    assert (cell["ref"], cell["searchEndpoint"]) == ("people", "/people")


def test_options_of_another_model_are_fetched_through_the_own_model() -> None:
    column = Column(
        name="city", type=ColumnType.STRING, options_source=OptionsSource(source="cities", filter_by="country")
    )
    field = modal(column)["fields"][0]
    assert (field["type"], field["searchEndpoint"]) == ("select", "/options/tickets?field=city")


def test_static_options_travel_with_column_field_and_filter() -> None:
    shown = table(STATUS)
    expected = [{"value": "open", "label": "Open", "color": "green"}, {"value": "done", "label": "Done"}]
    assert shown["columns"][0]["options"] == expected
    assert shown["filters"] == [
        {"key": "status", "label": "Status", "type": "select", "column": "status", "options": expected}
    ]
    field = modal(STATUS)["fields"][0]
    assert (field["type"], field["options"], field["defaultValue"]) == ("select", expected, "open")


def test_options_written_in_the_form_only_reach_the_table_too() -> None:
    shown = table(
        Column(name="status", type=ColumnType.STRING),
        modal_metadata={"fields": [{"key": "status", "type": "select", "options": ["open", {"value": "on_hold"}]}]},
    )
    assert shown["columns"][0]["options"] == [
        {"value": "open", "label": "Open"},
        {"value": "on_hold", "label": "On hold"},
    ]


def test_the_stages_of_a_model_are_the_options_of_its_stage_field() -> None:
    field = modal(
        Column(name="stage", type=ColumnType.STRING),
        stage_field="stage",
        stages=("new", "in_progress"),
        stage_details=(Stage(key="new", label="Fresh", color="blue"), Stage(key="in_progress")),
    )["fields"][0]
    assert field["options"] == [
        {"value": "new", "label": "Fresh", "color": "blue"},
        {"value": "in_progress", "label": "In progress"},
    ]


def test_filters_follow_the_type_of_a_column() -> None:
    shown = table(
        Column(name="title", type=ColumnType.STRING),
        Column(name="body", type=ColumnType.TEXT),
        Column(name="due", type=ColumnType.DATE),
        Column(name="amount", type=ColumnType.DECIMAL),
        Column(name="urgent", type=ColumnType.BOOL),
        Column(name="customer_id", type=ColumnType.UUID, ref="customers"),
    )
    assert [(item["key"], item["type"]) for item in shown["filters"]] == [
        ("title", "text"),
        ("due", "date_range"),
        ("amount", "number_range"),
        ("urgent", "boolean"),
        ("customer_id", "select"),
    ]
    assert by_key(shown["filters"], "customer_id")["searchEndpoint"] == "/options/customers"


def test_search_covers_the_searchable_columns_or_else_the_texts() -> None:
    title = Column(name="title", type=ColumnType.STRING)
    code = Column(name="code", type=ColumnType.STRING)
    amount = Column(name="amount", type=ColumnType.INT)
    assert table(title, code, amount, STATUS)["searchColumns"] == ["title", "code"]
    assert table(title, code.model_copy(update={"searchable": True}))["searchColumns"] == ["code"]
    assert table(title, code, table_metadata={"searchColumns": ["title"]})["searchColumns"] == ["title"]


def test_validation_and_required_reach_the_form() -> None:
    column = Column(
        name="email",
        type=ColumnType.STRING,
        required=True,
        widget="email",
        validation=ColumnValidation(regex="^.+@.+$", max=80),
    )
    field = modal(column)["fields"][0]
    assert (field["required"], field["validation"]) == (True, {"regex": "^.+@.+$", "max": 80})
    assert table(column)["columns"][0]["validation"] == {"regex": "^.+@.+$", "max": 80}


def test_a_required_column_with_a_default_may_stay_empty() -> None:
    assert modal(STATUS.model_copy(update={"required": True}))["fields"][0]["required"] is False


def test_declared_metadata_wins_and_only_gaps_are_filled() -> None:
    shown = table(
        Column(name="title", type=ColumnType.STRING, label="Subject", tooltip="In a few words"),
        Column(name="hours", type=ColumnType.INT, validation=ColumnValidation(min=0, max=9)),
        Column(name="left_out", type=ColumnType.STRING),
        table_metadata={
            "title": "My tickets",
            "columns": [
                {"key": "title", "label": "What", "type": "link", "sortable": True},
                {"key": "hours", "validation": {"max": 5}},
                {"key": "customer.name"},
            ],
            "enableCRUDActions": False,
            "perPageOptions": [5],
            "filters": None,
        },
    )
    assert shown["title"] == "My tickets"
    assert shown["enableCRUDActions"] is False
    assert shown["perPageOptions"] == [5]
    assert shown["columns"] == [
        {
            "key": "title",
            "label": "What",
            "type": "link",
            "sortable": True,
            "filterable": False,
            "tooltip": "In a few words",
        },
        {
            "key": "hours",
            "label": "Hours",
            "type": "number",
            "sortable": False,
            "filterable": False,
            "validation": {"min": 0, "max": 5},
        },
        {"key": "customer.name", "label": "Customer name", "type": "text", "sortable": False, "filterable": False},
    ]


def test_a_declared_form_keeps_its_titles_messages_and_textual_validation() -> None:
    shown = modal(
        Column(name="title", type=ColumnType.STRING, required=True, validation=ColumnValidation(max=9)),
        modal_metadata={
            "title": "Ticket",
            "createTitle": "Report something",
            "fields": [{"key": "title", "validation": "min:3|max:200", "placeholder": "Say it"}],
            "messages": {"created": "Thanks"},
        },
    )
    assert (shown["title"], shown["createTitle"], shown["editTitle"]) == ("Ticket", "Report something", "Edit Ticket")
    assert shown["messages"] == {"created": "Thanks"}
    assert shown["fields"] == [
        {
            "key": "title",
            "label": "Title",
            "type": "text",
            "required": True,
            "validation": "min:3|max:200",
            "placeholder": "Say it",
        }
    ]


def test_no_words_are_put_in_front_of_a_title_that_is_translated() -> None:
    assert "createTitle" not in modal(modal_metadata={"title": "models.tickets.modal.title"})


def test_actions_stand_where_they_were_placed() -> None:
    actions = [
        ActionDefinition(key="close", model="tickets", label="Close", requires_state=("open",), confirm=True),
        ActionDefinition(
            key="sweep", model="tickets", placement="table", name="sweep_all", type="link", link_url="/sweep"
        ),
        ActionDefinition(key="from_mail", model="tickets", placement="create", fields=({"name": "mail_id"},)),
        ActionDefinition(key="other", model="customers"),
    ]
    definition = model(Column(name="title", type=ColumnType.STRING))
    assert derive_table(definition, actions).as_json()["actions"] == [
        {"key": "close", "name": "close", "label": "Close", "confirm": True, "requiresState": ["open"]},
        {
            "key": "sweep",
            "name": "sweep_all",
            "label": "Sweep",
            "type": "link",
            "linkUrl": "/sweep",
            "isCollection": True,
        },
    ]
    assert derive_modal(definition, actions).as_json()["customActions"] == [
        {
            "key": "from_mail",
            "name": "from_mail",
            "label": "From mail",
            "isCollection": True,
            "fields": [{"key": "mail_id", "label": "Mail ID", "type": "text", "required": False}],
        }
    ]


def test_a_declared_action_is_completed_by_the_manifest_action_of_its_key() -> None:
    definition = model(table_metadata={"actions": [{"key": "close", "label": "Shut", "icon": "door"}]})
    actions = [ActionDefinition(key="close", model="tickets", label="Close", requires_state=("open",))]
    assert derive_table(definition, actions).as_json()["actions"] == [
        {"key": "close", "name": "close", "label": "Shut", "icon": "door", "requiresState": ["open"]}
    ]


def test_a_declared_shape_that_is_not_the_contracts_is_named_by_its_path() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        table(table_metadata={"columns": [{"key": "a"}, {"label": "no key"}], "defaultPerPage": "many"})
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"models[tickets].table.columns[1].key", "models[tickets].table.defaultPerPage"}


def test_every_key_of_the_wire_reads_back_as_it_was_written() -> None:
    column = {
        "key": "a",
        "label": "A",
        "type": "avatar",
        "sortable": True,
        "filterable": True,
        "options": [{"value": "x", "label": "X", "color": "red", "icon": "star"}],
        "useOptions": True,
        "cellStyle": "badge",
        "styleConfig": {"size": 2},
        "tooltip": "t",
        "description": "d",
        "basePath": "/img",
        "displayField": "name",
        "iconField": "icon",
        "relationPath": "owner",
        "searchEndpoint": "/search/x",
        "hidden": True,
        "ref": "x",
        "validation": {"regex": "a", "min": 1, "max": 2, "custom": "c"},
    }
    action = {
        "key": "go",
        "name": "go",
        "label": "Go",
        "icon": "i",
        "class": "primary",
        "color": "blue",
        "type": "link",
        "linkUrl": "/go",
        "condition": {"field": "a", "operator": "eq", "value": "x"},
        "confirm": True,
        "confirmMessage": "Sure?",
        "fields": [{"key": "f", "label": "F", "type": "text", "required": True}],
        "requiresState": ["open"],
        "isCollection": True,
    }
    declared = {
        "title": "T",
        "columns": [column],
        "searchColumns": ["a"],
        "filters": [
            {
                "key": "f",
                "label": "F",
                "type": "select",
                "column": "a",
                "default": "x",
                "options": [{"value": "x", "label": "X"}],
                "searchEndpoint": "/s",
            }
        ],
        "actions": [action],
        "enableCRUDActions": True,
        "perPageOptions": [10],
        "defaultPerPage": 10,
        "searchPlaceholder": "Find",
    }
    assert table(table_metadata=declared) == declared
    form = {
        "title": "T",
        "createTitle": "C",
        "editTitle": "E",
        "deleteTitle": "D",
        "fields": [
            {
                "key": "a",
                "label": "A",
                "type": "search",
                "required": True,
                "validation": {"regex": "a"},
                "options": [{"value": "x", "label": "X"}],
                "defaultValue": "x",
                "hideInView": True,
                "searchEndpoint": "/s",
                "placeholder": "p",
                "ref": "x",
            }
        ],
        "customActions": [action],
        "messages": {"created": "ok"},
    }
    assert modal(modal_metadata=form) == form
