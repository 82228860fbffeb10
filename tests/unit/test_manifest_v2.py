"""Version 2 manifests: every key of the contract has a home in the internal model."""

from __future__ import annotations

import json

import pytest
from tests.manifests import EXTRA_V2, Json, problems, read, v2, v2_column, v2_model, warnings

from metacore.errors import ManifestInvalid
from metacore.manifest.model import Capability, ColumnType, Icon, Isolation, Requirement
from metacore.manifest.read import parse_manifest

COLUMN = EXTRA_V2


def test_a_full_manifest_loses_nothing() -> None:
    written: Json = v2(
        description="Tickets and comments",
        category="crm",
        icon="Ticket",
        icon_type="lucide",
        icon_slug="TicketCheck",
        icon_color="#123456",
        requires=["people", {"key": "mail", "version": "^1.2", "optional": True, "reason": "sends", "label": "Mail"}],
        tenant_isolation="schema-per-tenant",
        models=[{"key": "tickets", "label": "Tickets"}, {"key": "legacy", "label": "Old", "table_name": "legacy_rows"}],
        navigation=[
            {
                "title": "g",
                "icon": "i",
                "target": "sidebar.ops",
                "items": [{"title": "t", "url": "/m", "model": "tickets"}],
            }
        ],
        extensions=[{"model": "invoices", "columns": [{"name": "cfdi", "type": "string"}]}],
        settings=[{"key": "locale", "type": "select", "default_value": "en", "options": ["en", "es"], "secret": False}],
        hooks={"tickets::resolve": "/webhooks/resolve", "order.paid": "https://a.example/x"},
        actions={"tickets": [{"key": "resolve", "label": "Resolve", "requiresState": ["open"], "class": "danger"}]},
        tools=[
            {"id": "make", "description": "d", "endpoint": "/webhooks/make", "trigger_keywords": ["a"], "timeout": 15}
        ],
        events=["ticket.created"],
        lifecycle_hooks={
            "install": [{"target": {"type": "webhook", "url": "/install"}}],
            "tickets": [{"event": "after_create", "target": {"type": "webhook", "url": "/made"}, "async": True}],
        },
        i18n={"en": {"models": {"tickets": {"title": "Tickets"}}}, "es-MX": {"a": "b"}},
        frontend={"entry": "remoteEntry.js", "expose": "./plugin"},
        backend={"runtime": "webhook", "url": "https://addon.example"},
        capabilities=[{"kind": "db:read", "target": "users", "reason": "names"}],
        permissions=["tickets.read", {"key": "tickets.close"}, {"model": "tickets", "scope": "audit"}],
        signature={"algorithm": "ed25519"},
        author="Ada",
        website="https://ada.example",
        license="MIT",
        readme="# hi",
        screenshots=["a.png"],
        features=["fast"],
        price={"amount": 3},
        future_key={"kept": True},
    )
    manifest = read(written)
    assert (manifest.api, manifest.kind, manifest.key, manifest.version) == ("v2", "Addon", "tickets", "1.0.0")
    assert (manifest.description, manifest.category, manifest.kernel) == (
        "Tickets and comments",
        "crm",
        ">=2.0.0 <3.0.0",
    )
    assert manifest.icon == Icon(type="lucide", slug="TicketCheck", color="#123456")
    assert manifest.requires == (
        Requirement(key="people"),
        Requirement(key="mail", version="^1.2", optional=True, reason="sends"),
    )
    assert manifest.isolation is Isolation.SCHEMA_PER_TENANT
    assert manifest.capabilities == (Capability(kind="db:read", target="users", reason="names"),)
    assert [(group.target, group.items[0].model) for group in manifest.navigation] == [("sidebar.ops", "tickets")]
    assert manifest.extensions[0]["model"] == "invoices"
    assert [(item.key, item.default_value, len(item.options)) for item in manifest.settings] == [("locale", "en", 2)]
    assert manifest.hooks["tickets::resolve"] == "/webhooks/resolve"
    action = manifest.actions[0]
    assert (action.model, action.key, action.requires_state, action.css_class, action.trigger) == (
        "tickets",
        "resolve",
        ("open",),
        "danger",
        "",
    )
    assert (manifest.tools[0]["id"], manifest.tools[0]["method"], manifest.tools[0]["timeout"]) == ("make", "POST", 15)
    assert manifest.events == ("ticket.created",)
    assert manifest.lifecycle == {"install": [{"type": "webhook", "function": "", "url": "/install"}]}
    assert manifest.lifecycle_hooks["tickets"][0]["event"] == "after_create"
    assert manifest.i18n == {"en": {"models.tickets.title": "Tickets"}, "es-MX": {"a": "b"}}
    assert manifest.frontend is not None and manifest.frontend.container == "metacore_tickets"
    assert (manifest.frontend.format, manifest.frontend.layout) == ("federation", "shell")
    assert manifest.backend is not None and manifest.backend.url == "https://addon.example"
    assert (manifest.backend.memory_limit_mb, manifest.backend.timeout_ms) == (64, 10_000)
    assert manifest.permissions == ("tickets.read", "tickets.close", "tickets.audit")
    assert manifest.signature == {"algorithm": "ed25519"}
    assert (manifest.author, manifest.website, manifest.license, manifest.readme) == (
        "Ada",
        "https://ada.example",
        "MIT",
        "# hi",
    )
    assert (manifest.screenshots, manifest.features, manifest.price) == (("a.png",), ("fast",), {"amount": 3})
    assert manifest.raw == written


def test_bytes_and_an_object_give_the_same() -> None:
    assert parse_manifest(json.dumps(v2()).encode()) == parse_manifest(v2())


def test_unknown_top_level_keys_are_kept_and_named_as_warnings() -> None:
    manifest = v2(future_key=1)
    assert read(manifest).raw["future_key"] == 1
    assert ("manifest.future_key", "unknown_key") in warnings(manifest)


def test_a_listed_model_without_definition_takes_its_columns_from_the_database() -> None:
    legacy = read(v2(models=[{"key": "tickets"}, {"key": "legacy", "table_name": "old_rows"}, "bare"])).models[1:]
    assert [(model.key, model.table, model.declared, model.columns) for model in legacy] == [
        ("legacy", "old_rows", False, ()),
        ("bare", "bare", False, ()),
    ]


def test_the_model_key_defaults_to_the_table() -> None:
    manifest = v2()
    del manifest["model_definitions"][0]["model_key"]
    model = read(manifest).model("tickets")
    assert model is not None and model.key == "tickets"


def test_every_row_of_a_shared_schema_says_whose_it_is() -> None:
    assert read(v2_model(org_scoped=False)).models[0].org_scoped
    alone = {**v2_model(org_scoped=False), "tenant_isolation": "schema-per-tenant"}
    assert not read(alone).models[0].org_scoped
    assert read(v2(tenant_isolation="schema-per-tenant")).models[0].org_scoped


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("string", ColumnType.STRING),
        ("text", ColumnType.TEXT),
        ("uuid", ColumnType.UUID),
        ("int", ColumnType.INT),
        ("integer", ColumnType.INT),
        ("bigint", ColumnType.BIGINT),
        ("decimal", ColumnType.DECIMAL),
        ("numeric", ColumnType.DECIMAL),
        ("float", ColumnType.DECIMAL),
        ("double", ColumnType.DECIMAL),
        ("bool", ColumnType.BOOL),
        ("boolean", ColumnType.BOOL),
        ("timestamp", ColumnType.TIMESTAMP),
        ("datetime", ColumnType.TIMESTAMP),
        ("timestamptz", ColumnType.TIMESTAMP),
        ("date", ColumnType.DATE),
        ("jsonb", ColumnType.JSONB),
        ("json", ColumnType.JSONB),
    ],
)
def test_types_fold_into_the_canonical_ones(written: str, kind: ColumnType) -> None:
    column = read(v2_column(type=written)).models[0].columns[-1]
    assert column.type is kind
    assert column.size == (255 if kind is ColumnType.STRING else None)


def test_a_column_keeps_what_its_author_said() -> None:
    column = (
        read(
            v2_column(
                size=40,
                required=True,
                index=True,
                unique=True,
                default="'x'",
                ref="people.Person",
                visibility="modal",
                searchable=True,
                validation={"regex": "^[a-z]+$", "min": 1, "max": 9, "custom": "$org.code"},
                widget="select",
                options=[{"value": "x", "label": "X", "color": "red", "icon": "i"}, "y"],
            )
        )
        .models[0]
        .columns[-1]
    )
    assert (column.size, column.required, column.index, column.unique, column.default) == (40, True, True, True, "'x'")
    assert (column.ref, column.visibility, column.searchable, column.widget) == (
        "people.Person",
        "modal",
        True,
        "select",
    )
    assert (column.validation.regex, column.validation.min, column.validation.max) == ("^[a-z]+$", 1.0, 9.0)
    assert column.validation.custom == "$org.code"
    assert [(option.value, option.label, option.color) for option in column.options] == [
        ("x", "X", "red"),
        ("y", "y", ""),
    ]


def test_the_kernels_own_columns_are_described_not_declared_twice() -> None:
    manifest = v2()
    manifest["model_definitions"][0]["columns"] += [
        {"name": "id", "type": "uuid", "default": "gen_random_uuid()"},
        {"name": "organization_id", "type": "uuid", "required": True},
        {"name": "created_by_id", "type": "uuid"},
        {"name": "created_at", "type": "timestamp", "label": "Opened"},
        {"name": "updated_at", "type": "datetime"},
    ]
    model = read(manifest).models[0]
    assert [column.name for column in model.columns] == ["title", "status", "amount"]
    assert [column.label for column in model.kernel_columns if column.name == "created_at"] == ["Opened"]
    assert not model.soft_delete


def test_a_declared_deleted_at_makes_delete_soft() -> None:
    model = read(v2_column(name="deleted_at", type="timestamp")).models[0]
    assert model.soft_delete
    assert model.column("deleted_at") is None


def test_the_kernels_columns_keep_their_type() -> None:
    assert problems(v2_column(name="id", type="bigint")) == [(f"{COLUMN}.type", "reserved")]
    assert problems(v2_column(name="created_at", type="date")) == [(f"{COLUMN}.type", "reserved")]


def test_table_and_modal_are_kept_as_written() -> None:
    table = {"title": "T", "columns": [{"key": "title"}]}
    modal = {"title": "M", "fields": [{"key": "title"}]}
    model = read(v2_model(table=table, modal=modal)).models[0]
    assert (model.table_metadata, model.modal_metadata) == (table, modal)


def test_nulls_count_as_absent() -> None:
    manifest = v2(navigation=[], settings=[], backend=None)
    for key in ("navigation", "settings", "actions", "hooks", "frontend", "backend", "i18n", "events", "requires"):
        manifest[key] = None
    manifest["model_definitions"][0]["relations"] = None
    assert read(manifest).backend is None


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"key": "Tickets"}, "key", "pattern"),
        ({"key": "t"}, "key", "pattern"),
        ({"key": "a" * 49}, "key", "pattern"),
        ({"key": "1tickets"}, "key", "pattern"),
        ({"key": "tick-ets"}, "key", "pattern"),
        ({"key": "tickets\n"}, "key", "pattern"),
        ({"key": "tickets_0123abcd"}, "key", "reserved"),
        ({"key": "kernel"}, "key", "reserved"),
        ({"key": 7}, "key", "type"),
        ({"key": None}, "key", "required"),
        ({"name": None}, "name", "required"),
        ({"version": None}, "version", "required"),
        ({"version": "1.0"}, "version", "version"),
        ({"version": 1}, "version", "type"),
        ({"kernel": "latest"}, "kernel", "version_range"),
        ({"kernel": ["2"]}, "kernel", "type"),
        ({"requires": ["tickets"]}, "requires[0].key", "requires"),
        ({"requires": ["a1", "a1"]}, "requires[1].key", "duplicate"),
        ({"requires": [{"key": "a1", "version": "x.y"}]}, "requires[0].version", "version_range"),
        ({"requires": [7]}, "requires[0]", "type"),
        ({"requires": "people"}, "requires", "type"),
        ({"tenant_isolation": "database-per-tenant"}, "tenant_isolation", "isolation"),
        ({"tenant_isolation": "schema"}, "tenant_isolation", "choice"),
        ({"model_definitions": {}}, "model_definitions", "type"),
        ({"model_definitions": [[]]}, "model_definitions[0]", "type"),
        ({"models": [5]}, "models[0]", "type"),
        ({"models": [{"label": "x"}]}, "models[0].key", "required"),
        ({"models": [{"key": "Legacy"}]}, "models[0].table_name", "required"),
        ({"models": [{"key": "legacy", "table_name": "tickets"}]}, "models[0].table_name", "duplicate"),
        ({"events": ["no spaces"]}, "events[0]", "pattern"),
        ({"events": ["a.b", "a.b"]}, "events[1]", "duplicate"),
        ({"events": [{"name": 5}]}, "events[0]", "pattern"),
        ({"permissions": [{}]}, "permissions[0].key", "required"),
        ({"permissions": ["a b"]}, "permissions[0]", "pattern"),
        ({"permissions": ["a.b", "a.b"]}, "permissions[1]", "duplicate"),
        ({"features": ["ok", 5]}, "features[1]", "type"),
        ({"i18n": {"en": "text"}}, "i18n.en", "type"),
        ({"i18n": {"en": {"a": 5}}}, "i18n.en.a", "type"),
        ({"i18n": {"not a locale": {}}}, 'i18n["not a locale"]', "locale"),
        ({"hooks": {"a::b": "ftp://x.example"}}, 'hooks["a::b"]', "url"),
        ({"hooks": {"a::b": 5}}, 'hooks["a::b"]', "type"),
        ({"hooks": {"::b": "/x"}}, 'hooks["::b"]', "pattern"),
        ({"signature": "x"}, "signature", "type"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(changes: Json, path: str, code: str) -> None:
    manifest = v2(**changes)
    assert (f"manifest.{path}", code) in problems(manifest)
    with pytest.raises(ManifestInvalid, match="manifest"):
        read(manifest)


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"table_name": "Tickets"}, "table_name", "pattern"),
        ({"table_name": "t" * 64}, "table_name", "pattern"),
        ({"table_name": None}, "table_name", "required"),
        ({"model_key": "a b"}, "model_key", "pattern"),
        ({"org_scoped": "yes"}, "org_scoped", "type"),
        ({"soft_delete": 1}, "soft_delete", "type"),
        ({"columns": "title"}, "columns", "type"),
        ({"columns": [7]}, "columns[0]", "type"),
        ({"columns": [{"name": "a", "type": "int"}] * 2}, "columns[1].name", "duplicate"),
        ({"columns": [{"type": "int"}]}, "columns[0].name", "required"),
        ({"table": []}, "table", "type"),
        ({"table": {"columns": [{"label": "x"}]}}, "table.columns[0].key", "required"),
        ({"modal": {"fields": {}}}, "modal.fields", "type"),
    ],
)
def test_what_is_wrong_with_a_model(changes: Json, path: str, code: str) -> None:
    assert (f"manifest.model_definitions[0].{path}", code) in problems(v2_model(**changes))


@pytest.mark.parametrize(
    ("column", "path", "code"),
    [
        ({"name": "Bad"}, "name", "pattern"),
        ({"name": "drop table"}, "name", "pattern"),
        ({"name": "a" * 64}, "name", "pattern"),
        ({"name": "ctid"}, "name", "reserved"),
        ({"type": "money"}, "type", "type"),
        ({"type": "varchar(10)"}, "type", "type"),
        ({"type": None}, "type", "required"),
        ({"type": 5}, "type", "type"),
        ({"size": 0}, "size", "range"),
        ({"size": 10_485_761}, "size", "range"),
        ({"size": "20"}, "size", "type"),
        ({"required": "yes"}, "required", "type"),
        ({"default": "drop table x"}, "default", "default"),
        ({"type": "int", "default": "'a'"}, "default", "default"),
        ({"default": {"a": 1}}, "default", "default"),
        ({"ref": "a b"}, "ref", "pattern"),
        ({"visibility": "nowhere"}, "visibility", "choice"),
        ({"widget": "hologram"}, "widget", "choice"),
        ({"validation": {"regex": "("}}, "validation.regex", "regex"),
        ({"validation": {"regex": "a" * 501}}, "validation.regex", "too_long"),
        ({"validation": {"min": 5, "max": 1}}, "validation.min", "range"),
        ({"validation": {"min": "1"}}, "validation.min", "type"),
        ({"validation": []}, "validation", "type"),
        ({"options": [{"label": "no value"}]}, "options[0].value", "type"),
        ({"options": ["a", "a"]}, "options", "duplicate"),
        ({"options": 5}, "options", "type"),
        ({"primary_key": True}, "primary_key", "primary_key"),
    ],
)
def test_what_is_wrong_with_a_column(column: Json, path: str, code: str) -> None:
    assert (f"{COLUMN}.{path}", code) in problems(v2_column(**column))


def test_the_refusal_of_a_default_reads_as_the_contract_says() -> None:
    with pytest.raises(
        ManifestInvalid, match=r"manifest\.model_definitions\[0\]\.columns\[3\]\.default: .*not allowed"
    ):
        read(v2_column(default="drop table users"))


def test_two_models_cannot_answer_to_one_name() -> None:
    manifest = v2()
    manifest["model_definitions"].append({"table_name": "other", "model_key": "Tickets", "columns": []})
    assert problems(manifest) == [("manifest.model_definitions[1].model_key", "duplicate")]
