"""The custom resource definitions, generated from the typed resources: `python -m metacore_operator.crds`.

What the models check and OpenAPI can say becomes the schema; what only CEL can say stands in `RULES`. Version ranges
and what lies outside the object are left to the operator, which says so in the status.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from metacore_operator.resources.addon import DNS_LABEL, GROUP, KIND, PLURAL, VERSION
from metacore_operator.resources.mode_rollout import MODE_ROLLOUT_KIND, MODE_ROLLOUT_PLURAL, ModeRolloutStatus
from metacore_operator.resources.spec import (
    AddonSpec,
    Capabilities,
    Organizations,
    OrganizationSelector,
    SelectorRequirement,
    SettingsSource,
    SignatureSource,
    Source,
)
from metacore_operator.resources.status import AddonStatus

HEADER = "# Generated from operator/metacore_operator/resources by `python -m metacore_operator.crds --write`.\n"
FOLDER = "crds"
"""Where the definitions live in the repository. The chart's copies are made from them."""

Column = tuple[str, str, str, int]
"""Name, type, path and priority; 1 shows only with `-o wide`."""
Rule = tuple[str, str]
"""A CEL expression and what is said when it does not hold."""

SHA256_RULE = (r"self.matches('^[0-9a-f]{64}$')", "must be a SHA-256 as 64 lower-case hex digits")
ONLY_TRUE = ("self", "may only be true; leave it out instead of false")

_KEY = "(has({0}.spec.key) ? {0}.spec.key : {0}.metadata.name.replace('-', '_'))"

ROOT_RULES: Sequence[Rule] = (
    (
        f"self.metadata.name.matches('{DNS_LABEL}')",
        "metadata.name must be a DNS label: at most 63 lower-case letters, digits and -",
    ),
    (
        "has(self.spec.key) || self.metadata.name.matches('^[a-z][a-z0-9-]{1,47}$')",
        "metadata.name makes no addon key (a letter, then letters, digits and -, 48 at most); set spec.key",
    ),
    (
        f"{_KEY.format('self')} == {_KEY.format('oldSelf')}",
        "the addon key cannot change; delete the Addon and make another",
    ),
)


def _one_of(*names: str) -> Rule:
    given = ", ".join(f"has(self.{name})" for name in names)
    return f"[{given}].exists_one(given, given)", f"exactly one of {', '.join(names)} is needed"


RULES: Mapping[type[BaseModel], Sequence[Rule]] = {
    Source: (
        _one_of("oci", "http", "configMap", "path"),
        ("!has(self.path) || !self.path.startsWith('/')", "path must be relative to the addons folder"),
    ),
    SignatureSource: (_one_of("value", "secretRef", "fromSource"),),
    SettingsSource: (_one_of("secretRef", "configMapRef"),),
    Organizations: (_one_of("all", "names", "selector"),),
    OrganizationSelector: (
        (
            "(has(self.matchLabels) && size(self.matchLabels) > 0)"
            " || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
            "an empty selector selects nothing; use all: true for everybody",
        ),
    ),
    SelectorRequirement: (
        (
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "In and NotIn need values, Exists and DoesNotExist take none",
        ),
    ),
    Capabilities: (
        (
            "!has(self.list) || size(self.list) == 0 || self.accept != 'Always'",
            "list has no meaning with accept: Always",
        ),
    ),
}

FIELD_RULES: Mapping[tuple[str, str], Rule] = {
    ("AddonSpec", "digest"): SHA256_RULE,
    ("HttpSource", "sha256"): SHA256_RULE,
    ("SignatureSource", "fromSource"): ONLY_TRUE,
    ("Organizations", "all"): ONLY_TRUE,
}
"""These say more than the pattern or type that they stand beside; a pattern gives way, so nothing is told twice."""

COLUMNS: Sequence[Column] = (
    ("Version", "string", ".status.version", 0),
    ("Mode", "string", ".status.observedMode", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Kernels", "integer", ".status.kernels.acknowledged", 0),
    ("Violations", "integer", ".status.violations.day", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1),
)
ROLLOUT_COLUMNS: Sequence[Column] = (
    ("Wish", "string", ".status.wish", 0),
    ("Mode", "string", ".status.mode", 0),
    ("Phase", "string", ".status.phase", 0),
    ("Pods", "string", ".status.pods", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 0),
)

KEPT = (
    "type",
    "description",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of Addon as a decoded document."""
    spec = _Structural(AddonSpec, defaults=True).whole()
    schema = {
        "description": "Declares that one signed bundle shall be installed, for whom, and under which conditions.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec | {"description": "What shall be."},
            "status": _status(AddonStatus),
        },
        "x-kubernetes-validations": _validations(ROOT_RULES),
    }
    return _definition(KIND, PLURAL, "mca", COLUMNS, schema)


def mode_rollout_definition() -> dict[str, Any]:
    """The same of ModeRollout, which has no spec: what is wished for stands in the ConfigMap of the release."""
    schema = {
        "description": "Tells in which mode the kernels of a release are and why. Only the operator writes it.",
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "status": _status(ModeRolloutStatus),
        },
    }
    return _definition(MODE_ROLLOUT_KIND, MODE_ROLLOUT_PLURAL, "mcm", ROLLOUT_COLUMNS, schema)


def _status(model: type[BaseModel]) -> dict[str, Any]:
    status = _Structural(model, defaults=False).whole()
    status["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return status | {"description": "What is."}


def _definition(
    kind: str, plural: str, short: str, columns: Sequence[Column], schema: Mapping[str, Any]
) -> dict[str, Any]:
    shown = [
        {"name": name, "type": type_, "jsonPath": path, **({"priority": priority} if priority else {})}
        for name, type_, path, priority in columns
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["metacore"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": shown,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def texts() -> Mapping[str, str]:
    """The definitions as the files that are kept in the repository, by their names."""
    return {
        f"{GROUP}_{document['spec']['names']['plural']}.yaml": HEADER
        + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)
        for document in (definition(), mode_rollout_definition())
    }


def drifted(root: Path) -> Sequence[str]:
    """Files below the repository's `root` that are not what `--write` would write, and those that it would not."""
    folder = root / FOLDER
    held = {path.name: path.read_text("utf-8") for path in folder.glob("*.yaml")}
    wanted = texts()
    return sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m metacore_operator.crds", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write the definitions into the repository")
    what.add_argument("--check", action="store_true", help="fail when what is in the repository differs")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the repository (default: this folder)")
    options = parser.parse_args(arguments)
    folder = options.root / FOLDER
    if options.write:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts().items():
            (folder / name).write_text(text, "utf-8")
    elif found := drifted(options.root):
        names = ", ".join(found)
        sys.stderr.write(f"not what the resources say: {names}; run: python -m metacore_operator.crds --write\n")
        return 1
    return 0


def _validations(rules: Sequence[Rule]) -> list[dict[str, str]]:
    return [{"rule": rule, "message": message} for rule, message in rules]


class _Structural:
    """Pydantic's JSON schema as Kubernetes' structural schema: no references, no unions, unknown keys pruned."""

    def __init__(self, model: type[BaseModel], *, defaults: bool) -> None:
        self._model = model
        self._defaults = defaults
        self._schema = model.model_json_schema(by_alias=True)
        self._rules = {kind.__name__: rules for kind, rules in RULES.items()}

    def whole(self) -> dict[str, Any]:
        return self._convert(self._schema, self._model.__name__)

    def _convert(self, schema: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
        if "$ref" in schema:
            name = str(schema["$ref"]).rsplit("/", 1)[1]
            target = self._schema["$defs"][name]
            return self._convert({**target, **{key: item for key, item in schema.items() if key != "$ref"}}, name)
        if "anyOf" in schema:
            (value,) = (option for option in schema["anyOf"] if option.get("type") != "null")
            outer = {key: item for key, item in schema.items() if key not in ("anyOf", "default")}
            return self._convert({**value, **outer})
        result = {key: schema[key] for key in KEPT if key in schema}
        if "properties" in schema:
            self._object(schema, owner, result)
        elif schema.get("type") == "object":
            values = schema.get("additionalProperties", True)
            if isinstance(values, Mapping):
                result["additionalProperties"] = self._convert(values)
            else:
                result["x-kubernetes-preserve-unknown-fields"] = True
        elif schema.get("type") == "array":
            result["items"] = self._convert(schema["items"])
        self._default(schema, result)
        return dict(sorted(result.items(), key=lambda item: (item[0] != "description", item[0] != "type", item[0])))

    def _object(self, schema: Mapping[str, Any], owner: str, result: dict[str, Any]) -> None:
        properties = {name: self._convert(item) for name, item in schema["properties"].items()}
        for name, item in properties.items():
            rule = FIELD_RULES.get((owner, name))
            if rule is not None:
                item.pop("pattern", None)
                item["x-kubernetes-validations"] = _validations([rule])
                if rule is SHA256_RULE:
                    # CEL's cost is estimated from the longest text there can be.
                    item["maxLength"] = 64
        result["properties"] = properties
        if schema.get("required"):
            result["required"] = list(schema["required"])
        if rules := self._rules.get(owner):
            result["x-kubernetes-validations"] = _validations(rules)

    def _default(self, schema: Mapping[str, Any], result: dict[str, Any]) -> None:
        """Defaults that say something; an object with such inside is made, so that they take effect."""
        if not self._defaults:
            return
        if "properties" in result:
            inner = result["properties"].values()
            if "default" in schema and any("default" in item for item in inner):
                result["default"] = {}
        elif schema.get("default") not in (None, "", [], {}):
            result["default"] = schema["default"]


if __name__ == "__main__":
    sys.exit(main())
