"""Installing, switching and removing addons over HTTP (contract 16).

Each route only writes a request; whoever holds the owner role executes it (architecture 5). The route waits for that a
while and then answers 202, and `requests/{id}` gives later what the route would have given.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.addons import AddonRoute, AddonServices
from metacore.api.bundle_form import FORM_SCHEMA, bundle_form, read_bundle_form
from metacore.api.deps import PrincipalDependency
from metacore.bundle.read import read_bundle
from metacore.errors import InvalidInput, NotFound
from metacore.identity import Principal
from metacore.ids import parse_uuid
from metacore.installer import requests
from metacore.logs import get_logger
from metacore.manifest.names import ADDON_KEY

log = get_logger(__name__)

NO_STORE = {"Cache-Control": "no-store"}
"""For replies that may hold an installation's secret."""


def build_installations_router(services: AddonServices, authenticated: PrincipalDependency) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    async def ask(
        request: Request, principal: Principal, kind: str, key: str, arguments: Mapping[str, Any] | None = None
    ) -> Response:
        if not ADDON_KEY.fullmatch(key):
            raise NotFound(f"there is no addon {key[:64]!r}", code="unknown_addon")
        submitted = await requests.submit(services.database, principal, kind, key, arguments=arguments)
        return await _answer(services, request, principal, submitted, trusted=True)

    @router.post("/installations/{key}", summary="Install a signed bundle", status_code=201, openapi_extra=FORM_SCHEMA)
    async def install(request: Request, principal: Caller, key: str) -> Response:
        # Before the body: nobody sends megabytes in order to be refused.
        await services.require(principal, "addons.install")
        submitted = await _submitted(services, request, principal, key)
        return await _answer(services, request, principal, submitted, trusted=True)

    @router.post("/installations/{key}/enable", summary="Enable an installed addon")
    async def enable(request: Request, principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        return await ask(request, principal, "enable", key)

    @router.post("/installations/{key}/disable", summary="Disable an addon and keep its data")
    async def disable(request: Request, principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        return await ask(request, principal, "disable", key)

    @router.post("/installations/{key}/secret/rotate", summary="Replace the installation's secret")
    async def rotate(request: Request, principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        return await ask(request, principal, "rotate_secret", key)

    @router.delete("/installations/{key}", summary="Uninstall an addon; ?drop=true removes its data")
    async def uninstall(request: Request, principal: Caller, key: str, drop: bool = False) -> Response:
        await services.require(principal, "addons.delete")
        return await ask(request, principal, "uninstall", key, {"drop": drop})

    @router.get("/requests/{id}", summary="What became of a request that took long")
    async def request_outcome(request: Request, principal: Caller, id: str) -> Response:
        await services.require(principal, "addons.read")
        # Who may only read must not take the secret away from who asked for it.
        trusted = await services.may(principal, "addons.update")
        return await _answer(services, request, principal, parse_uuid(id), wait=0, trusted=trusted)

    return router


async def _submitted(services: AddonServices, request: Request, principal: Principal, key: str) -> UUID:
    """A request with the bundle that the body brings; when this returns, the bundle is in memory no more. While it
    comes, at whatever pace, it is on the disk and keeps nobody from having another one read."""
    organization, max_bytes = principal.organization_id, services.max_upload_bytes
    async with (
        services.receiving.of(organization) as received,
        bundle_form(request, max_bytes) as form,
        services.uploads.of(organization),
    ):
        content, signature = await read_bundle_form(form, max_bytes)
        received()
        read = await asyncio.to_thread(read_bundle, content)
        if read.manifest.key != key:
            raise InvalidInput(
                f"the bundle is of addon {read.manifest.key!r}, the URL names {key[:64]!r}", code="wrong_key"
            )
        return await requests.submit(services.database, principal, "install", key, bundle=content, signature=signature)


async def _answer(
    services: AddonServices,
    request: Request,
    principal: Principal,
    request_id: UUID,
    *,
    trusted: bool,
    wait: float | None = None,
) -> Response:
    """The outcome of a request: its result, 202 while it is under way, or the error that ended it.

    `trusted` callers get the secret in it, once.
    """
    outcome = await requests.wait(
        services.database,
        principal.organization_id,
        request_id,
        services.wait_seconds if wait is None else wait,
        sealer=services.sealer if trusted else None,
    )
    if outcome.error is not None:
        raise outcome.error
    if not outcome.finished:
        place = f"{request.url.path.partition('/metacore/')[0]}/metacore/requests/{request_id}"
        body = {"request_id": str(request_id), "status": outcome.status}
        return envelope.ok(body, status=202, headers={**NO_STORE, "Location": place})
    try:
        # Who reads this reply and asks for a row next must not be quicker than the notification of the change.
        await services.load()
    except Exception:
        log.exception("registry.load_failed")
    if outcome.kind != "install":
        return envelope.ok(outcome.result, headers=NO_STORE)
    # Contract 16 gives this reply its own shape. An addon that was there before has no new secret to tell.
    reply = {"success": True, **outcome.result, "install_secret": outcome.result.get("install_secret", "")}
    return envelope.bare(reply, status=201, headers=NO_STORE)
