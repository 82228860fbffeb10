"""One Kubernetes node: its daemons in order, up and down.

`Node.up` ends when the node is Ready; `Node.down` leaves nothing behind. Everything lives in one state folder, so a run
that finds the remains of another can clean them by the same means.
"""

from __future__ import annotations

import json
import secrets
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import configuration, network, remains
from tests.cluster.network import NAMESPACES, Addresses
from tests.cluster.processes import Processes, StartFailed

API_PORT = 6443
ETCD_PORT = 2379
REGISTRY_PORT = 5000
START_SECONDS = 120
NODE_NAME = "metacore-node"
DAEMONS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
    "registry",
    "coredns",
)


class Node:
    """A node whose state is in `state` and whose programs are in `binaries` (see `tests.cluster.build`)."""

    def __init__(self, state: Path, binaries: Path, *, say: Callable[[str], None] | None = None) -> None:
        self.state = state
        self.binaries = binaries
        self.processes = Processes(state)
        self.say = say or (lambda line: print(f"cluster: {line}", file=sys.stderr, flush=True))

    @property
    def addresses(self) -> Addresses:
        """The node's addresses; only known once `up` began."""
        return Addresses(int((self.state / "index").read_text()))

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def registry(self) -> str:
        """`host:port` of the registry, the same from the host, the node and the pods."""
        return f"{self.addresses.node}:{REGISTRY_PORT}"

    @property
    def exists(self) -> bool:
        return (self.state / "index").exists()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return what it printed.

        Raises:
            subprocess.CalledProcessError: it failed; `stderr` says why.
        """
        command = [str(self.binaries / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def up(self) -> None:
        """Start the node, or do nothing when it runs already. Remains of a broken one are cleaned first."""
        if self.exists:
            if all(self.processes.alive(name) for name in DAEMONS):
                return
            self.say("cleaning up after a node that did not end well")
            self.down()
        started = time.monotonic()
        self.state.mkdir(parents=True, exist_ok=True)
        index = network.free_index()
        (self.state / "binaries").write_text(str(self.binaries))
        (self.state / "index").write_text(str(index))
        network.up(self.addresses)
        remains.make_control_groups(self.addresses.name)
        self._write_configuration()
        for step in (
            self._etcd,
            self._api_server,
            self._control_plane,
            self._containerd,
            self._kubelet,
            self._services,
        ):
            step()
        self.wait_for("the node to be Ready", self._node_ready)
        self.say(f"Kubernetes {self._version()} is ready after {time.monotonic() - started:.0f} s")

    def down(self) -> None:
        """Stop everything in the order that leaves nothing: workloads, agents, runtime, control plane, network."""
        if not self.exists:
            return
        self._delete_workloads()
        for name in ("kubelet", "kube-proxy"):
            self.processes.stop(name)
        self._kill_tasks()
        for name in ("containerd", "coredns", "registry", "kube-scheduler", "kube-controller-manager"):
            self.processes.stop(name)
        self.processes.stop("kube-apiserver", seconds=60)
        self.processes.stop("etcd")
        for name in self.processes.names():
            self.processes.stop(name, kill=True)
        remains.end_processes(self.addresses.name, NAMESPACES / self.addresses.namespace)
        remains.remove_sockets(self.state)
        remains.unmount_below(self.state)
        network.down(self.addresses)
        remains.remove_control_groups(self.addresses.name)
        shutil.rmtree(self.state)

    def restart_api_server(self) -> None:
        """Kill the API server, as a crash would, and start it again."""
        self.processes.stop("kube-apiserver", kill=True)
        self._api_server()

    def _write_configuration(self) -> None:
        state, addresses = self.state, self.addresses
        for folder in ("run", "cni", "certificates", "volume-plugins", "pod-logs", "manifests"):
            (state / folder).mkdir(exist_ok=True)
        token = secrets.token_urlsafe(32)
        tokens = state / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{token},admin,admin,"system:masters"\n')
        key = state / "certificates" / "service-account.key"
        _run(["openssl", "genrsa", "-out", str(key), "2048"])
        key.chmod(0o600)
        # How the API server proves itself to the kubelet, for logs and exec. A certificate that is its own authority.
        client = state / "certificates" / "kubelet-client"
        subject = "/O=system:masters/CN=kube-apiserver-kubelet-client"
        _run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "3650",
                "-subj",
                subject,
                "-keyout",
                f"{client}.key",
                "-out",
                f"{client}.crt",
            ]
        )
        self.kubeconfig.touch(mode=0o600)
        authority = state / "certificates" / "apiserver.crt"
        self.kubeconfig.write_text(configuration.kubeconfig(f"https://{addresses.node}:{API_PORT}", authority, token))
        (state / "containerd.toml").write_text(configuration.containerd(state, self.binaries, self.registry))
        (state / "cni" / "10-pods.conflist").write_text(configuration.cni(addresses, state))
        (state / "kubelet.yaml").write_text(configuration.kubelet(addresses, state))
        (state / "Corefile").write_text(configuration.corefile(addresses, self.kubeconfig))
        (state / "registry.yaml").write_text(configuration.registry(state, f"0.0.0.0:{REGISTRY_PORT}"))
        (state / "resolv.conf").write_text(f"nameserver {addresses.bridge}\n")

    def start(self, name: str, program: str, *arguments: str, **environment: str) -> None:
        """Start one of the node's programs in its network, as the process `name`."""
        binaries = f"{self.binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = [*self.addresses.enter, str(self.binaries / program), *arguments]
        self.processes.start(name, command, {"PATH": binaries, **environment})

    def _etcd(self) -> None:
        self.start(
            "etcd",
            "etcd",
            f"--data-dir={self.state}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{ETCD_PORT}",
            f"--advertise-client-urls=http://127.0.0.1:{ETCD_PORT}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            "--unsafe-no-fsync",
        )

    def _api_server(self) -> None:
        state, addresses = self.state, self.addresses
        key = f"{state}/certificates/service-account.key"
        self.start(
            "kube-apiserver",
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
            f"--token-auth-file={state}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            f"--cert-dir={state}/certificates",
            f"--bind-address={addresses.node}",
            f"--secure-port={API_PORT}",
            f"--advertise-address={addresses.node}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={state}/certificates/kubelet-client.crt",
            f"--kubelet-client-key={state}/certificates/kubelet-client.key",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={addresses.services}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--profiling=false",
        )
        self.wait_for("the API server", self._api_ready)

    def _control_plane(self) -> None:
        state = self.state
        self.start(
            "kube-controller-manager",
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={state}/certificates/apiserver.crt",
            f"--service-account-private-key-file={state}/certificates/service-account.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        )
        self.start(
            "kube-scheduler",
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        )

    def _containerd(self) -> None:
        self.start("containerd", "containerd", "--config", f"{self.state}/containerd.toml")
        self.wait_for("containerd", lambda: (self.state / "run" / "containerd.sock").exists())

    def _kubelet(self) -> None:
        self.start(
            "kubelet",
            "kubelet",
            f"--config={self.state}/kubelet.yaml",
            f"--kubeconfig={self.kubeconfig}",
            f"--node-ip={self.addresses.node}",
            f"--hostname-override={NODE_NAME}",
            f"--root-dir={self.state}/kubelet",
            f"--cert-dir={self.state}/kubelet-certificates",
        )
        self.start(
            "kube-proxy",
            "kube-proxy",
            f"--kubeconfig={self.kubeconfig}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=nftables",
            "--conntrack-max-per-core=0",
            f"--cluster-cidr={self.addresses.pods}",
            "--healthz-bind-address=127.0.0.1:10256",
        )

    def _services(self) -> None:
        self.start("registry", "registry", "serve", f"{self.state}/registry.yaml", OTEL_TRACES_EXPORTER="none")
        self.start("coredns", "coredns", "-conf", f"{self.state}/Corefile")

    def _api_ready(self) -> bool:
        self.processes.pid("kube-apiserver")
        self.processes.pid("etcd")
        certificate = self.state / "certificates" / "apiserver.crt"
        if not certificate.exists():
            return False
        context = ssl.create_default_context(cafile=str(certificate))
        try:
            url = f"https://{self.addresses.node}:{API_PORT}/readyz"
            with urllib.request.urlopen(url, timeout=5, context=context) as reply:
                return int(reply.status) == 200
        except OSError:
            return False

    def _node_ready(self) -> bool:
        for name in self.processes.names():
            self.processes.pid(name)
        nodes = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        conditions = [item for node in nodes for item in node["status"].get("conditions", [])]
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def _version(self) -> str:
        return str(json.loads(self.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"])

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        """Return once `ready`; StartFailed with the ends of all logs when it takes longer than START_SECONDS."""
        self.say(f"waiting for {what} …")
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.processes.last_lines(name, 8)}" for name in self.processes.names())
                raise StartFailed(f"{what} did not come up within {START_SECONDS} s:\n{logs}")
            time.sleep(0.2)

    def _delete_workloads(self) -> None:
        """Pods that are only killed leave their network namespaces and mounts behind."""
        if not (self.processes.alive("kube-apiserver") and self.processes.alive("kubelet")):
            return
        for kind in ("deployments,statefulsets,daemonsets,jobs,cronjobs", "pods"):
            arguments = ["delete", kind, "--all", "--all-namespaces", "--grace-period=1", "--timeout=60s"]
            try:
                self.kubectl(*arguments)
            except subprocess.CalledProcessError as error:
                self.say(f"deleting {kind}: {error.stderr.strip()}")

    def _kill_tasks(self) -> None:
        if not self.processes.alive("containerd"):
            return
        ctr = [str(self.binaries / "ctr"), "--address", f"{self.state}/run/containerd.sock", "-n", "k8s.io"]
        tasks = subprocess.run(
            [*ctr, "tasks", "list", "-q"], capture_output=True, text=True, check=False
        ).stdout.split()
        for task in tasks:
            subprocess.run([*ctr, "tasks", "delete", "--force", task], capture_output=True, check=False)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StartFailed(f"{command[0]} failed: {done.stderr.strip()}")
