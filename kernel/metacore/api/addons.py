"""Addons over HTTP (contract 16): what a tenant has, could have, and asks to change.

A route that installs or removes only writes a request; whoever holds the owner role executes it (architecture 5).
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from starlette.responses import Response

from metacore.addons.catalog import catalog_of, manifests_of
from metacore.addons.frontends import FrontendStore
from metacore.addons.settings import InstallationSettings
from metacore.api import envelope
from metacore.api.deps import OptionalPrincipalDependency, PrincipalDependency
from metacore.api.records import RecordsEndpoint
from metacore.api.route import Handler, KernelRoute
from metacore.bundle.read import Bundle, read_bundle
from metacore.bundle.signature import Signature
from metacore.db.database import Database
from metacore.errors import InvalidInput, NotFound, PayloadTooLarge, PermissionDenied
from metacore.identity import Principal
from metacore.ids import parse_uuid
from metacore.installer import requests
from metacore.permissions.service import PermissionService
from metacore.registry import Registry
from metacore.version import __version__

VERSION_HEADER = "X-Metacore-Kernel-Version"
WAIT_SECONDS = 15.0
"""How long a route waits for an installation before it answers 202."""
ADMIN_ROLES = frozenset({"owner", "admin"})
"""Who may manage addons where no permission store is wired."""


class AddonRoute(KernelRoute):
    """Every reply of this room tells the kernel's version."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def versioned(request: Request) -> Response:
            response = await handle(request)
            response.headers[VERSION_HEADER] = __version__
            return response

        return versioned


@dataclass(frozen=True, slots=True)
class AddonServices:
    """What the routes need. `enforcing` tells the mode of this process."""

    database: Database
    registry: Registry
    settings: InstallationSettings
    frontends: FrontendStore
    records: RecordsEndpoint
    permissions: PermissionService | None
    enforcing: bool
    max_upload_bytes: int

    async def require(self, principal: Principal, capability: str) -> None:
        if self.permissions is not None:
            await self.permissions.require(principal, capability)
        elif principal.role not in ADMIN_ROLES:
            raise PermissionDenied(f"permission denied: missing capability {capability!r}".replace("'", '"'))


def build_addons_router(
    services: AddonServices, authenticated: PrincipalDependency, optional: OptionalPrincipalDependency
) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    _reading(router, services, authenticated, optional)
    _installations(router, services, authenticated)
    _settings(router, services, authenticated)
    return router


def _reading(
    router: APIRouter,
    services: AddonServices,
    authenticated: PrincipalDependency,
    optional: OptionalPrincipalDependency,
) -> None:
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.
    Anybody = Annotated[Principal | None, Depends(optional)]  # noqa: N806 - a type.

    @router.get("/manifests", summary="Manifests of the installed addons")
    async def manifests(principal: Anybody) -> Response:
        return envelope.bare(manifests_of(services.registry, principal.organization_id) if principal else [])

    @router.get("/catalog", summary="Addons that this control plane holds")
    async def catalog(principal: Caller) -> Response:
        return envelope.ok(catalog_of(services.registry, principal.organization_id))

    @router.get("/mode", summary="Whether violations are recorded or refused")
    async def mode(principal: Caller) -> Response:
        return envelope.ok({"mode": "enforce" if services.enforcing else "shadow"})

    @router.get("/addons/{key}/frontend/{path:path}", summary="A frontend file of an addon", response_class=Response)
    async def frontend(request: Request, key: str, path: str, principal: Anybody) -> Response:
        """Browsers load modules without an Authorization header, so a caller without token gets the files of addons
        that some organization has enabled; they are the same static files for everybody. With a token, only what the
        caller's organization has enabled."""
        digest = _served_digest(services.registry, key, principal)
        file = await services.frontends.read(digest, path)
        immutable = file.hashed or request.query_params.get("v", "") == digest[:16]
        headers = {
            "ETag": f'"{file.etag}"',
            "Cache-Control": "public, max-age=31536000, immutable" if immutable else "public, no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.content_type, headers=headers)


def _installations(router: APIRouter, services: AddonServices, authenticated: PrincipalDependency) -> None:
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.post("/installations/{key}", summary="Install a signed bundle", status_code=201)
    async def install(
        principal: Caller,
        key: str,
        bundle: Annotated[UploadFile, File(description="The bundle, a tar.gz")],
        signature: Annotated[str | None, Form(description="The signature object, JSON")] = None,
    ) -> Response:
        await services.require(principal, "addons.install")
        content = await bundle.read(services.max_upload_bytes + 1)
        if len(content) > services.max_upload_bytes:
            raise PayloadTooLarge(f"the bundle is larger than {services.max_upload_bytes} bytes")
        read: Bundle = await asyncio.to_thread(read_bundle, content)
        if read.manifest.key != key:
            raise InvalidInput(f"the bundle is of addon {read.manifest.key!r}, the URL names {key[:64]!r}")
        request_id = await requests.submit(
            services.database, principal, "install", key, bundle=content, signature=_signature(signature)
        )
        return await _answer(services, principal, request_id)

    @router.post("/installations/{key}/enable", summary="Enable an installed addon")
    async def enable(principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        return await _answer(services, principal, await requests.submit(services.database, principal, "enable", key))

    @router.post("/installations/{key}/disable", summary="Disable an addon and keep its data")
    async def disable(principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        return await _answer(services, principal, await requests.submit(services.database, principal, "disable", key))

    @router.post("/installations/{key}/secret/rotate", summary="Replace the installation's secret")
    async def rotate(principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        submitted = await requests.submit(services.database, principal, "rotate_secret", key)
        return await _answer(services, principal, submitted)

    @router.delete("/installations/{key}", summary="Uninstall an addon; ?drop=true removes its data")
    async def uninstall(principal: Caller, key: str, drop: bool = False) -> Response:
        await services.require(principal, "addons.delete")
        submitted = await requests.submit(services.database, principal, "uninstall", key, arguments={"drop": drop})
        return await _answer(services, principal, submitted)

    @router.get("/requests/{id}", summary="What became of a request that took long")
    async def request_outcome(principal: Caller, id: str) -> Response:
        await services.require(principal, "addons.read")
        return await _answer(services, principal, parse_uuid(id), wait=0)


def _settings(router: APIRouter, services: AddonServices, authenticated: PrincipalDependency) -> None:
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.get("/installations/{key}/settings", summary="Settings of an installation, without secrets")
    async def read_settings(principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.read")
        return envelope.ok(await services.settings.read(principal.organization_id, key))

    @router.put("/installations/{key}/settings", summary="Change settings of an installation")
    async def write_settings(request: Request, principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        values = services.records.parse_body(await request.body())
        return envelope.ok(await services.settings.write(principal.organization_id, key, values))


async def _answer(
    services: AddonServices, principal: Principal, request_id: UUID, *, wait: float = WAIT_SECONDS
) -> Response:
    """The outcome of a request: its result, 202 while it is under way, or the error that ended it."""
    outcome = await requests.wait(services.database, principal.organization_id, request_id, wait)
    if outcome.error is not None:
        raise outcome.error
    if not outcome.finished:
        return envelope.ok({"request_id": str(request_id), "status": outcome.status}, status=202)
    return envelope.bare({"success": True, **outcome.result})


def _signature(text: str | None) -> Signature | None:
    if not text:
        return None
    try:
        value: Any = orjson.loads(text)
        return Signature.model_validate(value)
    except ValueError as error:
        raise InvalidInput("the signature is not a JSON object as contract 9 describes it") from error


def _served_digest(registry: Registry, key: str, principal: Principal | None) -> str:
    snapshot = registry.snapshot
    addon = snapshot.addons.get(key)
    if principal is not None:
        own = snapshot.installed.get(principal.organization_id, {}).get(key)
        enabled = own is not None and own.enabled
    else:
        enabled = any(key in have and have[key].enabled for have in snapshot.installed.values())
    if addon is None or addon.fenced_reason or addon.error or not enabled:
        raise NotFound(f"addon {key[:64]!r} has no frontend here", code="unknown_addon")
    return addon.digest
