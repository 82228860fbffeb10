"""Who is asking, for routes: FastAPI dependencies that give the verified caller."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache

from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from metacore.auth.service import AuthService
from metacore.errors import Unauthenticated
from metacore.identity import Principal

PrincipalDependency = Callable[..., Awaitable[Principal]]
OptionalPrincipalDependency = Callable[..., Awaitable[Principal | None]]

AUTHENTICATION_NEEDED = "authentication needed: send Authorization: Bearer <token>"
MAX_ACCEPT_LANGUAGE = 256
MAX_LANGUAGES = 16
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,4}")


class _Bearer(SecurityBase):
    """FastAPI takes an instance for a security scheme, so /docs shows which routes want a token. Two instances for one
    service are equal, so a request that meets both is authenticated once."""

    def __init__(self, auth: AuthService) -> None:
        self.auth = auth
        self.model = HTTPBearer(bearerFormat="JWT")
        self.scheme_name = "HTTPBearer"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Bearer) and other.auth is self.auth

    def __hash__(self) -> int:
        return hash((type(self), id(self.auth)))

    async def caller(self, request: Request) -> Principal | None:
        """None without an Authorization header of the scheme Bearer.

        Raises:
            Unauthenticated: a token that does not hold.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        principal = self.auth.authenticate_cached(token) or await self.auth.authenticate(token)
        accepted = request.headers.get("accept-language")
        return with_locale(principal, accepted) if accepted else principal


class _Required(_Bearer):
    async def __call__(self, request: Request) -> Principal:
        principal = await self.caller(request)
        if principal is None:
            raise Unauthenticated(AUTHENTICATION_NEEDED)
        return principal


class _Optional(_Bearer):
    async def __call__(self, request: Request) -> Principal | None:
        return await self.caller(request)


def authenticated(auth: AuthService) -> PrincipalDependency:
    """A dependency that gives the caller and refuses with 401 who has no valid token."""
    return _Required(auth)


def optional_principal(auth: AuthService) -> OptionalPrincipalDependency:
    """A dependency that gives the caller, or None without a token; a token that does not hold is still a 401."""
    return _Optional(auth)


def with_locale(principal: Principal, accept_language: str) -> Principal:
    """The same caller, with the language that the Accept-Language header likes best."""
    locale = preferred_locale(accept_language)
    return replace(principal, locale=locale) if locale != principal.locale else principal


@lru_cache(maxsize=512)
def preferred_locale(accept_language: str) -> str:
    """The language tag with the highest weight, the first of equals; '' when none is named (RFC 9110, 12.5.4)."""
    best, best_weight = "", 0.0
    for part in accept_language[:MAX_ACCEPT_LANGUAGE].split(",")[:MAX_LANGUAGES]:
        tag, _, parameter = part.strip().partition(";")
        tag = tag.strip()
        if _LANGUAGE_TAG.fullmatch(tag) is None:
            continue
        weight = _weight(parameter)
        if weight > best_weight:
            best, best_weight = tag, weight
    return best


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0
