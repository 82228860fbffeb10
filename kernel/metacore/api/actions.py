"""Actions over HTTP (contract 7): `POST /dynamic/{model}/{id}/action/{key}`, and the same without a row."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.addons.actions import ActionService
from metacore.api.deps import PrincipalDependency
from metacore.api.model_schemas import OPTIONAL_OBJECT_BODY
from metacore.api.records import RecordsEndpoint
from metacore.api.results import result_reply
from metacore.api.route import KernelRoute
from metacore.identity import Principal
from metacore.ids import parse_uuid


def build_actions_router(
    actions: ActionService, records: RecordsEndpoint, authenticated: PrincipalDependency
) -> APIRouter:
    router = APIRouter(route_class=KernelRoute, tags=["actions"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    async def answer(request: Request, principal: Principal, model: str, row_id: UUID | None, key: str) -> Response:
        body = await request.body()
        given = records.parse_body(body) if body.strip() else {}
        outcome = await actions.execute(principal, model, row_id, key, given)
        return result_reply(outcome.result, outcome.meta, forbidden=outcome.forbidden)

    async def on_collection(request: Request, model: str, key: str, principal: Caller) -> Response:
        return await answer(request, principal, model, None, key)

    async def on_row(request: Request, model: str, id: str, key: str, principal: Caller) -> Response:
        return await answer(request, principal, model, parse_uuid(id), key)

    # `me` first: the next route would take it for a row.
    for root, shown in (("/dynamic/{model}", True), ("/data/{model}/me", False), ("/data/{model}", False)):
        for path, endpoint, summary in (
            ("/action/{key}", on_collection, "Run an action of the model"),
            ("/{id}/action/{key}", on_row, "Run an action on a row"),
        ):
            router.add_api_route(
                root + path,
                endpoint,
                methods=["POST"],
                summary=summary,
                include_in_schema=shown,
                openapi_extra=OPTIONAL_OBJECT_BODY,
            )
    return router
