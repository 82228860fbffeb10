"""The menu over HTTP: `GET /metacore/navigation`, a bare array (contract 16, 17)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends
from starlette.responses import Response

from metacore import navigation
from metacore.api import envelope
from metacore.api.addons import AddonRoute
from metacore.api.deps import OptionalPrincipalDependency
from metacore.errors import InvalidInput, Misconfigured
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.registry import Registry

CoreGroups = Callable[[UUID], Sequence[navigation.Group | Mapping[str, Any]]]


def groups_for(groups: CoreGroups | Sequence[navigation.Group | Mapping[str, Any]]) -> CoreGroups:
    """The same fixed groups for every organization, looked at once now; a function stays as it is.

    Raises:
        Misconfigured: a group that is not of contract 17's shape.
    """
    if callable(groups):
        return groups
    try:
        fixed = navigation.merge(groups, ())
    except InvalidInput as error:
        raise Misconfigured(f"core_groups: {error.message}") from error
    return lambda _organization_id: fixed


def no_groups(_organization_id: UUID) -> Sequence[navigation.Group]:
    return ()


def build_navigation_router(
    registry: Registry,
    permissions: PermissionService | None,
    optional: OptionalPrincipalDependency,
    *,
    core_groups: CoreGroups = no_groups,
) -> APIRouter:
    """`core_groups` gives the host's own groups for an organization. Without a token the menu is `[]`."""
    router = APIRouter(route_class=AddonRoute, tags=["navigation"])

    @router.get("/metacore/navigation", summary="The caller's menu")
    async def menu(principal: Annotated[Principal | None, Depends(optional)]) -> Response:
        if principal is None:
            return envelope.bare([])
        snapshot = registry.snapshot

        def resource(model: str) -> str:
            served = snapshot.models.get(model)
            return (served.key if served is not None else model).lower()

        contributed = navigation.contributed(snapshot, principal.organization_id)
        groups = navigation.merge(core_groups(principal.organization_id), contributed)
        if permissions is not None:
            asked = navigation.capabilities(groups, resource)
            held = {name for name in asked if await permissions.check(principal, name)}
            groups = navigation.visible(groups, held, resource)
        return envelope.bare([group.as_json() for group in groups], headers={"Cache-Control": "private, no-cache"})

    return router
