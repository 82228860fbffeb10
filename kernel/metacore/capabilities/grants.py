"""What one addon was granted, compiled once, so that asking costs about a microsecond. Pure: no clock, no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.targets import DATABASE_KINDS, DEFAULT_PORTS, canonical, own_schema, split_host
from metacore.manifest.capabilities import target_problem
from metacore.manifest.model import Capability

_Ports = frozenset[int | None]
_ANY_DEFAULT: _Ports = frozenset({None, *DEFAULT_PORTS})


class Grants:
    """The capabilities of the addon `addon_key`. What a manifest could not have asked for grants nothing, wherever it
    came from: a bare `*` over tables, `*.com`, an address."""

    __slots__ = ("_all", "_exact", "_hosts", "_prefixes", "_subdomains", "addon_key", "own_prefix")

    def __init__(self, addon_key: str, capabilities: Iterable[Capability] = ()) -> None:
        self.addon_key = addon_key
        self.own_prefix = f"{own_schema(addon_key)}."
        self._all: set[str] = set()
        self._exact: dict[str, set[str]] = {}
        self._prefixes: dict[str, set[str]] = {}
        self._hosts: dict[str, _Ports] = {}
        self._subdomains: dict[str, _Ports] = {}
        for capability in capabilities:
            if not target_problem(capability.kind, capability.target):
                self._add(capability.kind, capability.target)

    def cover(self, kind: str, target: str, organization_id: uuid.UUID | None) -> bool:
        """Whether an operation of `kind` on `target` was granted, or needs no grant.

        `target` may be what an event is subscribed by: `prefix.*` is covered by itself and by wider ones only.
        """
        if not target:
            return False
        if kind == CapabilityKind.HTTP_FETCH:
            return self._covers_host(target)
        if kind in DATABASE_KINDS:
            target = canonical(kind, target, organization_id)
            if target.startswith(self.own_prefix):
                return True
        elif kind in self._all:
            return True
        if target in self._exact.get(kind, ()):
            return True
        prefixes = self._prefixes.get(kind)
        if prefixes:
            at = target.find(".")
            while at != -1:
                if target[:at] in prefixes:
                    return True
                at = target.find(".", at + 1)
        return False

    def include(self, capability: Capability) -> bool:
        """Whether whatever `capability` would grant is granted: a pattern only by itself or a wider one, and a host
        that names no port only where every default one is."""
        kind, target = capability.kind, capability.target
        if kind != CapabilityKind.HTTP_FETCH:
            return self.cover(kind, target, None)
        host, port = split_host(target)
        return all(self._covers_host(f"{host}:{each}") for each in (DEFAULT_PORTS if port is None else (port,)))

    def _add(self, kind: str, target: str) -> None:
        if kind == CapabilityKind.HTTP_FETCH:
            self._add_host(target)
        elif target == "*":
            self._all.add(kind)
        elif target.endswith(".*"):
            # `public.*` would be every table of the host, the kernel's own among them; each has to be named.
            if kind not in DATABASE_KINDS or target != "public.*":
                self._prefixes.setdefault(kind, set()).add(target[:-2])
        else:
            name = target.removeprefix("public.") if kind in DATABASE_KINDS else target
            self._exact.setdefault(kind, set()).add(name)

    def _add_host(self, target: str) -> None:
        host, port = split_host(target)
        # Who asks without a port means the default one of its scheme.
        ports: _Ports = _ANY_DEFAULT if port is None else frozenset({port, None} if port in DEFAULT_PORTS else {port})
        known = self._subdomains if host.startswith("*.") else self._hosts
        name = host.removeprefix("*.")
        known[name] = known.get(name, frozenset()) | ports

    def _covers_host(self, target: str) -> bool:
        host, port = split_host(target)
        if port in self._hosts.get(host, ()):
            return True
        if self._subdomains:
            name = host
            while name:
                if port in self._subdomains.get(name, ()):
                    return True
                name = name.partition(".")[2]
        return False


def missing(key: str, asked: Sequence[Capability], held: Sequence[Capability]) -> tuple[Capability, ...]:
    """What the addon `key` asks for beyond `held`, in which a prefix such as `orders.*` stands for everything below."""
    named, covered = {(item.kind, item.target) for item in held}, Grants(key, held)
    return tuple(item for item in asked if (item.kind, item.target) not in named and not covered.include(item))
