"""Connectors over HTTP: what can be connected, its credentials (which go in and never come out), and their test."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.addons.connector_tests import ConnectorTests
from metacore.api import envelope
from metacore.api.addons import AddonRoute, AddonServices
from metacore.api.deps import PrincipalDependency
from metacore.api.model_schemas import OBJECT_BODY
from metacore.connectors.credentials import Credentials
from metacore.identity import Principal

PLACE = "/installations/{key}/connectors"


@dataclass(frozen=True, slots=True)
class ConnectorServices:
    credentials: Credentials
    tests: ConnectorTests


def build_connectors_router(
    services: ConnectorServices, addons: AddonServices, authenticated: PrincipalDependency
) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.get(PLACE, summary="Connectors of an addon, without credentials")
    async def listed(principal: Caller, key: str) -> Response:
        await addons.require(principal, "addons.read")
        return envelope.ok(await services.credentials.listed(principal.organization_id, key))

    @router.put(PLACE + "/{connector}", summary="Set credentials of a connector", openapi_extra=OBJECT_BODY)
    async def write(request: Request, principal: Caller, key: str, connector: str) -> Response:
        await addons.require(principal, "addons.update")
        values = addons.records.parse_body(await request.body())
        written = await services.credentials.write(principal.organization_id, key, connector, values, principal.user_id)
        return envelope.ok(written)

    @router.delete(PLACE + "/{connector}", summary="Forget the credentials of a connector")
    async def delete(principal: Caller, key: str, connector: str) -> Response:
        await addons.require(principal, "addons.update")
        await services.credentials.delete(principal.organization_id, key, connector)
        return envelope.ok({"key": connector, "configured": False})

    @router.post(PLACE + "/{connector}/test", summary="Try the credentials of a connector")
    async def test(principal: Caller, key: str, connector: str) -> Response:
        await addons.require(principal, "addons.update")
        return envelope.ok(await services.tests.run(principal, key, connector))

    return router
