"""Addons over HTTP (contract 16): what a tenant has and could have, settings, frontend files."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.addons.catalog import catalog_of, manifests_of
from metacore.addons.frontends import FrontendStore
from metacore.addons.settings import InstallationSettings
from metacore.api import envelope, etags
from metacore.api.deps import OptionalPrincipalDependency, PrincipalDependency
from metacore.api.model_schemas import OBJECT_BODY
from metacore.api.records import RecordsEndpoint
from metacore.api.route import KernelRoute
from metacore.db.database import Database
from metacore.dynamic.fair_slots import FairSlots
from metacore.errors import NotFound, PermissionDenied
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.registry import Registry
from metacore.secrets import Sealer
from metacore.version import __version__

VERSION_HEADER = "X-Metacore-Kernel-Version"
ADMIN_ROLES = frozenset({"owner", "admin"})
"""Who may manage addons where no permission store is wired."""


class AddonRoute(KernelRoute):
    """Every reply of this room tells the kernel's version."""

    def finish(self, response: Response) -> Response:
        response.headers[VERSION_HEADER] = __version__
        return response


UPLOADS = 2
"""Bundles of one process, of different organizations, that are read. Each takes about three times its size in memory:
as it came, unpacked, and on its way to the database."""
RECEIVED_AT_ONCE = 6
"""Bundles of one process, of different organizations, that come or wait for being read. Each is on the disk until then:
with the files of imports (`metacore.dynamic.imports.RECEIVED_AT_ONCE`) they fit into what the chart gives `/tmp`."""
UPLOAD_WAIT_SECONDS = 10.0


def upload_slots() -> FairSlots:
    return _slots(UPLOADS)


def receiving_slots() -> FairSlots:
    return _slots(RECEIVED_AT_ONCE)


def _slots(total: int) -> FairSlots:
    return FairSlots(total, 1, wait_seconds=UPLOAD_WAIT_SECONDS, what="uploads of bundles", code="uploads_busy")


@dataclass(frozen=True, slots=True)
class AddonServices:
    """What the routes need. `sealer` opens the secrets that a worker sealed
    for who asked; `wait_seconds` is how long a route waits for a worker before it answers 202; `load` makes this
    process serve what the database says now. Whoever brings a bundle holds one of `receiving` until it has come and is
    read, and one of `uploads` from then until it is stored."""

    database: Database
    registry: Registry
    settings: InstallationSettings
    frontends: FrontendStore
    records: RecordsEndpoint
    permissions: PermissionService | None
    max_upload_bytes: int
    sealer: Sealer | None
    wait_seconds: float
    load: Callable[[], Awaitable[int]]
    uploads: FairSlots = field(default_factory=upload_slots)
    receiving: FairSlots = field(default_factory=receiving_slots)

    async def may(self, principal: Principal, capability: str) -> bool:
        if self.permissions is not None:
            return await self.permissions.check(principal, capability)
        return principal.role in ADMIN_ROLES

    async def require(self, principal: Principal, capability: str) -> None:
        if not await self.may(principal, capability):
            raise PermissionDenied(f'permission denied: missing capability "{capability}"')


def build_addons_router(
    services: AddonServices, authenticated: PrincipalDependency, optional: OptionalPrincipalDependency
) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    _reading(router, services, authenticated, optional)
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

    @router.get("/addons/{key}/frontend/{path:path}", summary="A frontend file of an addon", response_class=Response)
    async def frontend(request: Request, key: str, path: str, principal: Anybody) -> Response:
        """Browsers load modules without an Authorization header, so a caller without token gets the files of addons
        that some organization has enabled; they are the same static files for everybody. With a token, only what the
        caller's organization has enabled."""
        digest = _served_digest(services.registry, key, principal)
        file = await services.frontends.read(digest, path)
        immutable = file.hashed or request.query_params.get("v", "") == digest[:16]
        headers = {
            "ETag": etags.quoted(file.etag),
            "Cache-Control": "public, max-age=31536000, immutable" if immutable else "public, no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        if etags.matches(request.headers.get("if-none-match"), file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.content_type, headers=headers)


def _settings(router: APIRouter, services: AddonServices, authenticated: PrincipalDependency) -> None:
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.get("/installations/{key}/settings", summary="Settings of an installation, without secrets")
    async def read_settings(principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.read")
        return envelope.ok(await services.settings.read(principal.organization_id, key))

    @router.put(
        "/installations/{key}/settings", summary="Change settings of an installation", openapi_extra=OBJECT_BODY
    )
    async def write_settings(request: Request, principal: Caller, key: str) -> Response:
        await services.require(principal, "addons.update")
        values = services.records.parse_body(await request.body())
        return envelope.ok(await services.settings.write(principal.organization_id, key, values))


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
