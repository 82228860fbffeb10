"""The files that the node's daemons read. Every value that is not obvious was found by trying; the comment says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.network import Addresses

SANDBOX_IMAGE = "metacore.local/pause:1"


def kubeconfig(server: str, authority: Path, token: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "metacore", "cluster": {"server": server, "certificate-authority": str(authority)}},
            ],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "metacore", "context": {"cluster": "metacore", "user": "admin"}}],
            "current-context": "metacore",
        }
    )


def containerd(state: Path, binaries: Path, registry: str) -> str:
    hosts = state / "registry-hosts" / registry
    hosts.mkdir(parents=True, exist_ok=True)
    (hosts / "hosts.toml").write_text(
        f'server = "http://{registry}"\n[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    return f"""\
version = 3
root = "{state}/containerd"
state = "{state}/run/containerd"
[grpc]
  address = "{state}/run/containerd.sock"
[ttrpc]
  address = "{state}/run/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{SANDBOX_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{state}/registry-hosts"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE a container's score cannot be lowered, and runc dies trying.
  restrict_oom_score_adj = true
  # Where the pods' network namespaces of this node, and of no other, are found again.
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{binaries}/cni"]
  conf_dir = "{state}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = "{state}/run/runc"
"""


def cni(addresses: Addresses, state: Path) -> str:
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": f"{state}/ipam",
                        "ranges": [[{"subnet": addresses.pods, "gateway": addresses.bridge}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
            ],
        }
    )


def kubelet(addresses: Addresses, state: Path) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": addresses.node,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{state}/certificates/kubelet-client.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            # One of its own: a kubelet ends what it does not know below its root, such as another node's pods.
            "cgroupRoot": f"/{addresses.name}",
            "clusterDNS": [addresses.bridge],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{state}/run/containerd.sock",
            # Machines of today's CI still have the first cgroup hierarchy.
            "failCgroupV1": False,
            "failSwapOn": False,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 99,
            "imageGCLowThresholdPercent": 98,
            "imageMinimumGCAge": "24h",
            "podLogsDir": f"{state}/pod-logs",
            "resolvConf": f"{state}/resolv.conf",
            # Mounted ConfigMaps follow within seconds instead of a minute.
            "syncFrequency": "5s",
            "volumePluginDir": f"{state}/volume-plugins",
            "staticPodPath": "",
        }
    )


def corefile(addresses: Addresses, kubeconfig_path: Path) -> str:
    return f"""\
cluster.local:53 {{
    bind {addresses.bridge}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig_path}
        pods insecure
        ttl 5
    }}
    cache 5
}}
.:53 {{
    bind {addresses.bridge}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def registry(state: Path, address: str) -> str:
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": f"{state}/registry"}, "delete": {"enabled": True}},
        "http": {"addr": address},
    }
    return yaml.safe_dump(settings)
