"""Every setting that a kernel process reads, in one place.

`docs/settings.md` lists them; a test holds the two together.

Environment variables carry the prefix `METACORE_`, except the three names that the ecosystem already uses:
`MARKETPLACE_PUBKEY`, `MARKETPLACE_PUBKEYS` and `ALLOW_UNSIGNED_BUNDLES`.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENFORCE_WORDS = frozenset({"1", "true", "yes", "enforce"})
"""The contract's words, and the one that a pod reads from its annotation `metacore.dev/mode`."""


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Settings of one process. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="METACORE_", extra="ignore", populate_by_name=True)

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="Database of the kernel's role: postgresql://user:password@host:port/name",
    )
    direct_database_url: SecretStr = Field(
        default=SecretStr(""),
        description="The same without a pooler in between, for LISTEN and locks; default: database_url",
    )
    owner_database_url: SecretStr = Field(
        default=SecretStr(""),
        description="Database of the owner role; only migrations and the installer get it",
    )
    transaction_pooler: bool = Field(
        default=False,
        description="database_url goes through a pooler in transaction mode: no prepared statements",
    )
    pool_size: int = Field(
        default=10, ge=2, le=500, description="Connections of one process for serving requests, at least 2"
    )
    jwt_secrets: Annotated[list[SecretStr], NoDecode] = Field(
        default=[], description="Secrets of access tokens, comma separated; the first signs, all verify"
    )
    jwt_issuer: str = Field(default="metacore", description="The `iss` claim, written and required")
    access_token_ttl: int = Field(default=86_400, ge=30, description="Life of an access token in seconds")
    refresh_token_ttl: int = Field(default=30 * 86_400, ge=60, description="Life of a refresh token in seconds")
    registration: bool = Field(default=True, description="Whether POST /auth/register is open")
    master_key: SecretStr = Field(
        default=SecretStr(""),
        description="32 bytes in hex that seal secrets at rest; empty: secrets are only hashed",
    )
    enforce: str = Field(default="", description="1, true or yes: refuse what addons were not granted; else record it")
    enforce_file: str = Field(
        default="", description="File with one of these words, read again at each heartbeat; it wins over the setting"
    )
    mode_fixed: bool = Field(
        default=False, description="METACORE_ENFORCE is the pod's own mode: nothing changes it while the process lives"
    )
    mode_organizations: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Ids of organizations that administer the installation, comma separated, * is any: their people may"
        " change the mode by API, and install what asks for more or takes away or overwrites what others stored",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on")
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Addresses and networks of proxies whose X-Forwarded-For tells the client, comma separated",
    )
    prefix: str = Field(default="/api", description="Where every route of the kernel hangs")
    max_body_bytes: int = Field(default=1_048_576, ge=1_024, description="Largest JSON body; more is 413")
    max_upload_bytes: int = Field(
        default=67_108_864, ge=1_024, description="Largest import file or bundle; more is 413"
    )
    max_per_page: int = Field(default=200, ge=1, le=10_000, description="Largest page of a list")
    metadata_ttl: int = Field(default=300, ge=0, description="How long built metadata is cached, in seconds")
    permission_ttl: int = Field(default=300, ge=0, description="How long a user's grants are cached, in seconds")
    heartbeat_interval: float = Field(default=2.0, gt=0, description="Seconds between heartbeats of a kernel")
    coalesce: bool = Field(default=True, description="Serve requests that wait for the same statement by one statement")
    log_format: Literal["console", "json"] = Field(default="json", description="console for people, json for machines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged")
    pod_name: str = Field(default="", description="Name in heartbeats; default: host name and process id")
    cache_dir: str = Field(default="", description="Where bundles are unpacked by digest; default: a temporary folder")
    egress_proxy: SecretStr = Field(
        default=SecretStr(""),
        description="HTTP proxy through which every outgoing request is tunnelled: http://[user:password@]host:port",
    )
    egress_allow_private: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Dangerous: private networks and host:port pairs that outgoing requests may reach, comma separated",
    )
    egress_deny: Annotated[list[str], NoDecode] = Field(
        default=[], description="Public networks that outgoing requests may not reach, comma separated"
    )
    wasm_threads: int = Field(
        default=0, ge=0, le=256, description="Threads that run code of addons; 0: two more than cores"
    )
    trusted_keys: Annotated[list[str], NoDecode] = Field(
        default=[],
        validation_alias=AliasChoices("trusted_keys", "MARKETPLACE_PUBKEYS"),
        description="Ed25519 public keys in hex, comma separated, that may sign bundles",
    )
    trusted_key: str = Field(
        default="",
        validation_alias=AliasChoices("trusted_key", "MARKETPLACE_PUBKEY"),
        description="One more such key",
    )
    allow_unsigned_bundles: bool = Field(
        default=False,
        validation_alias=AliasChoices("allow_unsigned_bundles", "ALLOW_UNSIGNED_BUNDLES"),
        description="Install bundles without a signature when no key is trusted",
    )

    @field_validator(
        *("jwt_secrets", "trusted_keys", "mode_organizations", "egress_allow_private", "egress_deny"),
        "trusted_proxies",
        mode="before",
    )
    @classmethod
    def _comma_list(cls, value: object) -> object:
        return _split(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                ip_network(text)
            except ValueError as error:
                # The server would take it for a name, and silently trust nobody.
                raise ValueError(f"no address or network such as 10.0.0.7 or 10.0.0.0/8: {error}") from None
        return value

    @property
    def enforcing(self) -> bool:
        return self.enforce.strip().lower() in ENFORCE_WORDS

    @property
    def all_trusted_keys(self) -> tuple[str, ...]:
        keys = [*self.trusted_keys, self.trusted_key] if self.trusted_key else list(self.trusted_keys)
        return tuple(dict.fromkeys(key.lower() for key in keys))
