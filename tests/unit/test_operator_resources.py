"""The Addon resource: what is refused and how the refusal names its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from metacore.errors import InvalidInput
from metacore_operator.resources.addon import Addon, parse_addon
from metacore_operator.resources.spec import AddonSpec, SourceKind
from metacore_operator.resources.strict import Strict

MINIMAL: dict[str, Any] = {
    "apiVersion": "metacore.dev/v1alpha1",
    "kind": "Addon",
    "metadata": {"name": "help-desk"},
    "spec": {"source": {"path": "dist/help_desk.tar.gz"}, "organizations": {"all": True}},
}


def document(**spec: Any) -> dict[str, Any]:
    made = copy.deepcopy(MINIMAL)
    made["spec"].update(spec)
    return made


def test_a_minimal_addon_gets_the_documented_defaults() -> None:
    addon = parse_addon(MINIMAL)

    assert addon.key == "help_desk"
    assert addon.full_name == "default/help-desk"
    assert addon.spec.source.kind is SourceKind.PATH
    assert (addon.spec.enabled, addon.spec.suspend, addon.spec.mode) == (True, False, "inherit")
    assert addon.spec.deletion_policy == "Retain"
    assert addon.spec.capabilities.accept == "Declared"
    assert addon.spec.revision_history_limit == 10


@pytest.mark.parametrize(
    ("spec", "place", "words"),
    [
        ({"sauce": 1}, "spec.sauce", "unknown key"),
        ({"source": {"path": "a", "extra": 1}}, "spec.source.extra", "unknown key"),
        ({"source": {}}, "spec.source", "found none"),
        (
            {"source": {"path": "a", "http": {"url": "https://example.com/a"}}},
            "spec.source",
            "exactly one of oci, http, configMap, path is needed, found http and path",
        ),
        ({"deletion_policy": "Drop"}, "spec.deletion_policy", "unknown key"),
        ({"deletionPolicy": "drop"}, "spec.deletionPolicy", "'Retain' or 'Drop'"),
        ({"organizations": {"all": True, "names": ["Acme"]}}, "spec.organizations", "found all and names"),
        ({"organizations": {"all": False}}, "spec.organizations.all", "may only be true"),
        ({"organizations": {"names": ["Acme", 3]}}, "spec.organizations.names[1]", "string"),
        ({"organizations": {"names": "Acme"}}, "spec.organizations.names", "should be a list"),
        ({"organizations": {"selector": {}}}, "spec.organizations.selector", "selects nothing"),
        (
            {"organizations": {"selector": {"matchExpressions": [{"key": "name", "operator": "In"}]}}},
            "spec.organizations.selector.matchExpressions[0]",
            "needs values",
        ),
        ({"digest": "ABC"}, "spec.digest", "pattern"),
        ({"version": "newest please"}, "spec.version", ""),
        ({"key": "Bad-Key"}, "spec.key", "pattern"),
        ({"enabled": "yes"}, "spec.enabled", "boolean"),
        (
            {"capabilities": {"accept": "Always", "list": [{"kind": "db:read", "target": "a"}]}},
            "spec.capabilities",
            "",
        ),
        (
            {"capabilities": {"accept": "Listed", "list": [{"kind": "db:drop", "target": "a"}]}},
            "spec.capabilities.list[0].kind",
            "db:read",
        ),
        ({"signature": {"value": "{}", "fromSource": True}}, "spec.signature", "found value and fromSource"),
        ({"settings": {"limit": float("nan")}}, "spec.settings", "JSON"),
        ({"settings": {"map": {1: "a"}}}, "spec.settings", "JSON"),
        ({"revisionHistoryLimit": -1}, "spec.revisionHistoryLimit", "greater than"),
    ],
)
def test_nonsense_is_refused_with_its_path(spec: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_addon(document(**spec))

    assert [problem.field for problem in refusal.value.problems] == [place]
    assert words in refusal.value.problems[0].message
    assert place in refusal.value.message


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_addon(document(digest="x", mode="strict", whatever=1))

    assert {problem.field for problem in refusal.value.problems} == {"spec.digest", "spec.mode", "spec.whatever"}


@pytest.mark.parametrize("thing", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(thing: Any) -> None:
    with pytest.raises(InvalidInput, match="should be a mapping"):
        parse_addon(thing)


def test_a_name_that_makes_no_key_needs_an_explicit_one() -> None:
    named = copy.deepcopy(MINIMAL)
    named["metadata"]["name"] = "7up"

    with pytest.raises(InvalidInput, match=r"set spec\.key"):
        parse_addon(named)

    named["spec"]["key"] = "seven_up"
    assert parse_addon(named).key == "seven_up"


def test_what_an_api_server_adds_to_metadata_is_no_unknown_key() -> None:
    served = copy.deepcopy(MINIMAL)
    served["metadata"].update(resourceVersion="7", creationTimestamp="2026-01-01T00:00:00Z", finalizers=["x"])

    assert parse_addon(served).metadata.name == "help-desk"

    served["metadata"]["nmae"] = "x"
    with pytest.raises(InvalidInput, match=r"metadata\.nmae: unknown key"):
        parse_addon(served)


def test_an_addon_survives_its_own_json() -> None:
    addon = parse_addon(
        document(
            settings={"greeting": None, "since": "2026-01-01", "nested": {"a": [1, 2.5]}},
            capabilities={"accept": "Listed", "list": [{"kind": "db:read", "target": "orders.*"}]},
            organizations={"names": ["Acme"]},
        )
    )

    assert parse_addon(addon.model_dump(mode="json", exclude_none=True)) == addon


def test_every_field_of_the_spec_is_described() -> None:
    def undescribed(model: type[Strict], path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            if not field.description:
                found.append(f"{path}.{name}")
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, Strict):
                    found.extend(undescribed(kind, f"{path}.{name}"))
        return found

    assert undescribed(AddonSpec, "spec") == []
    assert Addon.model_fields["spec"].annotation is AddonSpec
