"""Metadata over HTTP (contract 4): what a client needs to draw the models that the caller may read."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response

from metacore.api import envelope, etags
from metacore.api.deps import PrincipalDependency
from metacore.api.route import KernelRoute
from metacore.identity import Principal
from metacore.metadata.service import MetadataService, ServedModel
from metacore.permissions.service import PermissionService

NOT_MODIFIED = 304
SHARED_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Accept-Language"}
"""A copy may be kept by the client that asked, and must be checked before it is used."""


def build_metadata_router(
    metadata: MetadataService, permissions: PermissionService | None, principal: PrincipalDependency
) -> APIRouter:
    """Routes under `/metadata`; each model asks for `<model>.read` where a permission service is wired."""
    router = APIRouter(prefix="/metadata", route_class=KernelRoute, tags=["metadata"])
    Caller = Annotated[Principal, Depends(principal)]  # noqa: N806 - a type.
    Language = Annotated[str, Header(alias="Accept-Language")]  # noqa: N806 - a type.

    async def readable(who: Principal, name: str) -> tuple[UUID, str]:
        """The organization and the model's key, once it exists for the caller and may be read."""
        model = metadata.model(who.organization_id, name)
        if permissions is not None:
            await permissions.require(who, f"{model.key.lower()}.read")
        return who.organization_id, model.key

    @router.get("/all", summary="Tables and forms of every readable model")
    async def everything(
        who: Caller,
        accept_language: Language = "",
        if_none_match: Annotated[str, Header(alias="If-None-Match")] = "",
    ) -> Response:
        async def may_read(model: ServedModel) -> bool:
            return permissions is None or await permissions.check(who, f"{model.key.lower()}.read")

        locale = metadata.negotiate(accept_language)
        version, shapes = await metadata.all(who.organization_id, locale, readable=may_read)
        headers = {**SHARED_HEADERS, "ETag": etags.quoted(version), "Content-Language": locale}
        if etags.matches(if_none_match, version):
            return Response(status_code=NOT_MODIFIED, headers=headers)
        return envelope.ok(shapes, headers=headers)

    @router.get("/table/{model}", summary="How to draw the list of a model")
    async def table(model: str, who: Caller, accept_language: Language = "") -> Response:
        locale = metadata.negotiate(accept_language)
        shape = await metadata.table(*await readable(who, model), locale)
        return envelope.ok(shape, headers={**SHARED_HEADERS, "Content-Language": locale})

    @router.get("/modal/{model}", summary="How to draw the form of a model")
    async def modal(model: str, who: Caller, accept_language: Language = "") -> Response:
        locale = metadata.negotiate(accept_language)
        shape = await metadata.modal(*await readable(who, model), locale)
        return envelope.ok(shape, headers={**SHARED_HEADERS, "Content-Language": locale})

    @router.get("/{model}", summary="Table and form of a model")
    async def both(model: str, who: Caller, accept_language: Language = "") -> Response:
        locale = metadata.negotiate(accept_language)
        shape = await metadata.both(*await readable(who, model), locale)
        return envelope.ok(shape, headers={**SHARED_HEADERS, "Content-Language": locale})

    return router
