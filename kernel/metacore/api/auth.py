"""`/auth`: login, registration, refresh, the caller's own account, logout (contract 2)."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, SecretStr
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.deps import authenticated
from metacore.api.route import KernelRoute
from metacore.auth.accounts import LoginResult
from metacore.auth.service import AuthService
from metacore.identity import Principal

NO_STORE = {"Cache-Control": "no-store"}
"""For replies that hold tokens (RFC 6749, 5.1)."""


class LoginBody(BaseModel):
    email: str = Field(examples=["ada@example.com"])
    password: SecretStr


class RefreshBody(BaseModel):
    refresh_token: SecretStr


class RegisterBody(BaseModel):
    name: str = Field(examples=["Ada Lovelace"])
    email: str = Field(examples=["ada@example.com"])
    password: SecretStr = Field(description="10 to 1024 characters")
    organization_name: str | None = Field(default=None, description="Default: the name")


def build_auth_router(auth: AuthService) -> APIRouter:
    router = APIRouter(prefix="/auth", route_class=KernelRoute, tags=["auth"])
    Caller = Annotated[Principal, Depends(authenticated(auth))]  # noqa: N806 - a type.

    @router.post("/login", summary="Log in")
    async def login(body: LoginBody, request: Request) -> Response:
        address = request.client.host if request.client else ""
        return _session(await auth.login(body.email, body.password.get_secret_value(), address=address))

    @router.post("/refresh", summary="Exchange a refresh token for a new pair; it is spent by that")
    async def refresh(body: RefreshBody) -> Response:
        return _session(await auth.refresh(body.refresh_token.get_secret_value()))

    @router.post("/register", summary="Create an organization and its owner", status_code=201)
    async def register(body: RegisterBody) -> Response:
        result = await auth.register(
            body.name, body.email, body.password.get_secret_value(), organization_name=body.organization_name
        )
        return _session(result, status=201)

    @router.get("/me", summary="Your account")
    async def me(principal: Caller) -> Response:
        return envelope.ok({"user": (await auth.me(principal)).as_json()})

    @router.post("/logout", summary="End this session, its access tokens included")
    async def logout(principal: Caller) -> Response:
        await auth.logout(principal)
        return envelope.ok(None)

    return router


def _session(result: LoginResult, *, status: int = 200) -> Response:
    data: dict[str, Any] = result.as_json()
    return envelope.ok(data, status=status, headers=NO_STORE)
