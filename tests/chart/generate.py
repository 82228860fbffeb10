"""`python -m tests.chart.generate` writes what the chart derives from elsewhere.

That is the kernel's settings in values.schema.json, the copies of crds/, and the tables in docs/chart.md. A test fails
while any of them is stale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings

from metacore.settings import Settings
from metacore_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "metacore"
SCHEMA = CHART / "values.schema.json"
ALERTS = CHART / "files" / "alerts.yaml"
DEFINITIONS = CHART / "files" / "crds"
PAGE = ROOT / "docs" / "chart.md"

SET_BY_THE_CHART = frozenset(
    {
        "database_url",
        "direct_database_url",
        "owner_database_url",
        "transaction_pooler",
        "jwt_secrets",
        "master_key",
        "enforce",
        "enforce_file",
        "mode_fixed",
        "mode_organizations",
        "port",
        "trusted_proxies",
        "pod_name",
        "cache_dir",
        "trusted_keys",
        "trusted_key",
        "allow_unsigned_bundles",
    }
)
"""Settings that have values of their own, or none: `settings` takes the rest of those that are no secrets."""

OPERATOR_SET_BY_THE_CHART = frozenset(
    {
        "namespace",
        "config_map",
        "trust_secret",
        "kernel_deployment",
        "canary_seconds",
        "most_violations",
        "violation_window",
        "lease",
        "cluster_wide",
        "namespaces",
        "tenancy",
        "source_hosts",
        "addons_root",
        "port",
    }
)
"""The same for the operator, whose `operator.settings` also takes how it logs and who administers the installation."""


def main() -> None:
    DEFINITIONS.mkdir(exist_ok=True)
    for path in DEFINITIONS.glob("*.yaml"):
        path.unlink()
    for name, text in definitions().items():
        (DEFINITIONS / name).write_text(text, "utf-8")
    SCHEMA.write_text(schema_text(), "utf-8")
    PAGE.write_text(page_text(), "utf-8")


def definitions() -> Mapping[str, str]:
    """What crds/ holds; a chart can only take files from its own folder."""
    return {path.name: path.read_text("utf-8") for path in sorted((ROOT / "crds").glob("*.yaml"))}


def schema_text() -> str:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    kernel = _settings(Settings, "METACORE_", SET_BY_THE_CHART)
    shared = {name: described for name, described in kernel.items() if name.startswith("METACORE_LOG_")}
    # Whose requests may ask for more; the mode itself nobody changes by API in a cluster.
    shared |= _settings(Settings, "METACORE_", frozenset(Settings.model_fields) - {"mode_organizations"})
    operator = _settings(OperatorSettings, "METACORE_OPERATOR_", OPERATOR_SET_BY_THE_CHART)
    for name, properties in (("settings", kernel), ("operatorSettings", operator | shared)):
        schema["$defs"][name] = {"type": "object", "additionalProperties": False, "properties": properties}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def page_text() -> str:
    schema = json.loads(schema_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, described in leaves(schema):
        rows.append(f"| `{path}` | {_shown(_at(values, path))} | {_meaning(described)} |")
    alerts = ["| Alert | Severity | When, and what to do |", "|---|---|---|"]
    for alert in yaml.safe_load(ALERTS.read_text("utf-8"))["alerts"]:
        summary = _words(alert["annotations"]["summary"])
        text = f"{summary}. {alert['annotations']['description']}"
        alerts.append(f"| `{alert['alert']}` | {alert['labels']['severity']} | {text} |")
    return _replaced(_replaced(PAGE.read_text("utf-8"), "values", rows), "alerts", alerts)


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every value that has no values below it, as `kernel.replicas`, with its part of the schema."""
    for name, described in schema["properties"].items():
        here = f"{path}.{name}" if path else name
        if name == "global":
            continue
        if "properties" in described:
            yield from leaves(described, here)
        else:
            yield here, described


def _settings(model: type[BaseSettings], prefix: str, left_out: Collection[str]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, described in model.model_json_schema(by_alias=False)["properties"].items():
        secret = described.get("format") == "password" or described.get("items", {}).get("format") == "password"
        if name in left_out or secret:
            continue
        kept = {key: value for key, value in described.items() if key not in {"title", "default"}}
        if described.get("type") == "array":
            kept = {"type": "string", "description": described["description"]}
        properties[f"{prefix}{name.upper()}"] = kept
    return properties


def _at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


def _shown(value: Any) -> str:
    return "" if value in ("", [], {}) else f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _meaning(described: Mapping[str, Any]) -> str:
    text = str(described["description"]).replace("|", "\\|")
    text = re.sub(r"<release>-\w+", lambda found: f"`{found[0]}`", text)
    if "enum" in described:
        text += f" One of {', '.join(f'`{item}`' for item in described['enum'])}."
    return text


def _words(template: str) -> str:
    """A summary without the placeholders that Prometheus fills in."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", template)
    return re.sub(r"\{\{ \$value[^}]*\}\}", "*n*", text)


def _replaced(page: str, name: str, lines: list[str]) -> str:
    before, begin, rest = page.partition(f"<!-- {name}: generated -->\n")
    _, end, after = rest.partition(f"<!-- {name}: end -->")
    if not (begin and end):
        raise ValueError(f"{PAGE} lacks the marks of the table {name}")
    return before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after


if __name__ == "__main__":
    main()
