"""The network of a node: a namespace of its own, joined to the host by one pair of interfaces.

Everything that a node brings along (bridge, Service rules, the ports of its daemons) stays in that namespace, so two
clusters never meet and nothing is left behind when it is deleted.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = Path("/run/netns")
MOST_NODES = 32


@dataclass(frozen=True)
class Addresses:
    """The addresses of node number `index` (0 to 31) on this machine."""

    index: int

    @property
    def name(self) -> str:
        """What the network namespace and the control groups of the node are called."""
        return f"metacore-{self.index}"

    @property
    def namespace(self) -> str:
        return self.name

    @property
    def host_interface(self) -> str:
        return f"mcore{self.index}h"

    @property
    def node_interface(self) -> str:
        return f"mcore{self.index}n"

    @property
    def host(self) -> str:
        """The host as the node sees it."""
        return f"10.243.{self.index}.1"

    @property
    def node(self) -> str:
        """The node as the host sees it."""
        return f"10.243.{self.index}.2"

    @property
    def outside(self) -> str:
        """The network of host and node."""
        return f"10.243.{self.index}.0/30"

    @property
    def pods(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def bridge(self) -> str:
        """The node's end of the pods' bridge: their gateway and their DNS server."""
        return f"10.244.{self.index}.1"

    @property
    def services(self) -> str:
        return f"10.96.{self.index}.0/24"

    @property
    def api_service(self) -> str:
        return f"10.96.{self.index}.1"

    @property
    def dns_service(self) -> str:
        return f"10.96.{self.index}.10"

    @property
    def enter(self) -> list[str]:
        """What to put before a command so that it runs in the node's network (and nowhere else of its own)."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}"]


def free_index() -> int:
    """The first number that no namespace on this machine has.

    Raises:
        RuntimeError: all are taken.
    """
    for index in range(MOST_NODES):
        if not (NAMESPACES / Addresses(index).namespace).exists():
            return index
    raise RuntimeError(f"{MOST_NODES} clusters run on this machine already: stop one with make cluster-down")


def up(addresses: Addresses) -> None:
    """Make the namespace, the pair and the bridge, and route the pods' and Services' addresses from the host."""
    _ip("netns", "add", addresses.namespace)
    _ip("link", "add", addresses.host_interface, "type", "veth", "peer", "name", addresses.node_interface)
    _ip("link", "set", addresses.node_interface, "netns", addresses.namespace)
    _ip("address", "add", f"{addresses.host}/30", "dev", addresses.host_interface)
    _ip("link", "set", addresses.host_interface, "up")
    inside = ("-n", addresses.namespace)
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "address", "add", f"{addresses.node}/30", "dev", addresses.node_interface)
    _ip(*inside, "link", "set", addresses.node_interface, "up")
    _ip(*inside, "route", "add", "default", "via", addresses.host)
    _ip(*inside, "link", "add", "cni0", "type", "bridge")
    _ip(*inside, "address", "add", f"{addresses.bridge}/24", "dev", "cni0")
    _ip(*inside, "link", "set", "cni0", "up")
    for name in ("net.ipv4.ip_forward", "net.ipv4.conf.all.route_localnet"):
        _run([*addresses.enter, "sysctl", "-q", "-w", f"{name}=1"])
    for network in (addresses.pods, addresses.services):
        _ip("route", "replace", network, "via", addresses.node)


def down(addresses: Addresses) -> None:
    """Delete the namespace with everything in it. Doing it again does nothing."""
    if (NAMESPACES / addresses.namespace).exists():
        _ip("netns", "delete", addresses.namespace)
    subprocess.run(["ip", "link", "delete", addresses.host_interface], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
