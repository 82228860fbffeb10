"""What a host decides about its kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metacore import logs, navigation
from metacore.api.navigation import CoreGroups
from metacore.auth.config import AuthConfig
from metacore.bundle.signature import TrustedKeys
from metacore.db.database import LEAST_POOL_SIZE, Database
from metacore.egress.broker import EgressConfig
from metacore.errors import Misconfigured
from metacore.permissions.store import PermissionStore
from metacore.translator import Translator


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What a host decides. Durations are in seconds, sizes in bytes.

    `database` is a URL, or a `Database` that the host owns and closes itself, of
    `LEAST_POOL_SIZE` connections or more. `jwt_secret` is one secret or several, of
    which the first signs. `run_migrations` true brings the kernel's tables to the head at start; false only makes them
    in a database that has none (for development); None leaves the database alone and waits for the head.
    `create_tables` makes missing tables of registered models. `permission_store` None means no user gate. `translator`
    None means `catalogs` and the texts of addons. `master_key` (32 bytes) seals secrets at rest. `core_groups` are the
    host's own groups of the menu (docs/embedding.md), or a function that gives those of an organization; addons add to
    them. `request_wait` is how long a route that installs waits for a worker before it answers 202.
    """

    database: str | Database
    jwt_secret: str | Sequence[str] = field(repr=False)
    run_migrations: bool | None = True
    create_tables: bool = True
    enable_metrics: bool = True
    permission_store: PermissionStore | None = None
    super_roles: Sequence[str] = ("owner",)
    translator: Translator | None = None
    catalogs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    metadata_ttl: float = 300
    permission_ttl: float = 300
    access_token_ttl: int = 86_400
    refresh_token_ttl: int = 30 * 86_400
    jwt_issuer: str = "metacore"
    registration: bool = True
    core_groups: CoreGroups | Sequence[navigation.Group | Mapping[str, Any]] = ()
    request_wait: float = 15.0
    master_key: bytes | None = field(default=None, repr=False)
    trusted_keys: TrustedKeys | None = None
    """Keys that bundles are verified with once more when they are loaded; None loads what the installer stored."""
    enforce: bool = False
    """Refuse what addons were not granted, unless a followed file or the API says otherwise (docs/capabilities.md)."""
    enforce_file: str = ""
    """A file with `1` or `0` that is read again at each heartbeat and wins over `enforce`."""
    mode_fixed: bool = False
    """`enforce` holds for as long as this App lives, whatever anybody asks for."""
    mode_organizations: Sequence[str] = ()
    """Ids of organizations whose people may change the mode, which holds for all, by API; `*` is any."""
    coalesce: bool = True
    max_per_page: int = 200
    max_body_bytes: int = 1_048_576
    max_upload_bytes: int = 67_108_864
    heartbeat_interval: float = 2.0
    pod_name: str = ""
    cache_dir: str = ""
    wasm_threads: int = 0
    """Threads that run code of addons; 0 means two more than the machine has cores."""
    access_log: logs.AccessLog | None = None
    egress: EgressConfig = field(default_factory=EgressConfig)
    """Which networks requests to other hosts may reach, and through which proxy."""
    require_kernel_role: bool = False
    """Refuse to start as a role that could switch row-level security off."""
    standalone: bool = False
    """The application holds nothing but the kernel: limits, logs and the error envelope cover every path of it."""

    def __post_init__(self) -> None:
        """Raises Misconfigured for a database that could not serve."""
        given = self.database
        if isinstance(given, Database) and given.dialect == "postgresql" and given.pool_size < LEAST_POOL_SIZE:
            raise Misconfigured(
                f"pool_size={given.pool_size} of AppConfig.database is too small: at least {LEAST_POOL_SIZE}"
                " connections are needed, because what runs within a transaction reads by another one"
            )


def auth_config(config: AppConfig) -> AuthConfig:
    secrets = [config.jwt_secret] if isinstance(config.jwt_secret, str) else config.jwt_secret
    return AuthConfig(
        jwt_secrets=tuple(secrets),
        issuer=config.jwt_issuer,
        access_token_ttl=config.access_token_ttl,
        refresh_token_ttl=config.refresh_token_ttl,
        registration=config.registration,
    )
