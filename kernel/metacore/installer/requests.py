"""Wishes of tenants that need the owner role: a kernel writes them, a worker that holds the owner role executes them.

A request survives both sides: the worker claims it for a while and keeps the claim alive, so when it dies another one
takes over; whoever asked can ask again for the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, null, or_, select, update
from sqlalchemy.exc import DBAPIError

from metacore.bundle.read import read_bundle
from metacore.bundle.signature import Signature, TrustedKeys
from metacore.db.channels import REQUESTS
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import InvalidInput, MetacoreError, NotFound, Unavailable
from metacore.identity import Principal, administered_by
from metacore.ids import new_uuid
from metacore.installer.execute import Installer
from metacore.installer.request_errors import raised_error, stored_failure
from metacore.installer.request_rows import notify, plain, put_off, transaction
from metacore.installer.standing import Asker
from metacore.logs import get_logger
from metacore.orm.tables import AddonRequest, Installation
from metacore.secrets import Sealer

log = get_logger(__name__)

INSTALL = "install"
KINDS = (INSTALL, "enable", "disable", "uninstall", "rotate_secret")
PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"

LEASE = datetime.timedelta(seconds=30)
"""A claim that was not renewed for so long belongs to a worker that died."""
RENEW_SECONDS = 8.0
MAX_TRIES = 5
FIRST_PAUSE = datetime.timedelta(seconds=2)
POLL_SECONDS = 5.0
KEPT = datetime.timedelta(days=7)
SECRET_LIFE = datetime.timedelta(hours=1)
"""How long a secret that nobody fetched waits, sealed; afterwards it must be rotated."""
FIRST_WAIT, LONGEST_WAIT = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How a request stands. `result` is filled when it is done; it holds `install_secret` for the first reader only.

    `error` is what ended it, as the worker raised it.
    """

    id: uuid.UUID
    kind: str
    addon_key: str
    status: str
    result: Mapping[str, Any] = field(default_factory=dict)
    error: MetacoreError | None = None

    @property
    def finished(self) -> bool:
        return self.status in (DONE, FAILED)


async def submit(
    db: Database,
    principal: Principal,
    kind: str,
    addon_key: str,
    *,
    bundle: bytes | None = None,
    signature: Signature | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> uuid.UUID:
    """Write a request for the caller's organization and wake the worker. Whether the caller may is asked before.

    Raises:
        InvalidInput: an unknown kind, or an install without a bundle.
    """
    if kind not in KINDS or (kind == INSTALL and bundle is None):
        raise InvalidInput(f"a request is one of {', '.join(KINDS)}, and an install brings a bundle")
    request_id = new_uuid()
    async with db.transaction(principal.organization_id) as connection:
        await connection.execute(
            insert(AddonRequest).values(
                id=request_id,
                organization_id=principal.organization_id,
                requested_by=principal.user_id,
                kind=kind,
                addon_key=addon_key,
                bundle=bundle,
                signature=signature.as_json() if signature is not None else null(),
                arguments=dict(arguments or {}),
            )
        )
        await notify(connection, request_id)
    return request_id


async def outcome(
    db: Database, organization_id: uuid.UUID, request_id: uuid.UUID, *, sealer: Sealer | None = None
) -> RequestOutcome:
    """How the request stands. With a `sealer`, a secret in it is opened, and is gone from the database then.

    Raises:
        NotFound: the organization has no such request.
    """
    place = (AddonRequest.id == request_id, AddonRequest.organization_id == organization_id)
    columns = (
        AddonRequest.kind,
        AddonRequest.addon_key,
        AddonRequest.status,
        AddonRequest.result,
        AddonRequest.sealed_result,
        AddonRequest.error_code,
        AddonRequest.error_message,
    )
    async with db.transaction(organization_id) as connection:
        row = (await connection.execute(select(*columns).where(*place))).first()
        if row is None:
            raise NotFound(f"there is no request {request_id}", code="unknown_request")
        result = dict(row.result or {}) if row.status in (DONE, FAILED) else {}
        error = raised_error(row.error_code, row.error_message, result) if row.status == FAILED else None
        if row.status == DONE and row.sealed_result and sealer is not None:
            cleared = await connection.execute(
                update(AddonRequest).where(*place, AddonRequest.sealed_result != "").values(sealed_result="")
            )
            if cleared.rowcount:  # Of two readers at once, one gets it.
                result["install_secret"] = sealer.open(row.sealed_result).decode()
    return RequestOutcome(request_id, row.kind, row.addon_key, row.status, {} if error else result, error)


async def wait(
    db: Database,
    organization_id: uuid.UUID,
    request_id: uuid.UUID,
    timeout: float,  # noqa: ASYNC109 - a long poll that gives an answer when it ends, not an error.
    *,
    sealer: Sealer | None = None,
) -> RequestOutcome:
    """`outcome`, as soon as the request is finished or after `timeout` seconds as it stands then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    pause = FIRST_WAIT
    while True:
        found = await outcome(db, organization_id, request_id, sealer=sealer)
        left = deadline - loop.time()
        if found.finished or left <= 0:
            return found
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_WAIT)


@dataclass(frozen=True, slots=True)
class _Claimed:
    id: uuid.UUID
    organization_id: uuid.UUID
    kind: str
    addon_key: str
    bundle: bytes | None
    signature: Mapping[str, Any] | None
    arguments: Mapping[str, Any]
    tries: int


class RequestWorker:
    """Executes requests as the owner. Several may run; each request is executed by one at a time.

    `trusted` raises Unavailable while the keys are not known: installations then wait, which costs them no try.
    `sealer` is the kernel's, so that the secret of a new installation reaches who asked; without one nobody gets it
    and it must be rotated where it can be told. `administrators` are the ids of organizations whose word counts for
    everybody, `*` is any: theirs may be a bundle that asks for more than was granted.
    """

    def __init__(
        self,
        owner: Database,
        installer: Installer,
        trusted: Callable[[], TrustedKeys],
        sealer: Sealer | None,
        *,
        administrators: Collection[str] = (),
    ) -> None:
        self._owner = owner
        self._installer = installer
        self._trusted = trusted
        self._sealer = sealer
        self._administrators = frozenset(administrators)

    async def run(self, stop: asyncio.Event) -> None:
        """Execute requests as they come, until `stop` is set."""
        wake = asyncio.Event()
        listener = Listener(self._owner.direct_url) if self._owner.dialect == "postgresql" else None
        if listener is not None:
            listener.subscribe(REQUESTS, lambda _payload: wake.set())
            listener.on_reconnect(wake.set)
            await listener.start()
        waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(wake.wait())]
        try:
            while not stop.is_set():
                wake.clear()
                await self._cycle()
                if waiting[1].done():
                    waiting[1] = asyncio.create_task(wake.wait())
                await asyncio.wait(waiting, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            if listener is not None:
                await listener.stop()

    async def run_pending(self) -> int:
        """Execute everything that waits. Returns how many requests came to an end."""
        ended = 0
        while (claimed := await self._claim()) is not None:
            ended += await self._execute(claimed)
        return ended

    async def _cycle(self) -> None:
        try:
            await self.tidy()
            await self.run_pending()
        except (DBAPIError, OSError) as error:
            log.warning("requests.database_lost", error=type(error).__name__)

    async def _claim(self) -> _Claimed | None:
        """The oldest request that waits, or whose worker died; other workers skip it from now on."""
        async with transaction(self._owner) as connection:
            now = (
                await connection.execute(select(func.current_timestamp(type_=AddonRequest.claimed_at.type)))
            ).scalar_one()
            waiting = or_(
                AddonRequest.status == PENDING,
                (AddonRequest.status == RUNNING) & (AddonRequest.claimed_at < now - LEASE),
            )
            query = select(AddonRequest.__table__).where(waiting).order_by(AddonRequest.created_at).limit(1)
            if not self._trust_known():
                query = query.where(AddonRequest.kind != INSTALL)
            row = (await connection.execute(query.with_for_update(skip_locked=True))).mappings().first()
            if row is None:
                return None
            tries = int((row["result"] or {}).get("tries", 0)) + 1
            await connection.execute(
                update(AddonRequest)
                .where(AddonRequest.id == row["id"])
                .values(status=RUNNING, claimed_at=now, result={"tries": tries})
            )
        same = ("id", "organization_id", "kind", "addon_key", "bundle", "signature")
        return _Claimed(**{name: row[name] for name in same}, arguments=row["arguments"] or {}, tries=tries)

    def _trust_known(self) -> bool:
        try:
            self._trusted()
        except Unavailable:
            return False
        return True

    async def _execute(self, claimed: _Claimed) -> bool:
        """Whether the request ended; false when it goes back to wait."""
        if claimed.tries > MAX_TRIES:
            error = Unavailable(f"the request was given up after {MAX_TRIES} tries", code="given_up")
            return await self._finish(claimed, FAILED, *stored_failure(error))
        renewing = asyncio.create_task(self._renew(claimed.id))
        try:
            result, secret = await self._carry_out(claimed)
        except Unavailable as error:
            if claimed.tries < MAX_TRIES:
                await put_off(self._owner, claimed.id, LEASE - min(FIRST_PAUSE * 2 ** (claimed.tries - 1), LEASE / 2))
                return False
            return await self._finish(claimed, FAILED, *stored_failure(error))
        except MetacoreError as error:
            return await self._finish(claimed, FAILED, *stored_failure(error))
        except asyncio.CancelledError:
            await asyncio.shield(self._release(claimed))
            raise
        except Exception:
            log.exception("requests.failed", request=str(claimed.id), kind=claimed.kind, addon=claimed.addon_key)
            return await self._finish(claimed, FAILED, {}, "internal", "the request failed for an internal reason")
        finally:
            renewing.cancel()
        sealed = self._sealer.seal(secret.encode()) if secret and self._sealer is not None else ""
        return await self._finish(claimed, DONE, result, sealed=sealed)

    async def _carry_out(self, claimed: _Claimed) -> tuple[dict[str, Any], str]:
        """The result to show, and the secret that only who asked may see ('' when there is none)."""
        key, organization = claimed.addon_key, claimed.organization_id
        if claimed.kind == INSTALL:
            return await self._install(claimed)
        if claimed.kind == "rotate_secret":
            secret = await self._installer.rotate_secret(key, organization)
            return {"installation": await self._installation(key, organization)}, secret
        if claimed.kind == "uninstall":
            # What an Addon declares would come back at once: it is taken away where it is declared.
            drop = bool(claimed.arguments.get("drop"))
            revision = await self._installer.uninstall(key, organization, drop=drop, owner_uid="")
            return {"addon_key": key, "revision": revision}, ""
        change = self._installer.enable if claimed.kind == "enable" else self._installer.disable
        revision = await change(key, organization)
        return {"installation": await self._installation(key, organization), "revision": revision}, ""

    async def _install(self, claimed: _Claimed) -> tuple[dict[str, Any], str]:
        content = claimed.bundle or b""
        bundle = await asyncio.to_thread(read_bundle, content)
        if bundle.manifest.key != claimed.addon_key:
            raise InvalidInput(
                f"the bundle is of addon {bundle.manifest.key!r}, the request names {claimed.addon_key!r}"
            )
        signature = Signature.model_validate(claimed.signature) if claimed.signature else None
        administers = administered_by(self._administrators, claimed.organization_id)
        report = await self._installer.install(
            content,
            signature,
            trusted=self._trusted(),
            organizations=[claimed.organization_id],
            asker=Asker.ADMINISTRATOR if administers else Asker.TENANT,
        )
        result = {
            "source": "bundle",
            "installation": await self._installation(report.addon_key, claimed.organization_id),
            "manifest": bundle.manifest.raw,
            "revision": report.revision,
        }
        return result, report.secrets.get(claimed.organization_id, "")

    async def _installation(self, key: str, organization: uuid.UUID) -> dict[str, Any]:
        columns = ("id", "organization_id", "addon_key", "version", "status", "source", "installed_at", "enabled_at")
        place = (Installation.addon_key == key, Installation.organization_id == organization)
        async with self._owner.transaction(None) as connection:
            query = select(*(getattr(Installation, name) for name in columns)).where(*place)
            row = (await connection.execute(query)).mappings().first()
        return {name: plain(row[name]) for name in columns} if row is not None else {}

    async def _finish(
        self,
        claimed: _Claimed,
        status: str,
        result: Mapping[str, Any],
        code: str = "",
        message: str = "",
        *,
        sealed: str = "",
    ) -> bool:
        await self._write(
            claimed.id,
            {
                "status": status,
                "result": dict(result),
                "sealed_result": sealed,
                "error_code": code[:64],
                "error_message": message,
                "bundle": None,  # Its bytes are in metacore_bundles now, or of no use.
                "finished_at": func.current_timestamp(),
            },
        )
        return True

    async def _release(self, claimed: _Claimed) -> None:
        await self._write(claimed.id, {"status": PENDING, "claimed_at": None})

    async def _write(self, request_id: uuid.UUID, values: Mapping[str, Any]) -> None:
        place: ColumnElement[bool] = AddonRequest.id == request_id
        async with transaction(self._owner) as connection:
            await connection.execute(update(AddonRequest).where(place).values(dict(values)))
            await notify(connection, request_id)

    async def _renew(self, request_id: uuid.UUID) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(DBAPIError, OSError):
                async with transaction(self._owner) as connection:
                    await connection.execute(
                        update(AddonRequest)
                        .where(AddonRequest.id == request_id, AddonRequest.status == RUNNING)
                        .values(claimed_at=func.current_timestamp())
                    )

    async def tidy(self) -> None:
        """Forget old requests, and secrets that nobody fetched."""
        now = datetime.datetime.now(datetime.UTC)
        async with transaction(self._owner) as connection:
            await connection.execute(delete(AddonRequest).where(AddonRequest.finished_at < now - KEPT))
            await connection.execute(
                update(AddonRequest)
                .where(AddonRequest.sealed_result != "", AddonRequest.finished_at < now - SECRET_LIFE)
                .values(sealed_result="")
            )
