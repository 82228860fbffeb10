"""Executes what tenants asked for, with the rights of the owner role.

A request survives its worker, which claims it for a while and keeps the claim alive: when it dies, another one takes
over.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from metacore.bundle.read import read_bundle
from metacore.bundle.signature import Signature, TrustedKeys
from metacore.db.channels import REQUESTS
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import InvalidInput, MetacoreError, Unavailable
from metacore.identity import administered_by
from metacore.installer.execute import Installer
from metacore.installer.request_errors import stored_failure
from metacore.installer.request_rows import notify, plain, put_off, transaction
from metacore.installer.requests import DONE, FAILED, INSTALL, PENDING, RUNNING
from metacore.installer.standing import Asker
from metacore.installer.watching import Busy, nothing, unwatched
from metacore.logs import get_logger
from metacore.orm.tables import AddonRequest, Installation
from metacore.secrets import Sealer

log = get_logger(__name__)

LEASE = datetime.timedelta(seconds=30)
"""A claim that was not renewed for so long belongs to a worker that died."""
RENEW_SECONDS = 8.0
MAX_TRIES = 5
FIRST_PAUSE = datetime.timedelta(seconds=2)
POLL_SECONDS = 5.0
KEPT = datetime.timedelta(days=7)
SECRET_LIFE = datetime.timedelta(hours=1)
"""How long a secret that nobody fetched waits, sealed; afterwards it must be rotated."""


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
    everybody, `*` is any: theirs may be a bundle that asks for more than was granted. `on_turn` is called whenever the
    loop comes round, while a request is executed with each renewal of its claim; `busy` is entered with words for each
    request, and what it gives is called with each step of an installation. Both are for whoever watches that it lives.
    """

    def __init__(
        self,
        owner: Database,
        installer: Installer,
        trusted: Callable[[], TrustedKeys],
        sealer: Sealer | None,
        *,
        administrators: Collection[str] = (),
        on_turn: Callable[[], None] = nothing,
        busy: Busy = unwatched,
    ) -> None:
        self._owner = owner
        self._installer = installer
        self._trusted = trusted
        self._sealer = sealer
        self._administrators = frozenset(administrators)
        self._on_turn = on_turn
        self._busy = busy

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
                self._on_turn()
                await self._cycle()
                self._on_turn()
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
            self._on_turn()
        return ended

    async def _cycle(self) -> None:
        try:
            await self.tidy()
            await self.run_pending()
        except (SQLAlchemyError, OSError) as error:
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
            with self._busy(f"request {claimed.kind} of {claimed.addon_key}") as beat:
                result, secret = await self._carry_out(claimed, beat)
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

    async def _carry_out(self, claimed: _Claimed, beat: Callable[[], None]) -> tuple[dict[str, Any], str]:
        """The result to show, and the secret that only who asked may see ('' when there is none)."""
        key, organization = claimed.addon_key, claimed.organization_id
        if claimed.kind == INSTALL:
            return await self._install(claimed, beat)
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

    async def _install(self, claimed: _Claimed, beat: Callable[[], None]) -> tuple[dict[str, Any], str]:
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
            progress=lambda _step: beat(),
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
        columns = (
            "id",
            "organization_id",
            "addon_key",
            "version",
            "status",
            "source",
            "installed_at",
            "enabled_at",
            "disabled_at",
        )
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
            with contextlib.suppress(SQLAlchemyError, OSError):
                async with transaction(self._owner) as connection:
                    await connection.execute(
                        update(AddonRequest)
                        .where(AddonRequest.id == request_id, AddonRequest.status == RUNNING)
                        .values(claimed_at=func.current_timestamp())
                    )
            # A database that is away is no reason to end the process, one that never answers is.
            self._on_turn()

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
