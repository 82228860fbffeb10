"""Access tokens (JWT, HS256) and refresh tokens (opaque): making and reading them. No I/O."""

from __future__ import annotations

import datetime
import hashlib
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from metacore.errors import Unauthenticated
from metacore.ids import OrganizationId, SessionId, UserId

ALGORITHM: Final = "HS256"
REQUIRED_CLAIMS: Final = ("sub", "org", "sid", "epoch", "iat", "exp", "jti", "iss")
MAX_TOKEN_LENGTH = 4096
REFRESH_PREFIX: Final = "mcr_"
"""Makes a leaked refresh token recognisable to secret scanners."""
REFRESH_BYTES = 32
MAX_REFRESH_LENGTH = 128


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a verified access token says. `expires_at` is in Unix seconds. Role and email in a token are not read:
    they come from the database."""

    user_id: UserId
    organization_id: OrganizationId
    session_id: SessionId
    epoch: int
    expires_at: float


class AccessTokens:
    """Signs with the first secret, verifies with each, so that one can be rotated. `ttl` in seconds."""

    def __init__(
        self, secret_list: Sequence[str], issuer: str, ttl: float, *, now: Callable[[], float] = time.time
    ) -> None:
        self._secrets = tuple(secret_list)
        self._issuer = issuer
        self._ttl = ttl
        self._now = now

    def issue(
        self,
        *,
        user_id: uuid.UUID,
        organization_id: uuid.UUID,
        email: str,
        role: str,
        session_id: uuid.UUID,
        epoch: int,
        not_after: datetime.datetime,
    ) -> tuple[str, datetime.datetime]:
        """A token and its end: the configured life, but never beyond `not_after`, the end of the session."""
        issued = int(self._now())
        expires = min(issued + int(self._ttl), int(not_after.timestamp()))
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": str(user_id),
            "org": str(organization_id),
            "email": email,
            "role": role,
            "iat": issued,
            "exp": expires,
            "jti": str(uuid.uuid4()),
            "sid": str(session_id),
            "epoch": epoch,
        }
        token = jwt.encode(claims, self._secrets[0], algorithm=ALGORITHM)
        return token, datetime.datetime.fromtimestamp(expires, datetime.UTC)

    def verify(self, token: str) -> AccessClaims:
        """What `token` says, after checking signature, algorithm, issuer, shape and expiry.

        Raises:
            Unauthenticated: with code `token_expired` when that is all that is wrong, else `invalid_token`.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise _invalid()
        for secret in self._secrets:
            try:
                raw = jwt.decode(
                    token,
                    secret,
                    algorithms=[ALGORITHM],
                    issuer=self._issuer,
                    # Expiry is checked below, by the clock that also checks cached tokens.
                    options={"require": list(REQUIRED_CLAIMS), "verify_exp": False, "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                continue
            # A header of a thousand nested brackets is a RecursionError of the JSON reader.
            except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
                raise _invalid() from error
            claims = _read(raw)
            if claims.expires_at <= self._now():
                raise expired()
            return claims
        raise _invalid()


def new_refresh_token() -> str:
    """256 random bits; only its hash is stored."""
    return REFRESH_PREFIX + secrets.token_urlsafe(REFRESH_BYTES)


def hash_refresh_token(token: str) -> str:
    """The hex SHA-256 under which a refresh token is stored. No salt and no stretching: the token is random.

    Raises:
        Unauthenticated: nothing that `new_refresh_token` could have made.
    """
    if not token.startswith(REFRESH_PREFIX) or len(token) > MAX_REFRESH_LENGTH or not token.isascii():
        raise Unauthenticated("invalid refresh token", code="invalid_refresh_token")
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def expired() -> Unauthenticated:
    return Unauthenticated("the token has expired", code="token_expired")


def _read(raw: dict[str, Any]) -> AccessClaims:
    try:
        user_id, organization_id, session_id = (uuid.UUID(raw[name]) for name in ("sub", "org", "sid"))
    except (ValueError, TypeError, AttributeError) as error:
        raise _invalid() from error
    epoch, expires = raw["epoch"], raw["exp"]
    if type(epoch) is not int or type(expires) is not int:
        raise _invalid()
    return AccessClaims(UserId(user_id), OrganizationId(organization_id), SessionId(session_id), epoch, float(expires))


def _invalid() -> Unauthenticated:
    return Unauthenticated("invalid token", code="invalid_token")
