"""`/permissions`: what the caller holds, and the administration of grants; plus the gate for any other route."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.deps import PrincipalDependency, authenticated
from metacore.api.route import KernelRoute
from metacore.auth import rules
from metacore.auth.service import AuthService
from metacore.errors import NotWired, PermissionDenied
from metacore.identity import Principal
from metacore.ids import UserId, parse_uuid
from metacore.permissions.capabilities import EVERYTHING, parse_capability
from metacore.permissions.service import PermissionService, missing
from metacore.permissions.store import WritablePermissionStore

READ_GRANTS = "permissions.read"
UPDATE_GRANTS = "permissions.update"


def requires(
    permissions: PermissionService | None, auth: AuthService, *capabilities: str, any_of: bool = False
) -> PrincipalDependency:
    """A dependency that gives the caller when they hold all of `capabilities`, or with `any_of` one of them.

    401 without a valid token, 403 naming what is missing. Without a permission service everybody who is logged in
    passes.
    """
    signed_in = authenticated(auth)

    async def gate(principal: Annotated[Principal, Depends(signed_in)]) -> Principal:
        if permissions is not None:
            await permissions.require(principal, *capabilities, any_of=any_of)
        return principal

    return gate


def build_permissions_router(permissions: PermissionService | None, auth: AuthService) -> APIRouter:
    """Reading grants asks for `permissions.read`, changing them for `permissions.update`; owners hold both."""
    router = APIRouter(prefix="/permissions", route_class=KernelRoute, tags=["permissions"])
    Caller = Annotated[Principal, Depends(authenticated(auth))]  # noqa: N806 - a type.
    Reader = Annotated[Principal, Depends(requires(permissions, auth, READ_GRANTS))]  # noqa: N806 - a type.
    Editor = Annotated[Principal, Depends(requires(permissions, auth, UPDATE_GRANTS))]  # noqa: N806 - a type.

    @router.get("/me", summary="What you may do")
    async def mine(principal: Caller) -> Response:
        names = {EVERYTHING} if permissions is None else (await permissions.held_by(principal)).names
        return envelope.ok({"role": principal.role, "capabilities": sorted(names)})

    @router.get("/roles", summary="Grants of every role")
    async def all_roles(principal: Reader) -> Response:
        held = await _wired(permissions)[1].role_grants(principal.organization_id)
        return envelope.ok({role: sorted(names) for role, names in held.items()})

    @router.get("/roles/{role}", summary="Grants of a role")
    async def one_role(role: str, principal: Reader) -> Response:
        held = await _wired(permissions)[1].role_grants(principal.organization_id)
        return envelope.ok({"role": role, "capabilities": sorted(held.get(rules.check_role(role), ()))})

    @router.get("/roles/{role}/{capability}", summary="Whether a role was granted a capability")
    async def role_has(role: str, capability: str, principal: Reader) -> Response:
        held = await _wired(permissions)[1].role_grants(principal.organization_id)
        name = parse_capability(capability)
        granted = name in held.get(rules.check_role(role), ())
        return envelope.ok({"role": role, "capability": name, "granted": granted})

    @router.put("/roles/{role}/{capability}", summary="Grant a capability to a role")
    async def grant_role(role: str, capability: str, principal: Editor) -> Response:
        service, store = _wired(permissions)
        name = await _may_change(service, principal, rules.check_role(role), capability)
        await store.grant_role(principal.organization_id, role, name)
        return envelope.ok({"role": role, "capability": name, "granted": True})

    @router.delete("/roles/{role}/{capability}", summary="Take a capability from a role")
    async def revoke_role(role: str, capability: str, principal: Editor) -> Response:
        service, store = _wired(permissions)
        name = await _may_change(service, principal, rules.check_role(role), capability)
        await store.revoke_role(principal.organization_id, role, name)
        return envelope.ok({"role": role, "capability": name, "granted": False})

    @router.get("/users/{user_id}", summary="Grants of a user beside the role's")
    async def one_user(user_id: str, principal: Reader) -> Response:
        user = await auth.get_user(principal.organization_id, _user(user_id))
        held = await _wired(permissions)[1].user_grants(principal.organization_id, user.id)
        return envelope.ok({"user_id": str(user.id), "capabilities": sorted(held)})

    @router.get("/users/{user_id}/{capability}", summary="Whether a user was granted a capability beside the role's")
    async def user_has(user_id: str, capability: str, principal: Reader) -> Response:
        user = await auth.get_user(principal.organization_id, _user(user_id))
        held = await _wired(permissions)[1].user_grants(principal.organization_id, user.id)
        name = parse_capability(capability)
        return envelope.ok({"user_id": str(user.id), "capability": name, "granted": name in held})

    @router.put("/users/{user_id}/{capability}", summary="Grant a capability to a user")
    async def grant_user(user_id: str, capability: str, principal: Editor) -> Response:
        service, store = _wired(permissions)
        user = await auth.get_user(principal.organization_id, _user(user_id))
        name = await _may_change(service, principal, user.role, capability)
        await store.grant_user(principal.organization_id, user.id, name)
        return envelope.ok({"user_id": str(user.id), "capability": name, "granted": True})

    @router.delete("/users/{user_id}/{capability}", summary="Take a capability from a user")
    async def revoke_user(user_id: str, capability: str, principal: Editor) -> Response:
        service, store = _wired(permissions)
        user = await auth.get_user(principal.organization_id, _user(user_id))
        name = await _may_change(service, principal, user.role, capability)
        await store.revoke_user(principal.organization_id, user.id, name)
        return envelope.ok({"user_id": str(user.id), "capability": name, "granted": False})

    return router


async def _may_change(service: PermissionService, principal: Principal, role: str, capability: str) -> str:
    """The normalized capability, when the caller may give it to or take it from such a role: nobody grants what they
    lack, and only super roles touch super roles."""
    name = parse_capability(capability)
    if role in service.super_roles and principal.role not in service.super_roles:
        raise PermissionDenied(f'permission denied: only a super role may change grants of "{role}"')
    if not (await service.held_by(principal)).allow(name):
        raise missing(name)
    return name


def _wired(permissions: PermissionService | None) -> tuple[PermissionService, WritablePermissionStore]:
    if permissions is None:
        raise NotWired("no permission store is configured: everybody who is logged in may do everything")
    if not isinstance(permissions.store, WritablePermissionStore):
        raise NotWired("the configured permission store cannot be administered here")
    return permissions, permissions.store


def _user(text: str) -> UserId:
    return UserId(parse_uuid(text, "user id"))
