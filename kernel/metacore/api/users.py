"""`/users`: the administration of an organization's users."""

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.permissions import requires
from metacore.api.route import KernelRoute
from metacore.auth import rules
from metacore.auth.accounts import UserAccount, UserChanges
from metacore.auth.service import AuthService
from metacore.errors import PermissionDenied
from metacore.identity import Principal
from metacore.ids import UserId, parse_uuid
from metacore.permissions.service import PermissionService

READ = "users.read"
CREATE = "users.create"
UPDATE = "users.update"
MAX_PER_PAGE = 200
MAX_PAGE = 1_000_000


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["Grace Hopper"])
    email: str = Field(examples=["grace@example.com"])
    password: SecretStr = Field(description="10 to 1024 characters")
    role: str = Field(default=rules.AGENT, description="owner, admin, agent or a role of the host")


class UserPatch(BaseModel):
    """Keys that are absent or null leave a thing as it is."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    role: str | None = None
    status: str | None = Field(default=None, description="active or disabled")
    password: SecretStr | None = Field(default=None, description="10 to 1024 characters; ends the user's sessions")


def build_users_router(auth: AuthService, permissions: PermissionService | None) -> APIRouter:
    """Gated by `users.read`, `users.create` and `users.update`; without a permission service only owners pass."""
    router = APIRouter(prefix="/users", route_class=KernelRoute, tags=["users"])
    Reader = Annotated[Principal, Depends(requires(permissions, auth, READ))]  # noqa: N806 - a type.
    Creator = Annotated[Principal, Depends(requires(permissions, auth, CREATE))]  # noqa: N806 - a type.
    Editor = Annotated[Principal, Depends(requires(permissions, auth, UPDATE))]  # noqa: N806 - a type.
    guard = UserGuard(permissions)

    @router.get("", summary="List users")
    async def list_users(
        principal: Reader,
        page: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1,
        per_page: Annotated[int, Query(ge=1)] = 20,
        search: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        guard.enter(principal, READ)
        size = min(per_page, MAX_PER_PAGE)
        users, total = await auth.list_users(
            principal.organization_id, limit=size, offset=(page - 1) * size, search=search
        )
        meta = {"total": total, "page": page, "per_page": size, "last_page": max(1, -(-total // size))}
        return envelope.ok([user.as_json() for user in users], meta=meta)

    @router.get("/{user_id}", summary="Read a user")
    async def get_user(user_id: str, principal: Reader) -> Response:
        guard.enter(principal, READ)
        return envelope.ok((await auth.get_user(principal.organization_id, _id(user_id))).as_json())

    @router.post("", summary="Create a user", status_code=201)
    async def create_user(body: NewUser, principal: Creator) -> Response:
        guard.enter(principal, CREATE)
        await guard.may_give_role(principal, rules.check_role(body.role))
        user = await auth.create_user(
            principal.organization_id, body.name, body.email, body.password.get_secret_value(), body.role
        )
        return envelope.ok(user.as_json(), status=201)

    @router.patch("/{user_id}", summary="Change a user's name, role, status or password")
    async def update_user(user_id: str, body: UserPatch, principal: Editor) -> Response:
        guard.enter(principal, UPDATE)
        target = await auth.get_user(principal.organization_id, _id(user_id))
        await guard.may_touch(principal, target)
        if body.role is not None and body.role != target.role:
            await guard.may_give_role(principal, rules.check_role(body.role), target)
        changes = UserChanges(
            name=body.name,
            role=body.role,
            status=body.status,
            password=body.password.get_secret_value() if body.password is not None else None,
            expected_role=target.role,
        )
        return envelope.ok((await auth.update_user(principal.organization_id, target.id, changes)).as_json())

    return router


class UserGuard:
    """Who may do what to whom. Whoever can set a password or a role could become that user, so to change a user one has
    to hold everything that the user holds, and to give a role everything that the role holds."""

    def __init__(self, permissions: PermissionService | None) -> None:
        self._permissions = permissions
        self._super_roles = permissions.super_roles if permissions is not None else frozenset({rules.OWNER})

    def enter(self, principal: Principal, capability: str) -> None:
        """Without a permission service there is no capability to ask for, and the gate let everybody pass.

        Raises:
            PermissionDenied: no permission service, and not an owner.
        """
        if self._permissions is None and principal.role not in self._super_roles:
            raise PermissionDenied(f'permission denied: missing capability "{capability}"')

    async def may_touch(self, principal: Principal, target: UserAccount) -> None:
        """Raises:
        PermissionDenied: the target is an owner and the caller is not, or holds something that the caller lacks.
        """
        if target.id == principal.user_id:
            return
        await self._covers(principal, target.id, target.role, "this user holds capabilities that you lack")

    async def may_give_role(self, principal: Principal, role: str, target: UserAccount | None = None) -> None:
        """Raises:
        PermissionDenied: only owners make owners; nobody gives a role that holds something they lack themselves.
        """
        user_id = target.id if target is not None else UserId(uuid4())
        await self._covers(principal, user_id, role, f'the role "{role}" holds capabilities that you lack')

    async def _covers(self, principal: Principal, user_id: UserId, role: str, reason: str) -> None:
        if principal.role in self._super_roles:
            return
        if role in self._super_roles:
            raise PermissionDenied(f"permission denied: only an {rules.OWNER} may do that to an {rules.OWNER}")
        if self._permissions is not None:
            theirs = await self._permissions.grants_of(principal.organization_id, user_id, role)
            mine = await self._permissions.held_by(principal)
            if not mine.cover(theirs.names):
                raise PermissionDenied(f"permission denied: {reason}")


def _id(text: str) -> UserId:
    return UserId(parse_uuid(text, "user id"))
