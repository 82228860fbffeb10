"""What the bundles that were looked at require of other addons. Only remembered: each reconcile tells it anew.

Two addons that wait for each other are both not installed, so the database knows neither's requirements.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from metacore.manifest.model import Requirement


class Demands:
    def __init__(self) -> None:
        self._by_key: dict[str, tuple[Requirement, ...]] = {}

    def note(self, key: str, requirements: Sequence[Requirement]) -> None:
        """From now on `key` requires exactly these."""
        self._by_key[key] = tuple(requirements)

    def forget(self, key: str) -> None:
        self._by_key.pop(key, None)

    def dependents(self, keys: Collection[str]) -> frozenset[str]:
        """The addons that require one of `keys`."""
        return frozenset(
            key
            for key, requirements in self._by_key.items()
            if any(requirement.key in keys for requirement in requirements)
        )

    def circle(self, key: str, unmet: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """A way from `key` back to itself over `unmet` requirements, both ends included; empty when there is none."""
        paths: list[tuple[str, ...]] = [(key,)]
        seen: set[str] = set()
        while paths:
            path = paths.pop()
            for other in sorted(unmet.get(path[-1], ())):
                if other == key:
                    return (*path, key)
                if other not in seen:
                    seen.add(other)
                    paths.append((*path, other))
        return ()

    @property
    def all(self) -> Mapping[str, Sequence[Requirement]]:
        return self._by_key
