"""The smallest change of a manifest after which an addon would be clean. Pure: what was recorded goes in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from metacore.capabilities.access import CapabilityKind
from metacore.capabilities.grants import Grants
from metacore.capabilities.tally import OTHERS
from metacore.capabilities.targets import DATABASE_KINDS
from metacore.capabilities.violations import ViolationSum
from metacore.db.grants import GUEST_COLUMNS, KERNEL_GRANTS
from metacore.manifest.capabilities import target_problem
from metacore.manifest.model import Capability
from metacore.manifest.names import TENANT_SUFFIX

REASON = "Seen in use; say here why it is needed."
"""Stands in a suggested capability until its author knows better."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that no manifest can ask for, and why."""

    kind: str
    target: str
    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`add` is missing in the manifest. `accept` is in the manifest, but was not accepted at the installation.
    `left_out` will stay a violation whatever is granted."""

    add: tuple[Capability, ...]
    accept: tuple[Capability, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def clean(self) -> bool:
        return not (self.add or self.accept or self.left_out)


def suggest(
    addon_key: str, recorded: Iterable[ViolationSum], granted: Sequence[Capability], declared: Sequence[Capability]
) -> Suggestion:
    """What `addon_key` would need for `recorded`, beyond what it was `granted` and what its manifest has `declared`.

    Each target is as specific as it was used: a host with its port, one table, one event. A pattern that the addon
    subscribed to stands for the events that came through it.
    """
    held, asked = Grants(addon_key, granted), Grants(addon_key, declared)
    missing: dict[tuple[str, str], None] = {}
    left_out: dict[tuple[str, str], LeftOut] = {}
    mine = [item for item in recorded if item.addon_key == addon_key]
    refused_always = {(item.kind, item.target) for item in mine if item.forbidden and not refused_until_granted(item)}
    for item in mine:
        what = (item.kind, item.target)
        if held.cover(item.kind, item.target, None) and not item.forbidden:
            continue
        why = _why_not(item, forbidden=what in refused_always)
        if why:
            before = left_out[what].count if what in left_out else 0
            left_out[what] = LeftOut(item.kind, item.target, before + item.count, why)
        elif not held.cover(item.kind, item.target, None):
            missing[what] = None
    accept = [what for what in missing if asked.cover(*what, None)]
    add = _smallest(addon_key, [what for what in missing if what not in accept])
    return Suggestion(
        tuple(Capability(kind=kind, target=target, reason=REASON) for kind, target in add),
        tuple(_declaring(addon_key, declared, accept)),
        tuple(left_out.values()),
    )


def _why_not(item: ViolationSum, *, forbidden: bool) -> str:
    """Why no grant would help; '' when one would."""
    if item.target == OTHERS:
        return "too many different targets to keep; look at the log"
    problem = target_problem(item.kind, item.target)
    if problem:
        return problem
    if item.kind in DATABASE_KINDS:
        schema, dot, _ = item.target.partition(".")
        if dot and schema.startswith("addon_") and TENANT_SUFFIX.fullmatch(schema):
            return "another organization's schema"
        if schema.startswith("pg_") or schema == "information_schema":
            return "PostgreSQL's own"
        if not dot and schema in KERNEL_GRANTS and not refused_until_granted(item):
            return "the kernel's own table"
    return "refused in both modes, no grant allows it" if forbidden else ""


def refused_until_granted(item: ViolationSum) -> bool:
    """Tables of the kernel that an addon may read a part of, when it was granted that: even shadow refuses it else."""
    return item.kind == CapabilityKind.DB_READ and item.target in GUEST_COLUMNS


def _smallest(addon_key: str, missing: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """`missing` without what another one of it covers."""
    kept = []
    for kind, target in sorted(missing):
        others = (Capability(kind=kind, target=other) for one, other in missing if one == kind and other != target)
        if not Grants(addon_key, others).cover(kind, target, None):
            kept.append((kind, target))
    return kept


def _declaring(
    addon_key: str, declared: Iterable[Capability], missing: Sequence[tuple[str, str]]
) -> Iterator[Capability]:
    """Those of `declared` that would cover something that is missing."""
    for capability in declared:
        grants = Grants(addon_key, [capability])
        if any(grants.cover(kind, target, None) for kind, target in missing):
            yield capability
