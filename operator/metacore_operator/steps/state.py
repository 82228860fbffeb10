"""What the database says about tenants, kernels and installed addons. Reading only."""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from metacore.bundle.signature import Signature
from metacore.db.database import Database
from metacore.manifest.model import Capability

LIVE_SECONDS = 10
"""A kernel is alive when it wrote a heartbeat within so many seconds of database time (architecture, decision 5)."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization. `labels` hold at least `id` and `name`; selectors look at them."""

    id: uuid.UUID
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a kernel made of one addon: the digest it serves, or why it does not."""

    digest: str
    error: str


@dataclass(frozen=True, slots=True)
class Kernel:
    pod: str
    mode: str
    build: str
    revision: int
    addons: Mapping[str, Loaded]


@dataclass(frozen=True, slots=True)
class InstalledAddon:
    """`organizations` maps those that have it to whether it is enabled there, `grants` are the accepted capabilities.
    `digest` is '' before an installation."""

    key: str
    owner_uid: str
    digest: str
    version: str
    signer: str
    source: str
    fenced_reason: str
    schema_revision: int
    organizations: Mapping[uuid.UUID, bool]
    mode: str = "inherit"
    grants: Sequence[Capability] = ()


@dataclass(frozen=True, slots=True)
class StoredBundle:
    addon_key: str
    content: bytes
    signature: Signature | None


@dataclass(frozen=True, slots=True)
class Violations:
    """Capability violations of one addon, in all organizations: of the last 24 hours, and all that are kept."""

    day: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class OpenHandler:
    """A handler of an addon's life that has not come through in one organization. `error` is '' before its first try
    ended; `given_up` tells that it is not tried again by itself."""

    event: str
    organization: uuid.UUID
    attempts: int
    error: str
    given_up: bool


@dataclass(frozen=True, slots=True)
class Pulse:
    """Values that change when tenants, live kernels, or what is there of one addon do."""

    everybody: Hashable
    addons: Mapping[str, Hashable]

    def changed_since(self, before: Pulse) -> frozenset[str] | None:
        """The keys of the addons that changed; None when all may have."""
        if self.everybody != before.everybody:
            return None
        keys = self.addons.keys() | before.addons.keys()
        return frozenset(key for key in keys if self.addons.get(key) != before.addons.get(key))


class State(Protocol):
    async def tenants(self) -> Sequence[Tenant]: ...

    async def kernels(self) -> Sequence[Kernel]:
        """Those that are alive."""
        ...

    async def installed(self, key: str) -> InstalledAddon | None: ...

    async def installed_keys(self) -> Sequence[str]:
        """Keys of everything that came in a bundle."""
        ...

    async def bundle(self, digest: str) -> StoredBundle | None: ...

    async def violations(self, key: str) -> Violations: ...

    async def open_handlers(self, key: str) -> Sequence[OpenHandler]:
        """Those of installing, enabling and upgrading, where the addon is installed."""
        ...

    async def pulse(self) -> Pulse:
        """What is there now, cheaply."""
        ...


class DatabaseState:
    """`State` read as the owner role, which sees every tenant."""

    def __init__(self, owner: Database) -> None:
        self._owner = owner

    async def tenants(self) -> Sequence[Tenant]:
        rows = await self._owner.postgres.fetch("SELECT id, name FROM organizations ORDER BY created_at, id")
        return [Tenant(row["id"], row["name"], {"id": str(row["id"]), "name": row["name"]}) for row in rows]

    async def kernels(self) -> Sequence[Kernel]:
        rows = await self._owner.postgres.fetch(
            "SELECT pod, mode, build, revision, addons FROM metacore_heartbeats"
            " WHERE seen_at > clock_timestamp() - make_interval(secs => $1) ORDER BY pod",
            LIVE_SECONDS,
        )
        return [
            Kernel(row["pod"], row["mode"], row["build"], row["revision"], _loaded(orjson.loads(row["addons"])))
            for row in rows
        ]

    async def installed(self, key: str) -> InstalledAddon | None:
        row = await self._owner.postgres.fetchrow(
            "SELECT key, owner_uid, digest, version, signer, source, fenced_reason, schema_revision, mode, grants"
            " FROM metacore_addons WHERE key = $1",
            key,
        )
        if row is None:
            return None
        installations = await self._owner.postgres.fetch(
            "SELECT organization_id, status FROM metacore_installations WHERE addon_key = $1", key
        )
        return InstalledAddon(
            key=row["key"],
            owner_uid=row["owner_uid"],
            digest=row["digest"] or "",
            version=row["version"],
            signer=row["signer"],
            source=row["source"],
            fenced_reason=row["fenced_reason"],
            schema_revision=row["schema_revision"],
            organizations={item["organization_id"]: item["status"] == "enabled" for item in installations},
            mode=row["mode"],
            grants=tuple(Capability.model_validate(item) for item in orjson.loads(row["grants"] or "[]")),
        )

    async def installed_keys(self) -> Sequence[str]:
        rows = await self._owner.postgres.fetch("SELECT key FROM metacore_addons WHERE digest IS NOT NULL ORDER BY key")
        return [row["key"] for row in rows]

    async def bundle(self, digest: str) -> StoredBundle | None:
        row = await self._owner.postgres.fetchrow(
            "SELECT addon_key, content, signature FROM metacore_bundles WHERE digest = $1", digest
        )
        if row is None:
            return None
        signature = row["signature"]
        # The JSON null of a bundle that was allowed without a signature is not SQL's.
        known = signature is not None and signature != b"null"
        return StoredBundle(
            row["addon_key"], row["content"], Signature.model_validate_json(signature) if known else None
        )

    async def violations(self, key: str) -> Violations:
        row = await self._owner.postgres.fetchrow(
            "SELECT coalesce(sum(count) FILTER (WHERE hour > now() - interval '24 hours'), 0)::bigint AS day,"
            " coalesce(sum(count), 0)::bigint AS total FROM metacore_violations WHERE addon_key = $1",
            key,
        )
        return Violations(row["day"], row["total"]) if row is not None else Violations()

    async def open_handlers(self, key: str) -> Sequence[OpenHandler]:
        rows = await self._owner.postgres.fetch(OPEN_HANDLERS, key)
        return [
            OpenHandler(row["name"], row["organization_id"], row["attempts"], row["last_error"], row["given_up"])
            for row in rows
        ]

    async def pulse(self) -> Pulse:
        tenants = await self._owner.postgres.fetchrow("SELECT count(*), max(updated_at) FROM organizations")
        kernels = await self.kernels()
        rows = await self._owner.postgres.fetch(ADDON_PULSE)
        found: dict[str, list[Hashable]] = {row["key"]: [row["pulse"]] for row in rows}
        for kernel in kernels:
            for key, loaded in kernel.addons.items():
                found.setdefault(key, []).append((kernel.pod, loaded.digest, loaded.error))
        everybody = (tuple(tenants or ()), tuple((kernel.pod, kernel.mode) for kernel in kernels))
        return Pulse(everybody, {key: tuple(values) for key, values in found.items()})


OPEN_HANDLERS = """
SELECT j.name, j.organization_id, j.attempts, j.last_error, j.status = 'failed' AS given_up FROM metacore_jobs j
WHERE j.addon_key = $1 AND j.kind = 'lifecycle' AND j.status <> 'done' AND j.name IN ('install', 'enable', 'upgrade')
  AND EXISTS (
    SELECT FROM metacore_installations i WHERE i.addon_key = j.addon_key AND i.organization_id = j.organization_id)
ORDER BY j.seq
"""

ADDON_PULSE = """
SELECT a.key, concat_ws('|', a.revision, a.digest, a.owner_uid, a.fenced_reason, a.mode,
    (SELECT md5(string_agg(concat_ws(':', j.id, j.status, j.attempts), ',' ORDER BY j.seq)) FROM metacore_jobs j
      WHERE j.addon_key = a.key AND j.kind = 'lifecycle' AND j.status <> 'done'),
    md5(string_agg(concat_ws(':', i.organization_id, i.status, i.version), ',' ORDER BY i.organization_id))) AS pulse
FROM metacore_addons a LEFT JOIN metacore_installations i ON i.addon_key = a.key GROUP BY a.key
"""


def _loaded(addons: Mapping[str, Any]) -> dict[str, Loaded]:
    return {
        key: Loaded(str(item.get("digest") or ""), str(item.get("error") or ""))
        for key, item in addons.items()
        if isinstance(item, Mapping)
    }
