"""Webhooks that come in: the one route of addons without a token, for the sender signs what it sends."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from metacore.addons.inbound.receiver import Delivery, HookReceiver
from metacore.api import envelope
from metacore.api.addons import AddonRoute
from metacore.errors import PayloadTooLarge
from metacore.ids import parse_uuid


@dataclass(frozen=True, slots=True)
class HookServices:
    """`max_bytes` holds for a body also where no middleware stands in front."""

    receiver: HookReceiver
    max_bytes: int


def build_hooks_router(services: HookServices) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])

    @router.post("/hooks/{installation_id}/{path:path}", summary="A delivery of an inbound webhook")
    async def receive(request: Request, installation_id: str, path: str) -> Response:
        delivery = Delivery(
            installation_id=parse_uuid(installation_id, "installation"),
            method=request.method,
            path=request.url.path,
            hook_path=f"/{path}",
            headers=dict(reversed(request.headers.items())),
            query=dict(request.query_params),
            body=await _body(request, services.max_bytes),
        )
        return envelope.ok(await services.receiver.receive(delivery))

    return router


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
    return bytes(body)
