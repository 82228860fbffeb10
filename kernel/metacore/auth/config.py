"""What an `AuthService` is told: secrets, lives of tokens, cost of a password hash, damping of guesses."""

from __future__ import annotations

from dataclasses import dataclass, field

from metacore.errors import Misconfigured
from metacore.settings import Settings

MIN_SECRET_BYTES = 32
"""An HS256 key must not be shorter than its hash (RFC 7518, 3.2)."""
WHERE = "METACORE_JWT_SECRETS (in a program of your own: AppConfig.jwt_secret)"
SESSION_TTL = 180 * 86_400


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Times are in seconds.

    The first of `jwt_secrets` signs, all of them verify. `session_ttl` bounds a login however often it is refreshed;
    `refresh_token_ttl` ends one that is left alone. `state_ttl` is how long the state of a user and session is believed
    when no invalidation could arrive. `hash_*` are the argon2id parameters (OWASP's first choice) and how many hashes
    run and wait at once: memory in use stays below `hash_memory_kib * hash_concurrency`. `attempts` wrong passwords for
    one email from one address within `attempts_window` make the next one wait; 0 switches that off.
    """

    jwt_secrets: tuple[str, ...] = field(repr=False)
    issuer: str = "metacore"
    access_token_ttl: int = 86_400
    refresh_token_ttl: int = 30 * 86_400
    session_ttl: int = SESSION_TTL
    registration: bool = True
    state_ttl: float = 30.0
    max_cached_tokens: int = 10_000
    hash_memory_kib: int = 19_456
    hash_time_cost: int = 2
    hash_concurrency: int = 2
    hash_queue: int = 64
    attempts: int = 10
    attempts_window: float = 300.0

    def __post_init__(self) -> None:
        if not self.jwt_secrets:
            raise Misconfigured(f"no secret for access tokens: set {WHERE}")
        if any(len(secret.encode()) < MIN_SECRET_BYTES for secret in self.jwt_secrets):
            raise Misconfigured(f"{WHERE}: each secret needs at least {MIN_SECRET_BYTES} bytes")

    @classmethod
    def from_settings(cls, settings: Settings) -> AuthConfig:
        """The part of a process's settings that is about authentication.

        Raises:
            Misconfigured: no secret, or one that is too short.
        """
        return cls(
            jwt_secrets=tuple(secret.get_secret_value() for secret in settings.jwt_secrets),
            issuer=settings.jwt_issuer,
            access_token_ttl=settings.access_token_ttl,
            refresh_token_ttl=settings.refresh_token_ttl,
            session_ttl=max(SESSION_TTL, settings.refresh_token_ttl),
            registration=settings.registration,
        )
