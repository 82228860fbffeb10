"""Tools over HTTP (contract 16): what assistants may call here, and calling it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.addons.tools.service import ToolService
from metacore.api import envelope
from metacore.api.addons import AddonRoute, AddonServices
from metacore.api.deps import PrincipalDependency
from metacore.api.model_schemas import OBJECT_BODY
from metacore.api.results import result_reply
from metacore.errors import InvalidInput, Problem
from metacore.identity import Principal


def build_tools_router(tools: ToolService, addons: AddonServices, authenticated: PrincipalDependency) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.get("/tools", summary="Tools of addons that the caller may run")
    async def listed(principal: Caller) -> Response:
        return envelope.ok(await tools.listed(principal))

    @router.post("/tools/execute", summary="Run a tool", openapi_extra=OBJECT_BODY)
    async def execute(request: Request, principal: Caller) -> Response:
        body = addons.records.parse_body(await request.body())
        key, tool, params = body.get("addon_key"), body.get("tool_id"), body.get("params")
        problems = [
            Problem(name, "required", f"{name} is required, as a string")
            for name, value in (("addon_key", key), ("tool_id", tool))
            if not isinstance(value, str) or not value
        ]
        if params is not None and not isinstance(params, dict):
            problems.append(Problem("params", "type", "params must be an object"))
        if problems:
            raise InvalidInput(f"invalid request: {problems[0].message}", problems=problems)
        result, meta = await tools.execute(principal, str(key), str(tool), params or {})
        return result_reply(result, meta, forbidden=result.code == "forbidden")

    return router
