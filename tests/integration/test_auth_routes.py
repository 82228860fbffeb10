"""`/auth` over HTTP, as a client meets it."""

import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import jwt
import pytest
from fastapi import APIRouter, Depends
from starlette.responses import Response
from tests.accounts import CONFIG, SECRET, bearer, config, serving
from tests.factories import PASSWORD

from metacore.api import envelope
from metacore.api.auth import build_auth_router
from metacore.api.deps import authenticated, optional_principal
from metacore.api.route import KernelRoute
from metacore.auth.service import AuthService
from metacore.db.database import Database
from metacore.identity import Principal

ADA = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD, "organization_name": "Engines"}
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def who_router(auth: AuthService) -> APIRouter:
    """A host's own routes that ask who is calling."""
    router = APIRouter(route_class=KernelRoute)

    @router.get("/who")
    async def who(caller: Annotated[Principal, Depends(authenticated(auth))]) -> Response:
        return envelope.ok({"email": caller.email, "locale": caller.locale})

    @router.get("/perhaps")
    async def perhaps(caller: Annotated[Principal | None, Depends(optional_principal(auth))]) -> Response:
        return envelope.ok(caller.email if caller else None)

    return router


@pytest.fixture
async def auth(kernel_db: Database) -> AsyncIterator[AuthService]:
    service = AuthService(kernel_db, CONFIG)
    yield service
    service.close()


@pytest.fixture
async def client(auth: AuthService) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(build_auth_router(auth), who_router(auth)) as made:
        yield made


async def registered(client: httpx2.AsyncClient) -> dict[str, Any]:
    reply = await client.post("/auth/register", json=ADA)
    assert reply.status_code == 201, reply.text
    data: dict[str, Any] = reply.json()["data"]
    return data


async def test_registration_answers_like_a_login(client: httpx2.AsyncClient) -> None:
    reply = await client.post("/auth/register", json=ADA)
    assert reply.status_code == 201
    body = reply.json()
    assert body["success"] is True
    assert set(body["data"]) == {"user", "organization", "token", "expires_at", "refresh_token"}
    assert body["data"]["organization"] == {"id": body["data"]["user"]["organization_id"], "name": "Engines"}
    assert body["data"]["user"]["role"] == "owner"
    assert RFC_3339.fullmatch(body["data"]["expires_at"])
    assert RFC_3339.fullmatch(body["data"]["user"]["created_at"])
    assert reply.headers["cache-control"] == "no-store"


async def test_a_login_answers_exactly_what_the_contract_says_and_never_a_hash(client: httpx2.AsyncClient) -> None:
    await registered(client)
    reply = await client.post("/auth/login", json={"email": "Ada@Example.com", "password": PASSWORD, "remember": True})
    assert reply.status_code == 200
    data = reply.json()["data"]
    assert set(data) == {"user", "organization", "token", "expires_at", "refresh_token"}
    assert set(data["user"]) == {
        "id",
        "organization_id",
        "name",
        "email",
        "role",
        "status",
        "created_at",
        "updated_at",
        "last_login_at",
    }
    assert "argon2" not in reply.text
    claims = jwt.decode(data["token"], SECRET, algorithms=["HS256"], issuer="metacore")
    assert (claims["sub"], claims["org"], claims["email"]) == (
        data["user"]["id"],
        data["user"]["organization_id"],
        "ada@example.com",
    )


async def test_wrong_email_and_wrong_password_get_the_same_bytes(client: httpx2.AsyncClient) -> None:
    await registered(client)
    wrong_password = await client.post("/auth/login", json={"email": "ada@example.com", "password": "not this one"})
    wrong_email = await client.post("/auth/login", json={"email": "eve@example.com", "password": PASSWORD})
    no_email = await client.post("/auth/login", json={"email": "\x00", "password": PASSWORD})
    assert wrong_password.status_code == wrong_email.status_code == no_email.status_code == 401
    assert wrong_password.content == wrong_email.content == no_email.content
    assert wrong_password.json() == {
        "success": False,
        "message": "wrong email or password",
        "code": "wrong_credentials",
    }


async def test_a_taken_email_is_409(client: httpx2.AsyncClient) -> None:
    await registered(client)
    reply = await client.post("/auth/register", json=ADA)
    assert (reply.status_code, reply.json()["success"]) == (409, False)


async def test_a_broken_rule_is_400_with_the_field(client: httpx2.AsyncClient) -> None:
    reply = await client.post("/auth/register", json={**ADA, "password": "short"})
    assert reply.status_code == 400
    assert reply.json()["errors"] == [
        {"field": "password", "code": "password_too_short", "message": "a password needs at least 10 characters"}
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"email": 7, "password": true}', b'{"email": "a@b"}', b'\xff\xfe{"email": "a"}'],
)
async def test_a_body_of_the_wrong_shape_is_400_and_never_a_traceback(
    client: httpx2.AsyncClient, content: bytes
) -> None:
    reply = await client.post("/auth/login", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["success"] is False


async def test_registration_switched_off_is_403(kernel_db: Database) -> None:
    auth = AuthService(kernel_db, config(registration=False))
    try:
        async with serving(build_auth_router(auth)) as client:
            reply = await client.post("/auth/register", json=ADA)
    finally:
        auth.close()
    assert reply.status_code == 403
    assert "switched off" in reply.json()["message"]


async def test_a_refresh_token_works_once(client: httpx2.AsyncClient) -> None:
    first = await registered(client)
    second = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert second.status_code == 200
    assert second.json()["data"]["refresh_token"] != first["refresh_token"]
    again = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert (again.status_code, again.json()["code"]) == (401, "refresh_token_reused")
    token = second.json()["data"]["token"]
    assert (await client.get("/auth/me", headers=bearer(token))).status_code == 401


async def test_me_is_the_callers_account(client: httpx2.AsyncClient) -> None:
    data = await registered(client)
    reply = await client.get("/auth/me", headers=bearer(data["token"]))
    assert reply.status_code == 200
    assert set(reply.json()["data"]) == {"user"}
    assert reply.json()["data"]["user"]["email"] == "ada@example.com"


async def test_logout_ends_the_token(client: httpx2.AsyncClient) -> None:
    data = await registered(client)
    assert (await client.post("/auth/logout", headers=bearer(data["token"]))).json()["success"] is True
    reply = await client.get("/auth/me", headers=bearer(data["token"]))
    assert (reply.status_code, reply.json()["code"]) == (401, "token_revoked")
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YWRhOnB3", "bearer not.a.token", "Bearer \xff\xfe", "Bearer a b", "Token x"],
)
async def test_no_or_bad_tokens_are_401(client: httpx2.AsyncClient, header: str) -> None:
    reply = await client.get("/auth/me", headers={b"Authorization": header.encode("latin-1")})
    assert reply.status_code == 401
    assert reply.json()["success"] is False


async def test_the_scheme_is_case_insensitive(client: httpx2.AsyncClient) -> None:
    data = await registered(client)
    assert (await client.get("/who", headers={"Authorization": f"bEARER  {data['token']}"})).status_code == 200


async def test_the_callers_language_is_the_best_liked_one(client: httpx2.AsyncClient) -> None:
    token = (await registered(client))["token"]
    liked = await client.get("/who", headers=bearer(token, **{"Accept-Language": "en;q=0.4, de-AT"}))
    again = await client.get("/who", headers=bearer(token))
    assert (liked.json()["data"]["locale"], again.json()["data"]["locale"]) == ("de-AT", "")


async def test_where_a_token_is_optional_a_bad_one_is_still_refused(client: httpx2.AsyncClient) -> None:
    token = (await registered(client))["token"]
    assert (await client.get("/perhaps")).json()["data"] is None
    assert (await client.get("/perhaps", headers=bearer(token))).json()["data"] == "ada@example.com"
    assert (await client.get("/perhaps", headers=bearer(token + "x"))).status_code == 401


async def test_too_many_failures_are_429_and_say_when_to_return(kernel_db: Database) -> None:
    auth = AuthService(kernel_db, config(attempts=2))
    body = {"email": "ada@example.com", "password": "wrong password"}
    try:
        async with serving(build_auth_router(auth)) as client:
            statuses = [(await client.post("/auth/login", json=body)).status_code for _ in range(2)]
            reply = await client.post("/auth/login", json=body)
    finally:
        auth.close()
    assert statuses == [401, 401]
    assert reply.status_code == 429
    assert 1 <= int(reply.headers["retry-after"]) <= 300


async def test_openapi_offers_a_login_for_the_routes_that_need_one(client: httpx2.AsyncClient) -> None:
    document = (await client.get("http://test/openapi.json")).json()
    assert document["components"]["securitySchemes"] == {
        "HTTPBearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    assert document["paths"]["/api/auth/me"]["get"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in document["paths"]["/api/auth/login"]["post"]


async def test_no_secret_is_logged(client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        data = await registered(client)
        await client.post("/auth/login", json={"email": "ada@example.com", "password": "a wrong password"})
        for _ in range(2):
            await client.post("/auth/refresh", json={"refresh_token": data["refresh_token"]})
        await client.get("/auth/me", headers=bearer(data["token"]))
    written = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "auth.registered" in written
    assert "auth.refresh_reused" in written
    for secret in (PASSWORD, "a wrong password", data["token"], data["refresh_token"], SECRET, "$argon2id"):
        assert secret not in written
