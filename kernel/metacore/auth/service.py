"""Who the caller is: login, registration, refresh, logout, and the check of every request's token."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from metacore.auth import lookups, rules
from metacore.auth.accounts import LoginResult, OrganizationAccount, UserAccount, UserChanges
from metacore.auth.attempts import AttemptLimiter
from metacore.auth.config import AuthConfig as AuthConfig
from metacore.auth.passwords import Passwords
from metacore.auth.sessions import SessionStore
from metacore.auth.token_cache import TokenCache
from metacore.auth.tokens import AccessTokens, hash_refresh_token, new_refresh_token
from metacore.auth.users import UserStore
from metacore.db import channels
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import InvalidInput, PermissionDenied, TooManyRequests, Unauthenticated
from metacore.identity import Principal
from metacore.ids import OrganizationId, SessionId, UserId, parse_uuid
from metacore.logs import get_logger
from metacore.orm.epochs import EpochWatch

log = get_logger("metacore.auth")


class AuthService:
    """Framework-free; one per process and database. End it with `close`.

    With a `listener`, changes made in other processes reach this one by NOTIFY; the heartbeat's `refresh_epoch` catches
    what NOTIFY lost. Without either, `config.state_ttl` bounds how long a stale state is believed. `now` gives Unix
    seconds.
    """

    def __init__(
        self,
        db: Database,
        config: AuthConfig,
        listener: Listener | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self._db = db
        self._now = now
        self._users = UserStore(db)
        self._sessions = SessionStore(db)
        self._passwords = Passwords(config)
        self._attempts = AttemptLimiter(config.attempts, config.attempts_window)
        self._tokens = AccessTokens(config.jwt_secrets, config.issuer, config.access_token_ttl, now=now)
        self._cache = TokenCache(
            self._tokens.verify, self._sessions.facts, ttl=config.state_ttl, size=config.max_cached_tokens, now=now
        )
        self._epoch = EpochWatch()
        self._invalidated: list[Callable[[UserId | None], None]] = []
        self._listening = listener is not None
        if listener is not None:
            listener.subscribe(channels.AUTH, self._heard)
            listener.on_reconnect(lambda: self.invalidate(None))

    # --- the check of a request

    def authenticate_cached(self, token: str) -> Principal | None:
        """The caller, without waiting for anything. None decides nothing: ask `authenticate`."""
        return self._cache.peek(token)

    async def authenticate(self, token: str) -> Principal:
        """The caller that `token` stands for; role and state are the database's, not the token's.

        Raises:
            Unauthenticated: forged, expired, revoked, or of a disabled user; `code` says which.
        """
        return await self._cache.resolve(token)

    def invalidate(self, user_id: UserId | None) -> None:
        """Believe nothing any more about this user's tokens in this process; None means all users."""
        self._cache.invalidate(user_id)
        for callback in self._invalidated:
            callback(user_id)

    def on_invalidate(self, callback: Callable[[UserId | None], None]) -> None:
        """Call `callback` whenever tokens of a user (None: of anybody) may have ended, here or in another process."""
        self._invalidated.append(callback)

    def refresh_epoch(self, value: int) -> None:
        """Compare the counter `auth` of `metacore_epochs`, read by the heartbeat, with what was heard."""
        if self._epoch.missed(value):
            self.invalidate(None)

    # --- sessions

    async def login(self, email: str, password: str, *, address: str = "") -> LoginResult:
        """A new session. `address` is the client's, for the damping of guesses.

        Unknown email and wrong password give the same error after the same work.

        Raises:
            Unauthenticated: `wrong_credentials`, or `user_disabled` when the password was right.
            TooManyRequests: too many failures for this email from this address, or too many logins at once.
        """
        try:
            email = rules.normalize_email(email)
            known = True
        except InvalidInput:
            email, known = email[: rules.MAX_EMAIL], False
        self._attempts.begin(email, address)
        try:
            found = await lookups.find_credentials(self._db, email) if known else None
            matches = await self._passwords.verify(found.password_hash if found else None, password)
        except Exception:
            self._attempts.forgive(email, address)
            raise
        if found is None or not matches:
            raise Unauthenticated("wrong email or password", code="wrong_credentials")
        self._attempts.succeeded(email, address)
        if found.status != rules.ACTIVE:
            raise Unauthenticated("this user is disabled", code="user_disabled")
        result = await self._start_session(found)
        if self._passwords.needs_rehash(found.password_hash):
            await self._rehash(found, password)
        return result

    async def register(self, name: str, email: str, password: str, organization_name: str | None = None) -> LoginResult:
        """A new organization (named after its owner unless told otherwise), its owner, and a session.

        Raises:
            PermissionDenied: registration is switched off.
            InvalidInput: a name, email or password that breaks a rule.
            Conflict: the email is taken.
            TooManyRequests: too many logins at once.
        """
        if not self.config.registration:
            raise PermissionDenied("registration is switched off: ask an owner for an account", code="registration_off")
        name = rules.check_name(name)
        email = rules.normalize_email(email)
        organization = rules.check_name(organization_name or name, "organization_name")
        hashed = await self._passwords.hash(rules.check_password(password))
        _, user = await self._users.register(organization, name=name, email=email, password_hash=hashed)
        log.info("auth.registered", organization=str(user.organization_id), user=str(user.id))
        credentials = lookups.Credentials(user.id, user.organization_id, hashed, user.status, 0)
        return await self._start_session(credentials)

    async def refresh(self, refresh_token: str) -> LoginResult:
        """A new pair for a refresh token, which is spent by that.

        Raises:
            Unauthenticated: unknown, expired or revoked; `refresh_token_reused` when it was spent before, and then its
                whole family is revoked, access tokens included.
        """
        found = await lookups.find_refresh_token(self._db, hash_refresh_token(refresh_token))
        now = self._instant()
        if found is None or found.session_revoked_at is not None:
            raise _refresh_refused()
        if found.expires_at <= now or found.session_expires_at <= now:
            raise Unauthenticated("the refresh token has expired: log in again", code="refresh_token_expired")
        successor = new_refresh_token()
        rotated = await self._sessions.rotate(
            found,
            token_hash=hash_refresh_token(successor),
            now=now,
            token_expires_at=min(self._in(self.config.refresh_token_ttl), found.session_expires_at),
        )
        if not rotated:
            self._changed(found.user_id)
            log.warning("auth.refresh_reused", user=str(found.user_id), session=str(found.session_id))
            raise Unauthenticated(
                "this refresh token was used before: the session is revoked, log in again", code="refresh_token_reused"
            )
        return await self._result(
            found.organization_id, found.user_id, found.session_id, found.session_expires_at, successor
        )

    async def logout(self, principal: Principal) -> None:
        """End the session: its refresh tokens and access tokens work nowhere any more. Doing it twice is fine."""
        if principal.session_id is not None and await self._sessions.revoke(
            principal.organization_id, principal.user_id, principal.session_id, now=self._instant()
        ):
            self._changed(principal.user_id)

    async def me(self, principal: Principal) -> UserAccount:
        """The caller's own account.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        return await self._users.get_user(principal.organization_id, principal.user_id)

    # --- accounts

    async def create_organization(self, name: str) -> OrganizationAccount:
        """Raises:
        InvalidInput: a name that breaks a rule.
        """
        return await self._users.create_organization(rules.check_name(name))

    async def get_organization(self, organization_id: OrganizationId) -> OrganizationAccount:
        """Raises:
        NotFound: no such organization.
        """
        return await self._users.get_organization(organization_id)

    async def create_user(
        self, organization_id: OrganizationId, name: str, email: str, password: str, role: str = rules.AGENT
    ) -> UserAccount:
        """A new user of an organization.

        Raises:
            InvalidInput: a name, email, password or role that breaks a rule.
            NotFound: no such organization.
            Conflict: the email is taken, here or in another organization.
        """
        name = rules.check_name(name)
        email = rules.normalize_email(email)
        role = rules.check_role(role)
        hashed = await self._passwords.hash(rules.check_password(password))
        return await self._users.create_user(organization_id, name=name, email=email, password_hash=hashed, role=role)

    async def get_user(self, organization_id: OrganizationId, user_id: UserId) -> UserAccount:
        """Raises:
        NotFound: no such user in this organization.
        """
        return await self._users.get_user(organization_id, user_id)

    async def list_users(
        self, organization_id: OrganizationId, *, limit: int = 20, offset: int = 0, search: str = ""
    ) -> tuple[list[UserAccount], int]:
        """A page of users in the order of creation, and how many there are."""
        return await self._users.list_users(organization_id, limit=limit, offset=offset, search=search)

    async def update_user(self, organization_id: OrganizationId, user_id: UserId, changes: UserChanges) -> UserAccount:
        """The user after `changes`. A new role, status or password ends access tokens at once, in every process; a new
        password or a disabled user ends the sessions too.

        Raises:
            InvalidInput: a value that breaks a rule.
            NotFound: no such user in this organization.
            Conflict: the last active owner, or a role that is not `changes.expected_role` any more.
        """
        hashed = None
        if changes.password is not None:
            hashed = await self._passwords.hash(rules.check_password(changes.password))
        user, ended = await self._users.change(
            organization_id,
            user_id,
            name=rules.check_name(changes.name) if changes.name is not None else None,
            role=rules.check_role(changes.role) if changes.role is not None else None,
            status=rules.check_status(changes.status) if changes.status is not None else None,
            password_hash=hashed,
            expected_role=changes.expected_role,
            now=self._instant(),
        )
        if ended:
            self._changed(user_id)
            log.info("auth.user_changed", user=str(user_id), role=user.role, status=user.status)
        return user

    async def set_role(self, organization_id: OrganizationId, user_id: UserId, role: str) -> UserAccount:
        return await self.update_user(organization_id, user_id, UserChanges(role=role))

    async def set_status(self, organization_id: OrganizationId, user_id: UserId, status: str) -> UserAccount:
        return await self.update_user(organization_id, user_id, UserChanges(status=status))

    async def set_password(self, organization_id: OrganizationId, user_id: UserId, password: str) -> UserAccount:
        return await self.update_user(organization_id, user_id, UserChanges(password=password))

    def close(self) -> None:
        self._passwords.close()

    # --- inside

    async def _rehash(self, found: lookups.Credentials, password: str) -> None:
        try:
            new_hash = await self._passwords.hash(password)
        except TooManyRequests:
            return  # The login stands; the next one gets another chance.
        await self._users.replace_hash(found.organization_id, found.user_id, old=found.password_hash, new=new_hash)

    async def _start_session(self, credentials: lookups.Credentials) -> LoginResult:
        refresh_token = new_refresh_token()
        session_end = self._in(self.config.session_ttl)
        session_id = await self._sessions.start(
            credentials,
            token_hash=hash_refresh_token(refresh_token),
            now=self._instant(),
            session_expires_at=session_end,
            token_expires_at=min(self._in(self.config.refresh_token_ttl), session_end),
        )
        if session_id is None:
            raise Unauthenticated("the user was changed meanwhile: log in again", code="user_changed")
        return await self._result(
            credentials.organization_id, credentials.user_id, session_id, session_end, refresh_token
        )

    async def _result(
        self,
        organization_id: OrganizationId,
        user_id: UserId,
        session_id: SessionId,
        session_end: datetime.datetime,
        refresh_token: str,
    ) -> LoginResult:
        organization, user, epoch = await self._users.identity(organization_id, user_id)
        if not user.active:
            raise _refresh_refused()
        token, expires_at = self._tokens.issue(
            user_id=user.id,
            organization_id=organization_id,
            email=user.email,
            role=user.role,
            session_id=session_id,
            epoch=epoch,
            not_after=session_end,
        )
        return LoginResult(user, organization, token, expires_at, refresh_token)

    def _changed(self, user_id: UserId) -> None:
        """This process changed something and the transaction is committed: it holds here before any NOTIFY arrives."""
        if not self._listening:
            self._epoch.notified()
        self.invalidate(user_id)

    def _heard(self, payload: str) -> None:
        self._epoch.notified()
        try:
            user_id = UserId(parse_uuid(payload)) if payload else None
        except InvalidInput:
            user_id = None
        self.invalidate(user_id)

    def _instant(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC)

    def _in(self, seconds: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._now() + seconds, datetime.UTC)


def _refresh_refused() -> Unauthenticated:
    return Unauthenticated("invalid refresh token: log in again", code="invalid_refresh_token")
