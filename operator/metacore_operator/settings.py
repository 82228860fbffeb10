"""What the operator is told from outside, with the defaults of folder mode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

EVERY = "*"
"""In a rule of tenancy: every namespace, every organization."""


@dataclass(frozen=True, slots=True)
class ReconcileSettings:
    """Durations in seconds.

    `resync` is how often the folder and a settled Addon are looked at though nothing seemed to happen, `pulse` how
    often the database is asked whether something did, `settle` how long a removed declaration must stay away before it
    counts as deleted (an editor may write a file in two steps), `workers` how many Addons are worked on at once.
    """

    resync: float = 60.0
    pulse: float = 2.0
    settle: float = 1.0
    workers: int = 2


class Tenancy(BaseModel):
    """Addons of `namespaces` may target `organizations`, by name or id; * means every one of either, and as part of a
    namespace, but not of an organization's name, any text, as in `team-*`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespaces: tuple[str, ...] = Field(min_length=1)
    organizations: tuple[str, ...] = Field(min_length=1)

    @field_validator("organizations")
    @classmethod
    def _name_or_every(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not name or ("*" in name and name != EVERY):
                raise ValueError(f"{name!r} is no organization: write a name, an id, or * alone for every one")
        return value


class OperatorSettings(BaseSettings):
    """Settings of the operator in a cluster. Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="METACORE_OPERATOR_", extra="ignore")

    namespace: str = Field(
        default="default", description="Namespace of the release: trust Secret, Lease, and what the mode is about"
    )
    cluster_wide: bool = Field(default=False, description="Watch the Addons of every namespace")
    namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Namespaces whose Addons are watched, comma separated; default: the release's own"
    )
    tenancy: Annotated[tuple[Tenancy, ...], NoDecode] = Field(
        default=(),
        description="JSON list of {namespaces, organizations}: who may target whom; default: the release's own"
        " namespace every organization, others none",
    )
    trust_secret: str = Field(default="metacore-trust", description="Secret with the public keys that may sign bundles")
    config_map: str = Field(
        default="metacore-config", description="ConfigMap whose METACORE_ENFORCE is the mode wished for"
    )
    kernel_deployment: str = Field(
        default="metacore-kernel", description="Deployment of the kernels, whose mode follows that wish"
    )
    canary_seconds: float = Field(
        default=0.0, ge=0, description="How long the first enforcing pod is watched before the others follow; 0: not"
    )
    most_violations: int | None = Field(
        default=None,
        ge=0,
        description="Enforcement is refused while shadow records more in the window; default: no limit",
    )
    violation_window: float = Field(default=3_600.0, gt=0, description="That window")
    lease: str = Field(default="metacore-operator", description="Lease that the one working operator holds")
    source_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts from which bundles may be fetched, comma separated, *.example.com for those below,"
        " host:port for one port of it; default: every host with a public address",
    )
    plain_registries: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Registries as host:port, comma separated, that speak HTTP without TLS"
    )
    addons_root: str = Field(default="", description="Folder below which spec.source.path lies; empty: no such source")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port of /healthz, /readyz, /metrics; 0: a free one")
    host: str = Field(default="0.0.0.0", description="Their address")  # noqa: S104 - probes come from outside.
    workers: int = Field(default=4, ge=1, le=64, description="Addons worked on at once")
    resync: float = Field(default=60.0, gt=0, description="How often a settled Addon is looked at again")
    pulse: float = Field(default=2.0, gt=0, description="How often database and trust are looked at")

    @field_validator("namespaces", "source_hosts", "plain_registries", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("tenancy", mode="before")
    @classmethod
    def _decode(cls, value: Any) -> Any:
        return tuple(json.loads(value or "[]")) if isinstance(value, str) else value

    @property
    def watched(self) -> Sequence[str]:
        """Namespaces to watch; meaningless with `cluster_wide`."""
        return self.namespaces or (self.namespace,)

    @property
    def rules(self) -> Sequence[Tenancy]:
        return self.tenancy or (Tenancy(namespaces=(self.namespace,), organizations=(EVERY,)),)
