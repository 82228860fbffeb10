"""Rows that make an installation: holders of keys and models, bundles, installations, the registry's revision."""

from __future__ import annotations

import datetime
import hashlib
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, func, insert, null, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.bundle.read import Bundle
from metacore.bundle.signature import Signature
from metacore.db.channels import REGISTRY
from metacore.errors import ModelConflict
from metacore.ids import new_uuid
from metacore.installer import handlers, journal
from metacore.installer.state import State
from metacore.manifest.model import Capability
from metacore.orm.tables import Addon, AddonModel, Installation, Registry
from metacore.orm.tables import Bundle as BundleRow
from metacore.secrets import Sealer

KEPT_BUNDLES = 5
"""Former versions of an addon whose bytes stay, newest first, beside the one that is installed."""
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants installed, verified and read. `settings` are by key and go to every organization named;
    `fenced_reason` is '' unless a fence stays.

    `secrets` are those that new installations shall have, by organization; others get one that is made.
    """

    content: bytes
    bundle: Bundle
    signature: Signature | None
    signer: str
    owner_uid: str = ""
    mode: str = "inherit"
    source: str = "bundle"
    grants: tuple[Capability, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    fenced_reason: str = ""
    secrets: Mapping[uuid.UUID, bytes] = field(default_factory=dict)


async def claim(connection: AsyncConnection, wish: Wish) -> int:
    """Hold the key, the models and the bundle, and begin an attempt. Returns its number.

    Raises:
        ModelConflict: another addon claimed one of the models or tables just now.
    """
    manifest, digest = wish.bundle.manifest, wish.bundle.digest
    found = (await connection.execute(select(Addon.digest).where(Addon.key == manifest.key))).first()
    if found is None:
        row = {"key": manifest.key, "owner_uid": wish.owner_uid, "source": wish.source, "mode": wish.mode}
        await connection.execute(insert(Addon).values(**row))
    elif found.digest is None:
        await connection.execute(update(Addon).where(Addon.key == manifest.key).values(owner_uid=wish.owner_uid))
    signature = wish.signature.as_json() if wish.signature is not None else None
    stored = (await connection.execute(select(BundleRow.signature).where(BundleRow.digest == digest))).first()
    if stored is None:
        await connection.execute(
            insert(BundleRow).values(
                digest=digest,
                addon_key=manifest.key,
                version=manifest.version,
                content=wish.content,
                signature=signature if signature is not None else null(),
            )
        )
    elif signature is not None and stored.signature != signature:
        # The same bundle, signed again because its key is to be replaced: the old signature will not count for long.
        await connection.execute(update(BundleRow).where(BundleRow.digest == digest).values(signature=signature))
    attempt = await journal.next_attempt(connection, manifest.key)
    held = await connection.execute(select(AddonModel.model_key).where(AddonModel.addon_key == manifest.key))
    known = {row.model_key for row in held}
    rows = [
        {"model_key": model.key, "table_name": model.table, "addon_key": manifest.key}
        for model in manifest.models
        if model.key not in known
    ]
    if rows:
        await _claim_models(connection, rows, manifest.key)
    return attempt


async def _claim_models(connection: AsyncConnection, rows: list[dict[str, str]], key: str) -> None:
    """A table that moves from one model of the addon to another is given up first."""
    tables = [row["table_name"] for row in rows]
    await connection.execute(delete(AddonModel).where(AddonModel.addon_key == key, AddonModel.table_name.in_(tables)))
    try:
        await connection.execute(insert(AddonModel), rows)
    except IntegrityError as error:
        raise ModelConflict(f"a model or table of addon {key!r} was claimed by another addon just now") from error


async def register(
    connection: AsyncConnection,
    wish: Wish,
    *,
    joining: Sequence[uuid.UUID],
    settings: Mapping[uuid.UUID, Mapping[str, Any]],
    sealer: Sealer | None,
    reshaped: bool,
) -> tuple[int, dict[uuid.UUID, str]]:
    """Make the bundle what the addon is, in one transaction with the registry's revision.

    `joining` organizations get an installation with a secret, `settings` are stored as they are, by organization.
    `reshaped` tells that tables changed. Returns the revision and the new secrets in hex.
    """
    manifest = wish.bundle.manifest
    now = datetime.datetime.now(datetime.UTC)
    made: dict[uuid.UUID, str] = {}
    for organization in joining:
        secret = wish.secrets.get(organization) or secrets.token_bytes(SECRET_BYTES)
        made[organization] = secret.hex()
        await connection.execute(
            insert(Installation).values(
                id=new_uuid(),
                organization_id=organization,
                addon_key=manifest.key,
                version=manifest.version,
                source=wish.source,
                settings=dict(settings.get(organization, {})),
                enabled_at=now,
                **secret_columns(secret, sealer),
            )
        )
    mine = Installation.addon_key == manifest.key
    rows = await connection.execute(
        select(Installation.organization_id, Installation.version, Installation.status).where(mine)
    )
    before = {row.organization_id: (row.version, row.status) for row in rows if row.organization_id not in made}
    await connection.execute(
        update(Installation)
        .where(mine, (Installation.version != manifest.version) | (Installation.source != wish.source))
        .values(version=manifest.version, source=wish.source, updated_at=now)
    )
    for organization, values in settings.items():
        if organization not in made:
            await connection.execute(
                update(Installation)
                .where(mine, Installation.organization_id == organization)
                .values(settings=dict(values), updated_at=now)
            )
    await _settle_models(connection, wish)
    revision = await raise_registry(connection)
    await connection.execute(
        update(Addon)
        .where(Addon.key == manifest.key)
        .values(
            owner_uid=wish.owner_uid,
            digest=wish.bundle.digest,
            version=manifest.version,
            signer=wish.signer,
            source=wish.source,
            mode=wish.mode,
            grants=[grant.model_dump() for grant in wish.grants],
            fenced_reason=wish.fenced_reason,
            revision=revision,
            schema_revision=Addon.schema_revision + int(reshaped),
            updated_at=now,
        )
    )
    await _forget_bundles(connection, manifest.key, wish.bundle.digest)
    await handlers.installed(
        connection,
        manifest,
        wish.bundle.digest,
        source=wish.source,
        joining=joining,
        before=before,
        revision=revision,
    )
    return revision, made


def differs(wish: Wish, state: State) -> bool:
    """Whether the addon's own row would change although its tables do not."""
    addon = state.addon
    if addon is None:
        return True
    return (
        addon.mode != wish.mode
        or addon.source != wish.source
        or addon.signer != wish.signer
        or addon.owner_uid != wish.owner_uid
        or addon.grants != wish.grants
        or addon.fenced_reason != wish.fenced_reason
    )


async def raise_registry(connection: AsyncConnection) -> int:
    """Raise the registry's revision and, on PostgreSQL, tell every kernel when this transaction commits.

    The row stays locked until then, so revisions commit in their order: call it late.
    """
    raised = await connection.execute(
        update(Registry).where(Registry.id == 1).values(revision=Registry.revision + 1).returning(Registry.revision)
    )
    revision = int(raised.scalar_one())
    if connection.dialect.name == "postgresql":
        notify = text("SELECT pg_notify(:channel, :payload)")
        await connection.execute(notify, {"channel": REGISTRY, "payload": str(revision)})
    return revision


async def current_revision(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(Registry.revision).where(Registry.id == 1))).scalar_one())


def secret_columns(secret: bytes, sealer: Sealer | None) -> dict[str, str]:
    """What is stored of an installation's secret: its SHA-256, and with a master key the secret itself, sealed."""
    return {
        "secret_hash": f"sha256:{hashlib.sha256(secret).hexdigest()}",
        "secret_enc": sealer.seal(secret) if sealer is not None else "",
    }


async def _settle_models(connection: AsyncConnection, wish: Wish) -> None:
    """Models that the new version no longer has are free for others; a model may have got another table."""
    manifest = wish.bundle.manifest
    tables = {model.key: model.table for model in manifest.models}
    mine = AddonModel.addon_key == manifest.key
    await connection.execute(delete(AddonModel).where(mine, AddonModel.model_key.not_in(tables)))
    rows = await connection.execute(select(AddonModel.model_key, AddonModel.table_name).where(mine))
    for row in rows.all():
        if row.table_name != tables[row.model_key]:
            await connection.execute(
                update(AddonModel).where(AddonModel.model_key == row.model_key).values(table_name=tables[row.model_key])
            )


async def _forget_bundles(connection: AsyncConnection, key: str, digest: str) -> None:
    kept = (
        select(BundleRow.digest)
        .where(BundleRow.addon_key == key, BundleRow.digest != digest)
        .order_by(BundleRow.created_at.desc(), BundleRow.digest)
        .limit(KEPT_BUNDLES)
    )
    digests = [row.digest for row in await connection.execute(kept)]
    await connection.execute(
        delete(BundleRow).where(BundleRow.addon_key == key, BundleRow.digest.not_in([digest, *digests]))
    )


async def installations_of(connection: AsyncConnection, key: str) -> int:
    """How many organizations have the addon."""
    count = select(func.count()).select_from(Installation).where(Installation.addon_key == key)
    return int((await connection.execute(count)).scalar_one())
