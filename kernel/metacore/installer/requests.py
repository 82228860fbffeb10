"""Wishes of tenants that need the owner role: a kernel writes them and asks what became of them.

Whoever holds the owner role executes them (`metacore.installer.request_worker`); whoever asked can ask again for the
outcome.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, null, select, update

from metacore.bundle.signature import Signature
from metacore.db.database import Database
from metacore.errors import InvalidInput, MetacoreError, NotFound
from metacore.identity import Principal
from metacore.ids import new_uuid
from metacore.installer.request_errors import raised_error
from metacore.installer.request_rows import notify
from metacore.logs import get_logger
from metacore.orm.tables import AddonRequest
from metacore.secrets import Sealer

log = get_logger(__name__)

INSTALL = "install"
KINDS = (INSTALL, "enable", "disable", "uninstall", "rotate_secret")
PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"

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
