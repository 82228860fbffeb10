"""What people do with Addons on a cluster: sign bundles, hand them over, declare, wait, ask the API."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from nacl.signing import SigningKey
from tests.cluster.release import Release
from tests.tickets import SIGNING_KEY, make_bundle

from metacore.bundle.signature import sign

PATIENCE = "120s"
SIGNATURE = ".sig.json"
COLUMNS: Sequence[Mapping[str, Any]] = ({"name": "title", "type": "string", "size": 200, "not_null": True},)


class AddonWorld:
    """One namespace, one organization and one addon key, all three of this test alone.

    The addon has one model, `<key>_items`, with a `title`. Every method is blocking.
    """

    def __init__(self, release: Release, namespace: str, *, key: str, organization: str) -> None:
        self.release = release
        self.namespace = namespace
        self.key = key
        self.organization = organization
        self.token = ""

    @property
    def model(self) -> str:
        """The model's table, by which the API reaches it."""
        return f"{self.key}_items"

    def register(self) -> str:
        """Make the organization; returns its owner's token."""
        self.token = self.release.register(self.organization)
        return self.token

    # Bundles

    def manifest(self, key: str = "", *, version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
        key = key or self.key
        model = {"key": f"{key.title().replace('_', '')}Item", "table": f"{key}_items", "columns": list(COLUMNS)}
        return {
            "apiVersion": "asteby.com/v3",
            "kind": "Addon",
            "metadata": {"key": key, "name": key, "version": version},
            "compatibility": {"requires": [{"key": "kernel", "version": ">=3.0.0 <4.0.0"}]},
            "models": [model],
            **changes,
        }

    def with_column(self, name: str, kind: str = "string", **changes: Any) -> list[dict[str, Any]]:
        """The `models` of a next version that has one more column."""
        (model,) = self.manifest()["models"]
        return [{**model, "columns": [*model["columns"], {"name": name, "type": kind, **changes}]}]

    def bundle(
        self, name: str, *, allow: str = "", signer: SigningKey | None = SIGNING_KEY, key: str = "", **manifest: Any
    ) -> bytes:
        """A ConfigMap with a signed bundle, for the Addon `allow`; keywords change its manifest. Returns the bundle."""
        content = make_bundle(self.manifest(key, **manifest))
        entries = {"b": content}
        if signer is not None:
            entries[f"b{SIGNATURE}"] = signature_of(content, signer)
        metadata = {"name": name, "labels": {"metacore.dev/allow": allow or self.key}}
        data = {entry: base64.b64encode(value).decode() for entry, value in entries.items()}
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": data})
        return content

    # Addons

    def declare(self, bundle: str = "", name: str = "", **spec: Any) -> None:
        """Apply an Addon called `name` (the key), whose source is a ConfigMap unless `source` says otherwise."""
        self.apply(self.addon(bundle, name, **spec))

    def addon(self, bundle: str = "", name: str = "", **spec: Any) -> dict[str, Any]:
        source = {"configMap": {"name": bundle, "key": "b"}}
        return {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": name or self.key},
            "spec": {"source": source, "organizations": {"names": [self.organization]}, **spec},
        }

    def until(self, wanted: str, name: str = "", *, timeout: str = PATIENCE) -> None:
        """Wait for `condition=…` or `jsonpath=…` of an Addon; the failure shows what it was instead."""
        target = f"addon/{name or self.key}"
        try:
            self.kubectl("wait", f"--for={wanted}", target, f"--timeout={timeout}")
        except subprocess.CalledProcessError as error:
            shown = self.kubectl("get", target, "-o", "yaml")
            log = self.release.logs("operator", tail=30)
            raise AssertionError(f"{wanted}: {error.stderr}\n{shown}\n{log}") from None

    def condition(self, kind: str = "Ready", name: str = "") -> Mapping[str, str]:
        """`status`, `reason` and `message` of a condition; empty when it is not there."""
        found = self.status(name).get("conditions", [])
        return next((item for item in found if item["type"] == kind), {})

    def status(self, name: str = "") -> dict[str, Any]:
        found = json.loads(self.kubectl("get", "addon", name or self.key, "-o", "json"))
        return dict(found.get("status", {}))

    def events(self, name: str = "") -> list[str]:
        """Reasons of the Events of an Addon, oldest first."""
        chosen = f"involvedObject.kind=Addon,involvedObject.name={name or self.key}"
        found = json.loads(self.kubectl("get", "events", "--field-selector", chosen, "-o", "json"))["items"]
        return [item["reason"] for item in sorted(found, key=lambda item: str(item["metadata"]["creationTimestamp"]))]

    def restarts(self) -> int:
        """How often containers of the release were started again."""
        found = json.loads(self.release.kubectl("get", "pods", "-o", "json"))["items"]
        return sum(item["restartCount"] for pod in found for item in pod["status"].get("containerStatuses", []))

    def ended(self) -> list[str]:
        """Why containers of the release ended before they were started again, such as OOMKilled."""
        found = json.loads(self.release.kubectl("get", "pods", "-o", "json"))["items"]
        states = [item["lastState"] for pod in found for item in pod["status"].get("containerStatuses", [])]
        return [state["terminated"]["reason"] for state in states if "terminated" in state]

    def secret(self, name: str, kind: str, entries: Mapping[str, str], *, allow: str = "") -> None:
        """A Secret that the Addon `allow` may name."""
        metadata = {"name": name, "labels": {"metacore.dev/allow": allow or self.key}}
        self.apply({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "stringData": entries})

    def delete(self, name: str = "", *, timeout: str = PATIENCE) -> None:
        """Delete an Addon and wait until it is gone."""
        self.kubectl("delete", "addon", name or self.key, f"--timeout={timeout}")

    # Everything else

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.release.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def apply(self, document: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))

    def request(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        """One request about the addon's model, as the organization's owner; `path` may begin with / and an id."""
        return self.release.request(method, f"/dynamic/{self.model}{path}", body, self.token)

    def titles(self) -> list[str]:
        """Every row's title, in their order."""
        found: list[str] = []
        page = 1
        while True:
            status, answer = self.request("GET", f"?per_page=200&page={page}&sortBy=created_at&order=asc")
            assert status == 200, answer
            found += [row["title"] for row in answer["data"]]
            if page >= answer["meta"]["last_page"]:
                return sorted(found)
            page += 1


def signature_of(content: bytes, signer: SigningKey) -> bytes:
    return json.dumps(sign(content, signer).as_json()).encode()
