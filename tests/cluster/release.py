"""One release of the chart on a cluster: installed by helm, with a database of its own, reached through its Service."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.cluster import CHART, Cluster, HelmFailed
from tests.conftest import DatabaseUrls

NAME = "metacore"
DATABASE_SECRET = "database"
TIMEOUT = "4m"
PATIENT_SECONDS = 120
PRIVATE_PORT = 5001
"""Of a registry on the node that asks for a login; a test starts it."""
BROKEN_PORT = 5002
"""Where a test's own server on the host plays a registry; nobody listens there otherwise."""
OWNER = {
    "name": "Ann",
    "email": "ann@acme.test",
    "password": "correct horse battery",
    "organization_name": "Acme",
}


class Release:
    """A release called `metacore` in a namespace; its objects are `metacore-kernel`, `metacore-operator`, …"""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.urls: DatabaseUrls | None = None
        self._url = ""

    @property
    def _database(self) -> str:
        return self.namespace.replace("-", "_")

    def install(
        self, values: Mapping[str, Any] | None = None, *flags: str, chart: Path = CHART, image: str = ""
    ) -> None:
        """Install or upgrade, and wait until every pod is ready. `values` are merged over `base_values`.

        Raises:
            HelmFailed: with what helm says and what the pods say.
        """
        cluster = self.cluster
        cluster.namespaces(self.namespace)
        self.urls = cluster.database.make(self._database)
        entries = {"kernel-url": self.urls.kernel, "owner-url": self.urls.owner}
        metadata = {"name": DATABASE_SECRET, "namespace": self.namespace}
        cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": entries})
        whole = merged(base_values(cluster, image or cluster.image), values or {})
        arguments = ["upgrade", "--install", NAME, str(chart), "--namespace", self.namespace]
        try:
            cluster.helm(*arguments, "--wait", "--timeout", TIMEOUT, *flags, values=whole)
        except HelmFailed as error:
            raise HelmFailed(f"{error}\n{self.described()}") from error

    def uninstall(self) -> None:
        """Remove the namespace with all in it, and the database. Addons go without their operator."""
        self.cluster.helm("uninstall", NAME, "--namespace", self.namespace, "--ignore-not-found", "--wait")
        # An operator that still ran would put its finalizer back.
        for name in self.kubectl("get", "addons", "-o", "name").split():
            self.kubectl("patch", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")
        self.cluster.database.drop(self._database)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def rolled_out(self, component: str = "kernel", timeout: str = "180s") -> None:
        """Wait until a Deployment is what it should be."""
        self.kubectl("rollout", "status", f"deployment/{NAME}-{component}", f"--timeout={timeout}")

    def renew(self) -> None:
        """Make every pod whole: those whose container ended wait longer and longer to start again, new ones do not."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"app.kubernetes.io/instance={NAME}", "-o", "json"))[
            "items"
        ]
        restarted = [
            pod["metadata"]["name"]
            for pod in found
            if any(item["restartCount"] for item in pod["status"].get("containerStatuses", []))
        ]
        if restarted:
            self.kubectl("delete", "pod", *restarted, "--wait=false")
        for component in ("kernel", "operator"):
            self.rolled_out(component)

    def pods(self, component: str) -> list[str]:
        """Names of the pods that have not been told to end."""
        selector = f"app.kubernetes.io/component={component},app.kubernetes.io/instance={NAME}"
        found = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return sorted(pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"])

    def described(self) -> str:
        """Pods, Events and the ends of the logs, for whoever reads why something failed."""
        told = [self.kubectl("get", "pods,jobs", "-o", "wide"), self.kubectl("events", "--types=Warning")]
        for component in ("kernel", "operator", "migrate"):
            told.append(f"--- {component}")
            told.append(self.logs(component, tail=15))
        return "\n".join(told)

    def logs(self, component: str, *, tail: int = -1) -> str:
        selector = f"app.kubernetes.io/component={component}"
        return self.kubectl("logs", "-l", selector, f"--tail={tail}", "--prefix", "--ignore-errors")

    @property
    def url(self) -> str:
        """The Service as this host reaches it, by its cluster address, which stays for as long as it is there."""
        if self._url:
            return self._url
        service = json.loads(self.kubectl("get", "service", NAME, "-o", "json"))["spec"]
        self._url = f"http://{service['clusterIP']}:{service['ports'][0]['port']}"
        return self._url

    def request(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        """Status and decoded body of one request to `/api<path>`."""
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api{path}", method=method, headers=headers, data=content)
        try:
            with urllib.request.urlopen(request, timeout=PATIENT_SECONDS) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def register(self, organization: str = "Acme") -> str:
        """The token of the owner of a new organization."""
        email = f"ann@{organization.lower().replace(' ', '-')}.test"
        person = {**OWNER, "email": email, "organization_name": organization}
        status, answer = self.request("POST", "/auth/register", person)
        assert status in (200, 201), answer
        return str(answer["data"]["token"])


def base_values(cluster: Cluster, image: str) -> dict[str, Any]:
    """Values that this cluster needs: its image, its database, and the addresses that bundles may come from."""
    repository, _, tag = image.rpartition(":")
    addresses = cluster.node.addresses
    plain = [cluster.node.registry, f"{addresses.node}:{PRIVATE_PORT}", f"{addresses.host}:{BROKEN_PORT}"]
    return {
        "image": {"repository": repository, "tag": tag},
        "database": {"existingSecret": DATABASE_SECRET},
        "kernel": {"resources": {"requests": {"cpu": "20m"}}, "drainSeconds": 2, "rollout": {"minReadySeconds": 1}},
        "operator": {
            "resources": {"requests": {"cpu": "20m"}},
            "sources": {"hosts": [addresses.node, addresses.host]},
            "settings": {"METACORE_OPERATOR_PLAIN_REGISTRIES": ",".join(plain)},
        },
        "migrate": {"resources": {"requests": {"cpu": "20m"}}},
        "networkPolicy": {"operatorExtraEgress": [{"to": [{"ipBlock": {"cidr": addresses.outside}}]}]},
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings are merged, all else is replaced."""
    both = dict(base)
    for key, value in over.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return both
