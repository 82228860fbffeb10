"""Contract 17, sentence by sentence."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from metacore.errors import InvalidInput
from metacore.manifest.model import Manifest, NavigationGroup, NavigationItem
from metacore.manifest.read import parse_manifest
from metacore.navigation import AddonNavigation, Group, Item, capabilities, contributed, merge, visible
from metacore.registry import Installed, LiveAddon, Snapshot

ORGANIZATION = uuid.uuid4()
EXAMPLES = Path(__file__).parents[2] / "examples" / "addons"
CORE = [
    {"title": "Sales", "icon": "cart", "target": "core.sales", "items": [{"title": "Orders", "url": "/orders"}]},
    {"title": "sidebar.admin", "icon": "gear", "items": [{"title": "Users", "url": "/users", "model": "users"}]},
]


def addon(key: str, *groups: NavigationGroup) -> AddonNavigation:
    return AddonNavigation(key, groups)


def group(title: str = "", *titles: str, target: str = "") -> NavigationGroup:
    return NavigationGroup(title=title, target=target, items=tuple(NavigationItem(title=name) for name in titles))


def shape(groups: list[Group]) -> list[tuple[str, list[str]]]:
    return [(item.title, [entry.title for entry in item.items]) for item in groups]


def test_a_group_and_its_items_have_the_contracts_keys() -> None:
    merged = merge(
        CORE[:1],
        [
            addon(
                "crm",
                NavigationGroup(
                    target="core.sales",
                    items=(
                        NavigationItem(
                            title="Leads",
                            url="/leads",
                            icon="funnel",
                            model="leads",
                            permission="leads.read",
                            items=(NavigationItem(title="New"),),
                        ),
                    ),
                ),
            )
        ],
    )
    empty = {"icon": "", "model": "", "permission": "", "items": []}
    assert [item.as_json() for item in merged] == [
        {
            "title": "Sales",
            "icon": "cart",
            "target": "core.sales",
            "items": [
                {**empty, "title": "Orders", "url": "/orders", "owner": "core"},
                {
                    "title": "Leads",
                    "url": "/leads",
                    "icon": "funnel",
                    "model": "leads",
                    "permission": "leads.read",
                    "owner": "addon:crm",
                    "items": [{**empty, "title": "New", "url": "", "owner": "addon:crm"}],
                },
            ],
        }
    ]


def test_a_group_with_the_target_of_a_core_group_appends_to_it() -> None:
    merged = merge(CORE, [addon("crm", group("Ignored", "Leads", target="core.sales"))])
    assert shape(merged) == [("Sales", ["Orders", "Leads"]), ("sidebar.admin", ["Users"])]


def test_a_core_group_without_a_target_is_found_by_its_title() -> None:
    merged = merge(CORE, [addon("crm", group("", "Roles", target="sidebar.admin"))])
    assert shape(merged) == [("Sales", ["Orders"]), ("sidebar.admin", ["Users", "Roles"])]


def test_untitled_groups_of_all_addons_gather_under_one_title() -> None:
    merged = merge([], [addon("b", group("", "B1"), group("", "B2")), addon("a", group("", "A1"))])
    assert shape(merged) == [("sidebar.addons", ["A1", "B1", "B2"])]


def test_an_untitled_group_whose_target_nobody_has_gathers_too() -> None:
    assert shape(merge(CORE[:1], [addon("a", group("", "A1", target="core.gone"))]))[-1] == ("sidebar.addons", ["A1"])


def test_a_core_group_with_the_gathering_title_takes_the_untitled_ones() -> None:
    core = [Group(title="sidebar.addons", items=(Item(title="Store"),))]
    assert shape(merge(core, [addon("a", group("", "A1"))])) == [("sidebar.addons", ["Store", "A1"])]


def test_other_groups_are_new_ones() -> None:
    merged = merge(CORE, [addon("crm", group("Marketing", "Campaigns", target="core.gone"))])
    assert shape(merged)[-1] == ("Marketing", ["Campaigns"])


def test_addons_come_in_key_order() -> None:
    merged = merge(
        CORE[:1],
        [
            addon("zoo", group("", "Z", target="core.sales"), group("Zoo", "Z")),
            addon("ant", group("", "A", target="core.sales"), group("Ants", "A")),
        ],
    )
    assert shape(merged) == [("Sales", ["Orders", "A", "Z"]), ("Ants", ["A"]), ("Zoo", ["Z"])]


def test_the_owner_of_core_items_is_core_whatever_the_host_wrote() -> None:
    core = [{"title": "X", "items": [{"title": "Y", "owner": "addon:fake", "items": [{"title": "Z", "owner": "q"}]}]}]
    entry = merge(core, [])[0].items[0]
    assert (entry.owner, entry.items[0].owner) == ("core", "core")


def test_a_core_group_of_a_wrong_shape_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidInput, match=r"items\.0\.title"):
        merge([{"title": "X", "items": [{"url": "/x"}]}], [])


def test_merging_leaves_what_it_was_given_alone() -> None:
    core = [Group(title="Sales", target="core.sales", items=(Item(title="Orders"),))]
    merge(core, [addon("a", group("", "A", target="core.sales"))])
    assert shape(core) == [("Sales", ["Orders"])]


def test_items_whose_permission_the_caller_lacks_are_left_out() -> None:
    groups = [
        Group(
            title="Work",
            items=(
                Item(title="Open"),
                Item(title="Guarded", permission="things.see"),
                Item(title="Model", model="Tickets"),
                Item(title="Both", permission="tickets.manage", model="tickets"),
            ),
        )
    ]
    assert capabilities(groups) == {"things.see", "tickets.read", "tickets.manage"}
    assert shape(visible(groups, [])) == [("Work", ["Open"])]
    assert shape(visible(groups, ["tickets.read"])) == [("Work", ["Open", "Model"])]
    assert shape(visible(groups, ["tickets.manage"])) == [("Work", ["Open"])]
    assert shape(visible(groups, capabilities(groups))) == [("Work", ["Open", "Guarded", "Model", "Both"])]


def test_what_becomes_empty_is_left_out_and_what_was_empty_stays() -> None:
    nested = Item(title="Folder", items=(Item(title="Inner", permission="x.read"),))
    page = Item(title="Page", url="/page", items=(Item(title="Inner", permission="x.read"),))
    groups = [Group(title="Gone", items=(nested,)), Group(title="Kept", items=(page,)), Group(title="Empty")]
    assert shape(visible(groups, [])) == [("Kept", ["Page"]), ("Empty", [])]
    assert visible(groups, [])[0].items[0].items == ()
    assert shape(visible(groups, ["x.read"])) == [("Gone", ["Folder"]), ("Kept", ["Page"]), ("Empty", [])]


def test_a_model_item_asks_for_the_capability_of_the_model_by_any_of_its_names() -> None:
    groups = [Group(title="Work", items=(Item(title="Table", model="crm_leads"),))]
    assert capabilities(groups, {"crm_leads": "lead"}.__getitem__) == {"lead.read"}


def test_only_addons_that_serve_the_organization_contribute() -> None:
    def live(key: str, **more: str) -> LiveAddon:
        manifest = Manifest(api="v2", key=key, name=key, version="1.0.0", navigation=(group(key, "Item"),))
        return LiveAddon(key=key, version="1.0.0", digest="", manifest=manifest, **more)  # type: ignore[arg-type]

    def installed(key: str, enabled: bool = True) -> Installed:
        return Installed(uuid.uuid4(), key, "1.0.0", enabled)

    snapshot = Snapshot(
        addons={
            "good": live("good"),
            "off": live("off"),
            "fenced": live("fenced", fenced_reason="untrusted"),
            "broken": live("broken", error="cannot load"),
            "foreign": live("foreign"),
        },
        installed={
            ORGANIZATION: {
                "good": installed("good"),
                "off": installed("off", enabled=False),
                "fenced": installed("fenced"),
                "broken": installed("broken"),
                "unloaded": installed("unloaded"),
            },
            uuid.uuid4(): {"foreign": installed("foreign")},
        },
    )
    assert [item.key for item in contributed(snapshot, ORGANIZATION)] == ["good"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/manifest.json")), ids=lambda path: path.parent.name)
def test_menus_of_the_examples_ask_for_what_their_models_are_guarded_by(path: Path) -> None:
    manifest = parse_manifest(path.read_bytes())
    resources = {name: model.key.lower() for model in manifest.models for name in (model.key, model.table)}
    items = [item for group in manifest.navigation for item in group.items if item.model]
    assert [item.permission for item in items] == [f"{resources[item.model]}.read" for item in items]
