"""Login, refresh, logout and what ends a session, on PostgreSQL as the kernel's role and on SQLite."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
from collections.abc import AsyncIterator, Callable

import pytest
import sqlalchemy as sa
from tests.accounts import CONFIG, OLD_SECRET, SECRET, START, Clock, config
from tests.factories import PASSWORD

from metacore.auth.accounts import LoginResult, UserChanges
from metacore.auth.config import AuthConfig
from metacore.auth.passwords import Passwords
from metacore.auth.service import AuthService
from metacore.auth.sessions import purge_sessions
from metacore.db.database import Database
from metacore.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)
from metacore.ids import OrganizationId, UserId, new_uuid
from metacore.orm.tables import AuthSession, RefreshToken, User

EMAIL = "ada@example.com"
Make = Callable[..., AuthService]


@pytest.fixture(params=["postgresql", "sqlite"])
def db(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue("kernel_db" if request.param == "postgresql" else "sqlite_db")
    return found


@pytest.fixture
def admin_db(request: pytest.FixtureRequest, db: Database) -> Database:
    """The same database with the sight of all organizations."""
    return db if db.dialect == "sqlite" else request.getfixturevalue("owner_db")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(db: Database, clock: Clock) -> AsyncIterator[Make]:
    made: list[AuthService] = []

    def service(settings: AuthConfig = CONFIG) -> AuthService:
        made.append(AuthService(db, settings, now=clock))
        return made[-1]

    yield service
    for one in made:
        one.close()


@pytest.fixture
def auth(make: Make) -> AuthService:
    return make()


@pytest.fixture
async def ada(auth: AuthService) -> LoginResult:
    return await auth.register("Ada", EMAIL, PASSWORD)


async def code_of(auth: AuthService, token: str) -> str:
    assert auth.authenticate_cached(token) is None
    with pytest.raises(Unauthenticated) as refused:
        await auth.authenticate(token)
    return refused.value.code


async def refresh_code(auth: AuthService, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await auth.refresh(token)
    return refused.value.code


# --- registration and login


async def test_the_first_user_of_a_new_organization_is_its_owner(auth: AuthService) -> None:
    result = await auth.register(" Ada ", "Ada@Example.com", PASSWORD, organization_name="Analytical Engines")
    assert (result.user.name, result.user.email, result.user.role) == ("Ada", EMAIL, "owner")
    assert result.organization.name == "Analytical Engines"
    principal = await auth.authenticate(result.token)
    assert principal.organization_id == result.user.organization_id == result.organization.id
    assert principal.role == "owner"
    assert (await auth.me(principal)).id == result.user.id


async def test_an_organization_is_named_after_its_owner_unless_told_otherwise(ada: LoginResult) -> None:
    assert ada.organization.name == "Ada"


async def test_a_taken_email_is_a_conflict_and_leaves_no_organization_behind(
    auth: AuthService, ada: LoginResult, admin_db: Database
) -> None:
    with pytest.raises(Conflict):
        await auth.register("Eve", EMAIL.upper(), PASSWORD)
    async with admin_db.transaction(None) as connection:
        assert (await connection.execute(sa.text("SELECT count(*) FROM organizations"))).scalar_one() == 1


async def test_two_registrations_of_one_email_at_once_make_one_user(auth: AuthService) -> None:
    results = await asyncio.gather(*(auth.register("Ada", EMAIL, PASSWORD) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, LoginResult) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 3


async def test_registration_can_be_switched_off(make: Make) -> None:
    with pytest.raises(PermissionDenied, match="registration is switched off"):
        await make(config(registration=False)).register("Ada", EMAIL, PASSWORD)


@pytest.mark.parametrize(
    ("name", "email", "password"),
    [("", EMAIL, PASSWORD), ("Ada", "ada", PASSWORD), ("Ada", EMAIL, "short"), ("A\x00", EMAIL, PASSWORD)],
)
async def test_a_registration_that_breaks_a_rule_is_refused(
    auth: AuthService, name: str, email: str, password: str
) -> None:
    with pytest.raises(InvalidInput):
        await auth.register(name, email, password)


async def test_a_login_gives_a_session_of_its_own(auth: AuthService, ada: LoginResult) -> None:
    again = await auth.login(" ADA@example.com", PASSWORD)
    first, second = await auth.authenticate(ada.token), await auth.authenticate(again.token)
    assert first.user_id == second.user_id
    assert first.session_id != second.session_id
    assert again.user.last_login_at is not None
    assert again.expires_at == datetime.datetime.fromtimestamp(START + 86_400, datetime.UTC)


async def test_unknown_email_and_wrong_password_take_the_same_path_to_the_same_error(
    auth: AuthService, ada: LoginResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bool] = []
    genuine = Passwords.verify

    async def counting(self: Passwords, encoded: str | None, password: str) -> bool:
        verified.append(encoded is not None)
        return await genuine(self, encoded, password)

    monkeypatch.setattr(Passwords, "verify", counting)
    seen = []
    for email, password in [(EMAIL, "wrong password"), ("eve@example.com", PASSWORD), ("no email", PASSWORD)]:
        with pytest.raises(Unauthenticated) as refused:
            await auth.login(email, password)
        seen.append((refused.value.message, refused.value.code))
    assert set(seen) == {("wrong email or password", "wrong_credentials")}
    assert verified == [True, False, False]


@pytest.mark.parametrize("password", ["", "x" * 5000, "\ud800", "nul\x00"])
async def test_any_password_can_be_tried(auth: AuthService, ada: LoginResult, password: str) -> None:
    with pytest.raises(Unauthenticated):
        await auth.login(EMAIL, password)


async def test_a_disabled_user_cannot_log_in_and_only_who_knows_the_password_learns_why(
    auth: AuthService, ada: LoginResult
) -> None:
    grace = await auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD)
    await auth.set_status(ada.organization.id, grace.id, "disabled")
    with pytest.raises(Unauthenticated) as right:
        await auth.login("grace@example.com", PASSWORD)
    with pytest.raises(Unauthenticated) as wrong:
        await auth.login("grace@example.com", "wrong password")
    assert (right.value.code, wrong.value.code) == ("user_disabled", "wrong_credentials")


async def test_guesses_are_damped_for_one_address_and_not_for_another(make: Make, ada: LoginResult) -> None:
    auth = make(config(attempts=3))
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await auth.login(EMAIL, "wrong password", address="192.0.2.1")
    with pytest.raises(TooManyRequests) as refused:
        await auth.login(EMAIL, PASSWORD, address="192.0.2.1")
    assert refused.value.retry_after is not None
    assert (await auth.login(EMAIL, PASSWORD, address="198.51.100.7")).user.id == ada.user.id


async def test_a_burst_of_parallel_guesses_does_not_slip_through(make: Make, ada: LoginResult) -> None:
    auth = make(config(attempts=3))
    results = await asyncio.gather(
        *(auth.login(EMAIL, f"guess number {number}") for number in range(12)), return_exceptions=True
    )
    assert sum(isinstance(result, Unauthenticated) for result in results) == 3
    assert sum(isinstance(result, TooManyRequests) for result in results) == 9


async def test_unknown_emails_are_damped_like_known_ones(make: Make) -> None:
    auth = make(config(attempts=2))
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await auth.login("nobody@example.com", "wrong password")
    with pytest.raises(TooManyRequests):
        await auth.login("nobody@example.com", "wrong password")


async def test_a_login_stores_a_new_hash_when_the_parameters_changed(
    make: Make, ada: LoginResult, db: Database
) -> None:
    stronger = make(config(hash_time_cost=2))
    await stronger.login(EMAIL, PASSWORD)
    async with db.transaction(ada.organization.id) as connection:
        stored = (await connection.execute(sa.select(User.password_hash))).scalar_one()
    assert stored.startswith("$argon2id$v=19$m=8,t=2,p=1$")
    assert (await stronger.login(EMAIL, PASSWORD)).user.id == ada.user.id


# --- refresh


async def test_a_refresh_gives_a_new_pair_of_the_same_session(
    auth: AuthService, ada: LoginResult, clock: Clock
) -> None:
    clock.advance(60)
    fresh = await auth.refresh(ada.refresh_token)
    assert fresh.refresh_token != ada.refresh_token
    assert fresh.expires_at > ada.expires_at
    before, after = await auth.authenticate(ada.token), await auth.authenticate(fresh.token)
    assert before.session_id == after.session_id
    assert (await auth.refresh(fresh.refresh_token)).user.id == ada.user.id


async def test_only_the_hash_of_a_refresh_token_is_stored(ada: LoginResult, db: Database) -> None:
    async with db.transaction(ada.organization.id) as connection:
        rows = (await connection.execute(sa.select(RefreshToken))).all()
    assert len(rows) == 1
    assert hashlib.sha256(ada.refresh_token.encode()).hexdigest() in map(str, rows[0])
    assert ada.refresh_token not in str(rows)


async def test_reuse_of_a_spent_token_revokes_the_whole_family(
    auth: AuthService, ada: LoginResult, caplog: pytest.LogCaptureFixture
) -> None:
    other_session = await auth.login(EMAIL, PASSWORD)
    second = await auth.refresh(ada.refresh_token)
    third = await auth.refresh(second.refresh_token)
    with caplog.at_level(logging.WARNING):
        assert await refresh_code(auth, ada.refresh_token) == "refresh_token_reused"
    assert await refresh_code(auth, third.refresh_token) == "invalid_refresh_token"
    for result in (ada, second, third):
        assert await code_of(auth, result.token) == "token_revoked"
    assert (await auth.authenticate(other_session.token)).user_id == ada.user.id
    assert [record.message for record in caplog.records] == ["auth.refresh_reused"]
    assert ada.refresh_token not in caplog.text


async def test_of_parallel_uses_of_one_token_exactly_one_wins_and_the_family_is_revoked(
    auth: AuthService, ada: LoginResult
) -> None:
    results = await asyncio.gather(*(auth.refresh(ada.refresh_token) for _ in range(4)), return_exceptions=True)
    winners = [result for result in results if isinstance(result, LoginResult)]
    assert len(winners) == 1
    assert all(isinstance(result, LoginResult | Unauthenticated) for result in results)
    assert await code_of(auth, ada.token) == "token_revoked"
    for winner in winners:
        assert await refresh_code(auth, winner.refresh_token) == "invalid_refresh_token"
        assert await code_of(auth, winner.token) == "token_revoked"


async def test_unknown_and_malformed_refresh_tokens_are_refused(auth: AuthService, ada: LoginResult) -> None:
    for text in ("", "mcr_unknown", ada.token, ada.refresh_token[:-1], ada.refresh_token + "x", "mcr_\x00"):
        assert await refresh_code(auth, text) == "invalid_refresh_token"
    assert (await auth.refresh(ada.refresh_token)).user.id == ada.user.id


async def test_a_refresh_token_that_is_left_alone_expires(make: Make, ada: LoginResult, clock: Clock) -> None:
    clock.advance(CONFIG.refresh_token_ttl)
    assert await refresh_code(make(), ada.refresh_token) == "refresh_token_expired"


async def test_a_session_ends_however_often_it_is_refreshed(make: Make, clock: Clock) -> None:
    auth = make(config(session_ttl=100, refresh_token_ttl=80, access_token_ttl=1000))
    result = await auth.register("Ada", EMAIL, PASSWORD)
    clock.advance(60)
    result = await auth.refresh(result.refresh_token)
    assert result.expires_at.timestamp() == START + 100
    clock.advance(40)
    assert await refresh_code(auth, result.refresh_token) == "refresh_token_expired"
    assert await code_of(auth, result.token) == "token_expired"


# --- what ends tokens


async def test_logout_ends_the_session_and_no_other(auth: AuthService, ada: LoginResult) -> None:
    other = await auth.login(EMAIL, PASSWORD)
    principal = await auth.authenticate(ada.token)
    await auth.logout(principal)
    assert await code_of(auth, ada.token) == "token_revoked"
    assert await refresh_code(auth, ada.refresh_token) == "invalid_refresh_token"
    assert (await auth.authenticate(other.token)).user_id == ada.user.id
    await auth.logout(principal)


async def test_a_new_role_ends_access_tokens_and_a_refresh_brings_the_new_role(
    auth: AuthService, ada: LoginResult
) -> None:
    await auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD, "admin")
    grace = await auth.login("grace@example.com", PASSWORD)
    assert (await auth.authenticate(grace.token)).role == "admin"
    await auth.set_role(ada.organization.id, grace.user.id, "agent")
    assert await code_of(auth, grace.token) == "token_revoked"
    fresh = await auth.refresh(grace.refresh_token)
    assert (await auth.authenticate(fresh.token)).role == fresh.user.role == "agent"


async def test_a_disabled_user_is_out_at_once_and_enabling_brings_no_old_session_back(
    auth: AuthService, ada: LoginResult
) -> None:
    await auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD)
    grace = await auth.login("grace@example.com", PASSWORD)
    await auth.authenticate(grace.token)
    await auth.set_status(ada.organization.id, grace.user.id, "disabled")
    assert await code_of(auth, grace.token) == "user_disabled"
    assert await refresh_code(auth, grace.refresh_token) == "invalid_refresh_token"
    await auth.set_status(ada.organization.id, grace.user.id, "active")
    assert await code_of(auth, grace.token) == "token_revoked"
    assert await refresh_code(auth, grace.refresh_token) == "invalid_refresh_token"
    assert (await auth.login("grace@example.com", PASSWORD)).user.id == grace.user.id


async def test_a_new_password_ends_every_session_and_the_old_password(auth: AuthService, ada: LoginResult) -> None:
    await auth.set_password(ada.organization.id, ada.user.id, "another long password")
    assert await code_of(auth, ada.token) == "token_revoked"
    assert await refresh_code(auth, ada.refresh_token) == "invalid_refresh_token"
    with pytest.raises(Unauthenticated):
        await auth.login(EMAIL, PASSWORD)
    assert (await auth.login(EMAIL, "another long password")).user.id == ada.user.id


async def test_a_password_changed_while_a_login_runs_wins(
    auth: AuthService, ada: LoginResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Passwords.verify

    async def overtaken(self: Passwords, encoded: str | None, password: str) -> bool:
        matches = await genuine(self, encoded, password)
        await auth.set_password(ada.organization.id, ada.user.id, "another long password")
        return matches

    monkeypatch.setattr(Passwords, "verify", overtaken)
    with pytest.raises(Unauthenticated) as refused:
        await auth.login(EMAIL, PASSWORD)
    assert refused.value.code == "user_changed"


async def test_a_new_name_ends_nothing(auth: AuthService, ada: LoginResult) -> None:
    await auth.authenticate(ada.token)
    changed = await auth.update_user(ada.organization.id, ada.user.id, UserChanges(name="Augusta"))
    assert changed.name == "Augusta"
    assert auth.authenticate_cached(ada.token) is not None


async def test_what_does_not_change_ends_nothing(auth: AuthService, ada: LoginResult) -> None:
    await auth.authenticate(ada.token)
    await auth.update_user(ada.organization.id, ada.user.id, UserChanges(role="owner", status="active", name="Ada"))
    assert auth.authenticate_cached(ada.token) is not None


async def test_tokens_of_a_rotated_secret_hold_until_it_is_removed(make: Make) -> None:
    before = make(config(jwt_secrets=(OLD_SECRET,)))
    result = await before.register("Ada", EMAIL, PASSWORD)
    assert (await make(config(jwt_secrets=(SECRET, OLD_SECRET))).authenticate(result.token)).email == EMAIL
    assert await code_of(make(config(jwt_secrets=(SECRET,))), result.token) == "invalid_token"


async def test_a_token_of_another_issuer_with_the_same_secret_is_refused(make: Make, ada: LoginResult) -> None:
    assert await code_of(make(config(issuer="somebody else")), ada.token) == "invalid_token"


async def test_secrets_are_in_no_repr(auth: AuthService, ada: LoginResult) -> None:
    shown = repr(ada) + repr(auth.config) + repr(UserChanges(password=PASSWORD)) + repr(ada.as_json()["user"])
    for secret in (ada.token, ada.refresh_token, SECRET, PASSWORD, "argon2"):
        assert secret not in shown


async def test_subscribers_hear_whose_tokens_may_have_ended(auth: AuthService, ada: LoginResult) -> None:
    heard: list[UserId | None] = []
    auth.on_invalidate(heard.append)
    await auth.logout(await auth.authenticate(ada.token))
    auth.invalidate(None)
    assert heard == [ada.user.id, None]


# --- guards


async def test_the_last_owner_can_neither_be_demoted_nor_disabled(auth: AuthService, ada: LoginResult) -> None:
    await auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD, "admin")
    for changes in (UserChanges(role="agent"), UserChanges(status="disabled")):
        with pytest.raises(Conflict, match="last owner"):
            await auth.update_user(ada.organization.id, ada.user.id, changes)
    assert (await auth.authenticate(ada.token)).role == "owner"


async def test_a_disabled_owner_does_not_count(auth: AuthService, ada: LoginResult) -> None:
    second = await auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD, "owner")
    await auth.set_status(ada.organization.id, second.id, "disabled")
    with pytest.raises(Conflict, match="last owner"):
        await auth.set_role(ada.organization.id, ada.user.id, "agent")


async def test_two_owners_who_demote_each_other_at_once_leave_one(auth: AuthService, ada: LoginResult) -> None:
    second = await auth.create_user(ada.organization.id, "Grace", "grace@example.com", PASSWORD, "owner")
    results = await asyncio.gather(
        auth.set_role(ada.organization.id, ada.user.id, "agent"),
        auth.set_role(ada.organization.id, second.id, "agent"),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "UserAccount"]
    users, _ = await auth.list_users(ada.organization.id)
    assert sorted(user.role for user in users) == ["agent", "owner"]


async def test_a_decision_about_a_role_that_changed_meanwhile_is_not_carried_out(
    auth: AuthService, ada: LoginResult
) -> None:
    with pytest.raises(Conflict, match="changed meanwhile"):
        await auth.update_user(
            ada.organization.id, ada.user.id, UserChanges(password="another password", expected_role="agent")
        )
    assert (await auth.login(EMAIL, PASSWORD)).user.id == ada.user.id


async def test_users_of_another_organization_do_not_exist(auth: AuthService, ada: LoginResult) -> None:
    eve = await auth.register("Eve", "eve@example.com", PASSWORD)
    own = eve.organization.id
    for attempt in (
        auth.get_user(own, ada.user.id),
        auth.set_role(own, ada.user.id, "agent"),
        auth.set_password(own, ada.user.id, "another long password"),
    ):
        with pytest.raises(NotFound):
            await attempt
    users, total = await auth.list_users(own)
    assert ([user.email for user in users], total) == (["eve@example.com"], 1)
    assert (await auth.login(EMAIL, PASSWORD)).user.id == ada.user.id


async def test_a_user_needs_an_organization_and_a_free_email(auth: AuthService, ada: LoginResult) -> None:
    with pytest.raises(NotFound):
        await auth.create_user(OrganizationId(new_uuid()), "Grace", "grace@example.com", PASSWORD)
    other = await auth.create_organization("Other")
    with pytest.raises(Conflict):
        await auth.create_user(other.id, "Ada", EMAIL, PASSWORD)
    assert (await auth.get_organization(other.id)).name == "Other"


async def test_the_owner_purges_what_is_over_and_keeps_what_may_be_reused(
    auth: AuthService, ada: LoginResult, clock: Clock, admin_db: Database
) -> None:
    fresh = await auth.refresh(ada.refresh_token)
    await auth.logout(await auth.authenticate(fresh.token))
    now = datetime.datetime.fromtimestamp(clock.now, datetime.UTC)
    assert await purge_sessions(admin_db, now=now) == 0
    assert await purge_sessions(admin_db, now=now + datetime.timedelta(seconds=CONFIG.session_ttl)) == 3
    async with admin_db.transaction(None) as connection:
        for table in (AuthSession, RefreshToken):
            assert (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one() == 0
