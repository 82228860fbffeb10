"""What the steps of one reconcile share: the Addon, the ports, and what earlier steps found."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from metacore.bundle.read import Bundle
from metacore.bundle.signature import Signature, TrustedKeys, Verified
from metacore.installer.execute import InstallReport
from metacore.installer.lifecycle import StoredSecret
from metacore.installer.plan import Plan
from metacore.installer.steps import Rehearsal
from metacore.manifest.model import Capability
from metacore_operator.conditions import Observed
from metacore_operator.resources.addon import Addon
from metacore_operator.sources.shelf import Shelf
from metacore_operator.sources.source import Fetched, Sources
from metacore_operator.steps.demands import Demands
from metacore_operator.steps.organizations import Chosen
from metacore_operator.steps.rehearsals import Rehearsals
from metacore_operator.steps.sightings import Sightings
from metacore_operator.steps.state import InstalledAddon, State


class Installer(Protocol):
    """What the steps use of `metacore.installer`."""

    async def plan(
        self, bundle: Bundle, organizations: Sequence[uuid.UUID], *, allow_downgrade: bool = False
    ) -> Plan: ...

    async def rehearse(
        self, bundle: Bundle, organizations: Sequence[uuid.UUID], plan: Plan | None = None
    ) -> Rehearsal: ...

    async def install(
        self,
        content: bytes,
        signature: Signature | None,
        *,
        trusted: TrustedKeys,
        organizations: Sequence[uuid.UUID],
        owner_uid: str = "",
        mode: str = "inherit",
        grants: Sequence[Capability] | None = None,
        settings: Mapping[str, Any] | None = None,
        source: str = "bundle",
        progress: Callable[[str], None] = ...,
        allow_downgrade: bool = False,
        force: bool = False,
        secrets: Mapping[uuid.UUID, bytes] | None = None,
    ) -> InstallReport: ...

    async def stored_secrets(self, key: str) -> Mapping[uuid.UUID, StoredSecret]: ...

    async def rotate_secret(self, key: str, organization: uuid.UUID, secret: bytes | None = None) -> str: ...

    async def enable(self, key: str, organization: uuid.UUID) -> int: ...

    async def disable(self, key: str, organization: uuid.UUID) -> int: ...

    async def uninstall(self, key: str, organization: uuid.UUID, *, drop: bool) -> int: ...

    async def remove(self, key: str, *, drop: bool, owner_uid: str = "") -> int: ...

    async def fence(self, key: str, reason: str) -> int: ...


class References(Protocol):
    """What an Addon may refer to in its namespace. Both raise Unavailable for what is not there and Refused."""

    async def config_map(self, addon: Addon, name: str) -> Mapping[str, bytes]: ...

    async def secret(self, addon: Addon, name: str) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class KeptSecrets:
    """The secrets of an Addon's installations by organization; `rotation` is the request that made them, if one did."""

    values: Mapping[uuid.UUID, bytes] = field(default_factory=dict, repr=False)
    rotation: str = ""


class SecretStore(Protocol):
    """Where people find the secrets of installations. Both raise Unavailable, and Refused for what is another's."""

    async def read(self, addon: Addon) -> KeptSecrets:
        """What is kept.

        Raises:
            PermissionDenied: the operator has no right to a place for them beside this Addon.
        """
        ...

    async def write(self, addon: Addon, kept: KeptSecrets) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside that a reconcile touches. `trusted` gives the keys that count now.

    `references` and `secrets` are None where there is nothing of that kind.
    """

    sources: Sources
    trusted: Callable[[], TrustedKeys]
    installer: Installer
    state: State
    references: References | None = None
    secrets: SecretStore | None = None
    demands: Demands = field(default_factory=Demands)
    rehearsals: Rehearsals = field(default_factory=Rehearsals)
    sightings: Sightings = field(default_factory=Sightings)
    shelf: Shelf = field(default_factory=Shelf)
    progress: Callable[[str], None] = lambda _text: None


@dataclass(slots=True)
class Context:
    """`chosen`, `installed` and `visible`, the organizations that the Addon may target, are known before the first
    step; the steps fill in the rest in their order.

    `grants` stays None until the capabilities step decided. `mended` is what the installation had to put back though
    nothing new was asked for, `installed_now` whether it ran to its end, `observed` stays None until it was looked,
    and `disabled_by_spec` until the installation was switched on or off. `unkept` says why people do not find the
    secrets of installations beside the Addon, '' when they do. `without_source` tells that `fetched` is what is
    installed, because the source gives nothing now.
    """

    addon: Addon
    ports: Ports
    chosen: Chosen
    installed: InstalledAddon | None
    visible: frozenset[uuid.UUID]
    fetched: Fetched | None = None
    without_source: bool = False
    signature: Signature | None = None
    verified: Verified | None = None
    bundle: Bundle | None = None
    allow_downgrade: bool = False
    grants: tuple[Capability, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    mended: tuple[str, ...] = ()
    rotated: bool = False
    unkept: str = ""
    installed_now: bool = False
    disabled_by_spec: bool | None = None
    observed: Observed | None = None
