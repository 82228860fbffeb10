"""Version 3 manifests: every key of the contract has a home in the internal model."""

from __future__ import annotations

import pytest
from tests.manifests import EXTRA_V3, Json, problems, read, v3, v3_column, v3_order, warnings

from metacore.manifest.model import Icon, Isolation, Requirement, VisibleWhen

COLUMN = EXTRA_V3


def test_metadata_and_requirements() -> None:
    manifest = read(
        v3(
            metadata={
                "key": "shop",
                "name": "Shop",
                "description": "Sells",
                "version": "1.2.0-rc.1",
                "category": "sales",
                "icon": {"type": "lucide", "slug": "Cart", "color": "#fff"},
                "author": "Ada",
                "website": "https://a.example",
                "license": "MIT",
                "readme": "README.md",
                "screenshots": ["a.png"],
                "features": ["fast"],
                "countries": ["MX"],
                "i18n": {"es": {"name": "Tienda"}},
            },
            compatibility={
                "requires": [
                    {"key": "kernel", "version": "^3.1"},
                    {"key": "people", "version": "^1.0", "optional": True, "reason": "names"},
                ]
            },
            tenancy={"isolation": "schema", "rls_column": "organization_id"},
        )
    )
    assert (manifest.api, manifest.kind, manifest.key, manifest.version) == ("v3", "Addon", "shop", "1.2.0-rc.1")
    assert manifest.icon == Icon(type="lucide", slug="Cart", color="#fff")
    assert (manifest.countries, manifest.metadata_i18n) == (("MX",), {"es": {"name": "Tienda"}})
    assert manifest.kernel == "^3.1"
    assert manifest.requires == (Requirement(key="people", version="^1.0", optional=True, reason="names"),)
    assert (manifest.isolation, manifest.rls_column) == (Isolation.SCHEMA_PER_TENANT, "organization_id")


def test_models_are_found_by_key_and_by_table() -> None:
    manifest = read(v3())
    assert manifest.model("Order") is manifest.model("orders")
    assert manifest.model("Nothing") is None


def test_a_column_keeps_what_its_author_said() -> None:
    column = (
        read(
            v3_column(
                label="Extra",
                not_null=True,
                default="a",
                ref="people.Person",
                display="badge",
                widget="dynamic_select",
                display_config={"a": 1},
                options={"source": "Line", "filter_by": "order_id", "value": "id", "label": "note"},
                options_source="installed_addons",
                depends_on="status",
                scan=True,
                section="main",
                visible_when={"field": "status", "in": ["new"]},
                readonly=True,
                tooltip="t",
                description="d",
                comment="c",
                constraints=[{"expr": "net >= 0", "error_key": "net.negative"}],
            )
        )
        .models[0]
        .columns[-1]
    )
    assert (column.label, column.required, column.default, column.ref) == ("Extra", True, "'a'", "people.Person")
    assert (column.display, column.widget, column.display_config) == ("badge", "dynamic_select", {"a": 1})
    assert column.options_source is not None and column.options_source.source == "Line"
    assert (column.options_provider, column.depends_on, column.scan) == ("installed_addons", "status", True)
    assert column.visible_when == VisibleWhen(field="status", any_of=("new",))
    assert (column.readonly, column.tooltip, column.description, column.comment) == (True, "t", "d", "c")
    assert [(item.expr, item.error_key) for item in column.constraints] == [("net >= 0", "net.negative")]


def test_a_widget_that_is_not_listed_is_a_warning_only() -> None:
    assert (f"{COLUMN}.widget", "unknown_widget") in warnings(v3_column(widget="dynamic_select"))


def test_a_model_without_columns_takes_them_from_the_database() -> None:
    manifest = v3()
    manifest["models"].append({"key": "Ledger", "table": "ledger"})
    assert [model.declared for model in read(manifest).models] == [True, True, False]


def test_keys_inside_that_nobody_reads_are_kept_and_named() -> None:
    manifest = v3_order(document_forms={"types": []})
    assert read(manifest).raw["models"][0]["document_forms"] == {"types": []}
    assert ("manifest.models[0].document_forms", "unknown_key") in warnings(manifest)


def test_importing_can_be_closed_or_described() -> None:
    assert read(v3()).models[0].importable is True
    assert read(v3_order(**{"import": False})).models[0].importable is False
    assert read(v3_order(**{"import": {"key": "number"}})).models[0].importable == {"key": "number"}


def test_form_layout_and_sections() -> None:
    manifest = v3_column(section="a")
    manifest["models"][0]["form_layout"] = {"mode": "steps", "sections": [{"key": "a", "title": "A"}]}
    assert read(manifest).models[0].form_layout["mode"] == "steps"
    manifest["models"][0]["columns"][-1]["section"] = "b"
    assert problems(manifest) == [(f"{COLUMN}.section", "unknown_section")]


def test_contributions_extension_points_and_rbac() -> None:
    manifest = read(
        v3(
            contributions={
                "navigation": [{"title": "g", "items": [{"title": "Orders", "model": "Order"}]}],
                "dashboard": [{"key": "sales", "title": "s", "kind": "stat", "query": {"model": "Order"}}],
                "documents": [{"key": "invoice", "model": "Order", "template": "a.html", "paper": "A4"}],
                "notifications": [{"key": "n", "on": "shop.Order.created", "title": "t"}],
                "slots": [{"slot_kind": "people.panel", "entry": "frontend/Panel"}],
                "tools": [{"key": "report", "description": "d"}],
                "subscriptions": [{"event": "people.*", "handler": {"type": "webhook", "url": "/x"}}],
            },
            extension_points={
                "events": [{"name": "shop.order_paid"}],
                "slot_kinds": [{"name": "shop.panel"}],
                "model_extensions_accepted": ["Order"],
            },
            rbac={"roles": [{"key": "seller", "permissions": ["order.read"]}], "permissions": [{"key": "order.read"}]},
            billing={"metered_events": []},
            signature={"algorithm": "ed25519"},
        )
    )
    assert manifest.navigation[0].items[0].model == "Order"
    assert set(manifest.contributions) >= {"dashboard", "documents", "notifications", "slots"}
    assert (manifest.tools[0]["id"], manifest.tools[0]["method"]) == ("report", "POST")
    assert manifest.subscriptions[0]["event"] == "people.*"
    assert manifest.events == ("shop.order_paid",)
    assert manifest.extension_points["model_extensions_accepted"] == ["Order"]
    assert manifest.roles[0]["key"] == "seller"
    assert manifest.permissions == ("order.read",)
    assert manifest.billing == {"metered_events": []}
    assert manifest.signature == {"algorithm": "ed25519"}


def test_translations_inline_and_in_files() -> None:
    manifest = read(
        v3(
            i18n={
                "default_locale": "es-MX",
                "bundles": [
                    {"locale": "en", "messages": {"models": {"a": "b"}}},
                    {"locale": "es-MX", "path": "frontend/es.json"},
                ],
            }
        )
    )
    assert manifest.default_locale == "es-MX"
    assert manifest.i18n == {"en": {"models.a": "b"}}
    assert manifest.i18n_files == (("es-MX", "frontend/es.json"),)


def test_presets_themes_and_connector_packs_are_read() -> None:
    metadata = {"key": "pack", "name": "Pack", "version": "1.0.0"}
    base: Json = {"apiVersion": "asteby.com/v3", "metadata": metadata}
    preset = read({**base, "kind": "Preset", "preset": {"addons": [{"key": "shop", "version": "^1"}], "defaults": {}}})
    assert preset.preset["addons"][0]["key"] == "shop"
    assert read({**base, "kind": "Theme", "theme": {"tokens": "a.json"}}).theme == {"tokens": "a.json"}
    pack = read({**base, "kind": "ConnectorPack", "connector_pack": {"providers": []}})
    assert (pack.kind, pack.connector_pack) == ("ConnectorPack", {"providers": []})


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"bogus": 1}, "bogus", "unknown_key"),
        ({"key": "shop"}, "key", "unknown_key"),
        ({"kind": "Plugin"}, "kind", "choice"),
        ({"kind": None}, "kind", "required"),
        ({"kind": "Preset"}, "preset", "required"),
        ({"kind": "Preset", "preset": {"addons": [{"key": "a1"}]}}, "models", "kind"),
        ({"kind": "Preset", "models": None, "preset": {"addons": []}}, "preset.addons", "required"),
        ({"kind": "Theme", "theme": {}}, "models", "kind"),
        ({"preset": {"addons": [{"key": "a1"}]}}, "preset", "kind"),
        ({"theme": {}}, "theme", "kind"),
        ({"metadata": None}, "metadata", "required"),
        ({"metadata": []}, "metadata", "type"),
        ({"metadata": {"key": "shop_12345678", "name": "x", "version": "1.0.0"}}, "metadata.key", "reserved"),
        ({"metadata": {"key": "shop", "version": "1.0.0"}}, "metadata.name", "required"),
        ({"metadata": {"key": "shop", "name": "x", "version": "v1"}}, "metadata.version", "version"),
        (
            {"compatibility": {"requires": [{"key": "kernel", "version": "newest"}]}},
            "compatibility.requires[0].version",
            "version_range",
        ),
        ({"tenancy": {"isolation": "database"}}, "tenancy.isolation", "isolation"),
        ({"tenancy": {"isolation": "schema-per-tenant"}}, "tenancy.isolation", "choice"),
        ({"tenancy": {"rls_column": "tenant_id"}}, "tenancy.rls_column", "choice"),
        ({"models": {}}, "models", "type"),
        ({"rbac": {"roles": [{"label": "x"}]}}, "rbac.roles[0].key", "required"),
        ({"i18n": {"bundles": [{"locale": "en"}]}}, "i18n.bundles[0].path", "required"),
        ({"i18n": {"bundles": [{"locale": "en", "path": "../x"}]}}, "i18n.bundles[0].path", "path"),
        ({"i18n": {"default_locale": "english!"}}, "i18n.default_locale", "pattern"),
        (
            {"extension_points": {"model_extensions_accepted": ["Nope"]}},
            "extension_points.model_extensions_accepted[0]",
            "unknown_model",
        ),
        ({"extension_points": {"events": ["bad name"]}}, "extension_points.events[0]", "pattern"),
        ({"billing": []}, "billing", "type"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(changes: Json, path: str, code: str) -> None:
    assert (f"manifest.{path}", code) in problems(v3(**changes))


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"key": "order"}, "key", "pattern"),
        ({"key": "Order_Item"}, "key", "pattern"),
        ({"key": None}, "key", "required"),
        ({"table": None}, "table", "required"),
        ({"table": "Orders"}, "table", "pattern"),
        ({"table": "order_lines"}, "table", "duplicate"),
        ({"locking": "table"}, "locking", "choice"),
        ({"import": 5}, "import", "type"),
        ({"form_layout": {"mode": "tabs", "sections": []}}, "form_layout.mode", "choice"),
        (
            {"form_layout": {"mode": "steps", "sections": [{"key": "a"}, {"key": "a"}]}},
            "form_layout.sections[1].key",
            "duplicate",
        ),
        (
            {
                "form_layout": {
                    "mode": "steps",
                    "sections": [{"key": "a", "visible_when": {"field": "nope", "equals": 1}}],
                }
            },
            "form_layout.sections[0].visible_when",
            "unknown_column",
        ),
        ({"extensions": [{"columns": []}]}, "extensions[0].target_model", "required"),
        (
            {"extensions": [{"target_model": "a.B", "columns": [{"name": "x", "type": "no"}]}]},
            "extensions[0].columns[0].type",
            "type",
        ),
    ],
)
def test_what_is_wrong_with_a_model(changes: Json, path: str, code: str) -> None:
    found = problems(v3_order(**changes))
    assert any(
        field in (f"manifest.models[0].{path}", f"manifest.models[1].{path}") and item == code for field, item in found
    )


@pytest.mark.parametrize(
    ("column", "path", "code"),
    [
        ({"default": "it's"}, "default", "default"),
        ({"default": ["a"]}, "default", "default"),
        ({"type": "int", "default": "many"}, "default", "default"),
        ({"depends_on": "nope"}, "depends_on", "unknown_column"),
        ({"visible_when": {"field": "nope", "equals": 1}}, "visible_when", "unknown_column"),
        ({"visible_when": {"field": "status"}}, "visible_when", "required"),
        ({"options": {"filter_by": "a"}}, "options.source", "required"),
        ({"options_source": "no spaces"}, "options_source", "pattern"),
        ({"type": "decimal", "generated": "net + tax", "default": 1}, "generated", "generated"),
        ({"type": "decimal", "generated": "net + tax", "not_null": True}, "generated", "generated"),
        ({"type": "decimal", "generated": "extra + 1"}, "generated", "expression"),
        ({"type": "decimal", "generated": "lower(number)"}, "generated", "expression"),
        ({"type": "string", "generated": "net + tax"}, "generated", "type"),
        ({"constraints": [{"expr": "net >= 0 or 1 = 1"}]}, "constraints[0].expr", "expression"),
        ({"constraints": [{"expr": "net + 1"}]}, "constraints[0].expr", "expression"),
        ({"constraints": [{"expr": "placed_on > 5"}]}, "constraints[0].expr", "expression"),
        ({"constraints": [{"expr": "unknown > 5"}]}, "constraints[0].expr", "expression"),
        ({"constraints": [5]}, "constraints[0]", "type"),
        ({"constraints": [{}]}, "constraints[0].expr", "required"),
        ({"sequence": "nope"}, "sequence", "unknown_sequence"),
    ],
)
def test_what_is_wrong_with_a_column(column: Json, path: str, code: str) -> None:
    assert (f"{COLUMN}.{path}", code) in problems(v3_column(**column))


@pytest.mark.parametrize(
    "expr", ["net >= 0", "net + tax <= total * 2", "placed_on <= paid_on", "created_at <= updated_at"]
)
def test_constraints_that_hold_water(expr: str) -> None:
    assert problems(v3_column(constraints=[expr, {"expr": expr, "error_key": "x"}])) == []
