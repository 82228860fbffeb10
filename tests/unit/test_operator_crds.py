"""The custom resource definition is what the typed resource says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from metacore_operator import crds
from metacore_operator.resources.addon import parse_addon
from metacore_operator.resources.mode_rollout import ModeRolloutStatus

ROOT = Path(__file__).parents[2]


def schema() -> dict[str, Any]:
    (version,) = crds.definition()["spec"]["versions"]
    whole: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return whole


def spec() -> dict[str, Any]:
    properties: dict[str, Any] = schema()["properties"]["spec"]["properties"]
    return properties


def nodes(value: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema with its path."""
    found = [(path, value)]
    for name, item in value.get("properties", {}).items():
        found += nodes(item, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(value.get(key), dict):
            found += nodes(value[key], f"{path}[]")
    return found


def messages() -> set[str]:
    return {rule["message"] for _path, node in nodes(schema()) for rule in node.get("x-kubernetes-validations", ())}


def test_the_files_in_the_repository_are_the_generated_ones() -> None:
    assert crds.drifted(ROOT) == [], "run: python -m metacore_operator.crds --write"


def test_the_check_fails_on_a_changed_a_missing_and_a_foreign_file(tmp_path: Path) -> None:
    assert crds.main(["--check", "--root", str(tmp_path)]) == 1
    assert crds.main(["--write", "--root", str(tmp_path)]) == 0
    assert crds.main(["--check", "--root", str(tmp_path)]) == 0
    for name in crds.texts():
        file = tmp_path / "crds" / name
        before = file.read_text()
        file.write_text(before + "# more\n")
        assert crds.drifted(tmp_path) == [name]
        file.write_text(before)
    (tmp_path / "crds" / "other.yaml").write_text("")
    assert crds.drifted(tmp_path) == ["other.yaml"]


def test_the_texts_are_the_definitions() -> None:
    assert {name: yaml.safe_load(text) for name, text in crds.texts().items()} == {
        "metacore.dev_addons.yaml": crds.definition(),
        "metacore.dev_moderollouts.yaml": crds.mode_rollout_definition(),
    }


def test_the_rollout_is_only_told_and_shows_what_people_ask_for() -> None:
    document = crds.mode_rollout_definition()
    (version,) = document["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    assert set(properties) == {"apiVersion", "kind", "metadata", "status"}
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns == ["Wish", "Mode", "Phase", "Pods", "Ready", "Age", "Message"]
    assert document["spec"]["names"]["categories"] == ["metacore"]
    assert set(properties["status"]["properties"]) == {field.alias for field in ModeRolloutStatus.model_fields.values()}


def test_every_schema_has_a_type_and_no_reference_is_left() -> None:
    for path, node in nodes(schema()):
        assert "type" in node, path
        assert not {"$ref", "anyOf", "$defs", "title", "const", "prefixItems"} & set(node), path


def test_lists_under_rules_have_an_end() -> None:
    """The API server estimates what a rule may cost from the longest list that it could meet."""
    for path, node in nodes({"type": "object", "properties": spec()}):
        if node["type"] == "array":
            assert "maxItems" in node, path


def test_defaults_are_those_of_the_resource_and_reach_into_objects() -> None:
    declared = parse_addon(
        {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": "a1"},
            "spec": {"source": {"path": "a"}, "organizations": {"all": True}},
        }
    ).spec.model_dump(mode="json")
    defaults = {name: item["default"] for name, item in spec().items() if "default" in item}
    assert defaults.pop("capabilities") == {}
    assert spec()["capabilities"]["properties"]["accept"]["default"] == declared["capabilities"]["accept"]
    assert defaults == {name: declared[name] for name in defaults}
    assert set(defaults) == {"mode", "enabled", "suspend", "deletionPolicy", "revisionHistoryLimit"}


def test_settings_are_kept_whatever_they_hold() -> None:
    assert spec()["settings"]["x-kubernetes-preserve-unknown-fields"] is True


def test_what_the_resource_refuses_beyond_a_schema_is_refused_at_admission() -> None:
    assert {
        "exactly one of oci, http, configMap, path is needed",
        "exactly one of value, secretRef, fromSource is needed",
        "exactly one of all, names, selector is needed",
        "exactly one of secretRef, configMapRef is needed",
        "an empty selector selects nothing; use all: true for everybody",
        "In and NotIn need values, Exists and DoesNotExist take none",
        "list has no meaning with accept: Always",
        "may only be true; leave it out instead of false",
        "must be a SHA-256 as 64 lower-case hex digits",
        "path must be relative to the addons folder",
        "the addon key cannot change; delete the Addon and make another",
    } <= messages()


def test_the_listing_shows_what_operators_ask_for() -> None:
    (version,) = crds.definition()["spec"]["versions"]
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}
    assert list(columns) == ["Version", "Mode", "Ready", "Kernels", "Violations", "Age", "Message"]
    assert columns["Message"]["priority"] == 1
    assert version["subresources"] == {"status": {}}
    names = crds.definition()["spec"]["names"]
    assert (names["shortNames"], names["categories"]) == (["mca"], ["metacore"])
