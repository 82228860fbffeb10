"""Access tokens: only what this kernel signed, with this algorithm, for this issuer, and not yet over."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import uuid
from typing import Any

import jwt
import pytest
from tests.accounts import OLD_SECRET, SECRET, START, Clock, config

from metacore.auth.config import AuthConfig
from metacore.auth.tokens import AccessTokens, hash_refresh_token, new_refresh_token
from metacore.errors import Misconfigured, Unauthenticated
from metacore.settings import Settings

USER, ORGANIZATION, SESSION = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
FAR = datetime.datetime.fromtimestamp(START + 10 * 86_400, datetime.UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> AccessTokens:
    return AccessTokens((SECRET,), "metacore", 3600, now=clock)


def issue(tokens: AccessTokens, not_after: datetime.datetime = FAR) -> tuple[str, datetime.datetime]:
    return tokens.issue(
        user_id=USER,
        organization_id=ORGANIZATION,
        email="ada@example.com",
        role="owner",
        session_id=SESSION,
        epoch=3,
        not_after=not_after,
    )


def claims(**changes: Any) -> dict[str, Any]:
    full: dict[str, Any] = {
        "iss": "metacore",
        "sub": str(USER),
        "org": str(ORGANIZATION),
        "email": "ada@example.com",
        "role": "owner",
        "iat": int(START),
        "exp": int(START) + 3600,
        "jti": str(uuid.uuid4()),
        "sid": str(SESSION),
        "epoch": 3,
    }
    return {key: value for key, value in {**full, **changes}.items() if value is not None}


def signed(payload: dict[str, Any], secret: str = SECRET, header: dict[str, Any] | None = None) -> str:
    """A correctly HMAC-signed token whose header may claim anything."""

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    text = part(header or {"alg": "HS256", "typ": "JWT"}) + b"." + part(payload)
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


def refusal(tokens: AccessTokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        tokens.verify(token)
    return refused.value.code


def test_an_issued_token_carries_the_claims_of_the_contract(tokens: AccessTokens) -> None:
    token, expires_at = issue(tokens)
    payload = jwt.decode(
        token, SECRET, algorithms=["HS256"], issuer="metacore", options={"verify_exp": False, "verify_iat": False}
    )
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    assert set(payload) == {"sub", "org", "email", "role", "iat", "exp", "jti", "iss", "sid", "epoch"}
    assert (payload["sub"], payload["org"], payload["role"]) == (str(USER), str(ORGANIZATION), "owner")
    assert payload["exp"] - payload["iat"] == 3600
    assert expires_at.timestamp() == payload["exp"]


def test_a_token_never_outlives_its_session(tokens: AccessTokens) -> None:
    end = datetime.datetime.fromtimestamp(START + 60, datetime.UTC)
    assert issue(tokens, not_after=end)[1] == end


def test_a_token_is_read_back(tokens: AccessTokens) -> None:
    read = tokens.verify(issue(tokens)[0])
    assert (read.user_id, read.organization_id, read.session_id, read.epoch) == (USER, ORGANIZATION, SESSION, 3)
    assert read.expires_at == START + 3600


def test_the_hand_made_token_of_these_tests_is_a_good_one(tokens: AccessTokens) -> None:
    assert tokens.verify(signed(claims())).user_id == USER


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS384", "HS512", "RS256", "hs256"])
def test_other_algorithms_are_refused_even_when_the_signature_fits(tokens: AccessTokens, algorithm: str) -> None:
    assert refusal(tokens, signed(claims(), header={"alg": algorithm, "typ": "JWT"})) == "invalid_token"


def test_an_unsigned_token_is_refused(tokens: AccessTokens) -> None:
    head, payload, _ = signed(claims(), header={"alg": "none"}).split(".")
    assert refusal(tokens, f"{head}.{payload}.") == "invalid_token"
    assert refusal(tokens, jwt.encode(claims(), None, algorithm="none")) == "invalid_token"


def test_another_secret_is_refused(tokens: AccessTokens) -> None:
    assert refusal(tokens, signed(claims(), OLD_SECRET)) == "invalid_token"


def test_every_changed_byte_of_the_payload_breaks_the_signature(tokens: AccessTokens) -> None:
    head, _, signature = signed(claims()).split(".")
    _, forged, _ = signed(claims(sub=str(uuid.uuid4()))).split(".")
    assert refusal(tokens, f"{head}.{forged}.{signature}") == "invalid_token"


@pytest.mark.parametrize("issuer", ["other", "METACORE", "", ["metacore"]])
def test_another_issuer_is_refused(tokens: AccessTokens, issuer: object) -> None:
    assert refusal(tokens, signed(claims(iss=issuer))) == "invalid_token"


@pytest.mark.parametrize("name", ["iss", "sub", "org", "iat", "exp", "jti", "sid", "epoch"])
def test_a_missing_claim_is_refused(tokens: AccessTokens, name: str) -> None:
    assert refusal(tokens, signed(claims(**{name: None}))) == "invalid_token"


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "ada"},
        {"sub": 7},
        {"org": "00000000"},
        {"sid": ["x"]},
        {"epoch": "3"},
        {"epoch": True},
        {"exp": "tomorrow"},
        {"exp": 1e400},
        {"exp": float("nan")},
        {"exp": True},
        {"aud": "somebody else"},
        {"nbf": int(START) + 10**9},
    ],
)
def test_a_claim_of_the_wrong_kind_is_refused(tokens: AccessTokens, changes: dict[str, Any]) -> None:
    assert refusal(tokens, signed(claims(**changes))) == "invalid_token"


def test_expiry_is_exact_and_says_so(tokens: AccessTokens, clock: Clock) -> None:
    token = issue(tokens)[0]
    clock.advance(3599)
    tokens.verify(token)
    clock.advance(1)
    assert refusal(tokens, token) == "token_expired"


def test_an_expired_token_of_somebody_else_is_only_invalid(tokens: AccessTokens, clock: Clock) -> None:
    token = signed(claims(), OLD_SECRET)
    clock.advance(7200)
    assert refusal(tokens, token) == "invalid_token"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "ünïcödé",
        "\x00",
        "e30.e30.e30",
        "[" * 1000,
        base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg":' + b"[" * 2900).decode() + ".e30.e30",
        "x" * 5000,
        "W10.W10.W10",
        "bnVsbA.bnVsbA.bnVsbA",
    ],
)
def test_garbage_is_refused_and_never_crashes(tokens: AccessTokens, token: str) -> None:
    assert refusal(tokens, token) == "invalid_token"


def test_a_rotated_secret_still_verifies_until_it_is_removed(clock: Clock) -> None:
    before = AccessTokens((OLD_SECRET,), "metacore", 3600, now=clock)
    during = AccessTokens((SECRET, OLD_SECRET), "metacore", 3600, now=clock)
    after = AccessTokens((SECRET,), "metacore", 3600, now=clock)
    old, new = issue(before)[0], issue(during)[0]
    assert during.verify(old).user_id == during.verify(new).user_id == USER
    assert after.verify(new).user_id == USER
    assert refusal(before, new) == "invalid_token"
    assert refusal(after, old) == "invalid_token"


def test_refresh_tokens_are_random_and_stored_as_sha256() -> None:
    token = new_refresh_token()
    assert token.startswith("mcr_")
    assert len(token) >= 40
    assert new_refresh_token() != token
    assert hash_refresh_token(token) == hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize("text", ["", "mcr", "eyJhbGciOiJIUzI1NiJ9", "mcr_" + "x" * 500, "mcr_ü", "mcr_\ud800"])
def test_what_cannot_be_a_refresh_token_is_refused_without_asking_the_database(text: str) -> None:
    with pytest.raises(Unauthenticated):
        hash_refresh_token(text)


def test_a_service_without_a_proper_secret_does_not_start() -> None:
    with pytest.raises(Misconfigured, match="METACORE_JWT_SECRETS"):
        config(jwt_secrets=())
    with pytest.raises(Misconfigured, match="32 bytes") as refused:
        config(jwt_secrets=(SECRET, "short secret"))
    assert "short secret" not in str(refused.value)


def test_settings_become_a_configuration_and_secrets_stay_out_of_its_repr() -> None:
    made = AuthConfig.from_settings(
        Settings.model_validate(
            {"jwt_secrets": f"{SECRET},{OLD_SECRET}", "access_token_ttl": 60, "registration": False}
        )
    )
    assert made.jwt_secrets == (SECRET, OLD_SECRET)
    assert (made.access_token_ttl, made.registration) == (60, False)
    assert SECRET not in repr(made)
    assert OLD_SECRET not in repr(made)
