"""Jobs of the caller's organization (docs/jobs.md): which there are, and having a failed one tried again."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from metacore.addons.jobs import view
from metacore.api import envelope
from metacore.api.addons import AddonRoute, AddonServices
from metacore.api.deps import PrincipalDependency
from metacore.identity import Principal
from metacore.ids import parse_uuid


def build_jobs_router(services: AddonServices, authenticated: PrincipalDependency) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.get("/jobs", summary="Work of addons that nobody waits for, newest first")
    async def jobs(
        principal: Caller, status: str = "", kind: str = "", addon: str = "", page: int = 1, per_page: int = 20
    ) -> Response:
        await services.require(principal, "jobs.read")
        filters = {"status": status, "kind": kind, "addon": addon}
        found = await view.jobs_of(services.database, principal.organization_id, filters, page=page, per_page=per_page)
        meta = {"total": found.total, "page": found.page, "per_page": found.per_page, "last_page": found.last_page}
        return envelope.ok(found.rows, meta=meta)

    @router.post("/jobs/{id}/retry", summary="Try a failed job again")
    async def retry(principal: Caller, id: str) -> Response:
        await services.require(principal, "jobs.update")
        return envelope.ok(await view.try_again(services.database, principal.organization_id, parse_uuid(id)))

    return router
