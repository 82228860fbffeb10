"""What an Addon declares. Descriptions are written for `kubectl explain`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from metacore.errors import InvalidInput
from metacore.manifest.ranges import parse_range
from metacore_operator.resources.strict import Strict, exactly_one

ADDON_KEY = r"^[a-z][a-z0-9_]{1,47}$"
SHA256_HEX = r"^[0-9a-f]{64}$"

MOST_VALUES = 1000
MOST_REQUIREMENTS = 32
"""Lists have an end, because an API server refuses rules over lists that have none."""


class LocalReference(Strict):
    """Names an object in the Addon's own namespace that carries the label `metacore.dev/allow: <addon name>`."""

    name: str = Field(min_length=1, max_length=253, description="Name of the object in the Addon's namespace.")


class KeyReference(LocalReference):
    key: str = Field(default="", max_length=253, description="Key inside the object; empty means all of it.")


class OciSource(Strict):
    ref: str = Field(min_length=1, description="Image reference, such as registry.example.com/addons/tickets:1.0.0.")
    pull_secret_ref: LocalReference | None = Field(default=None, description="Secret with the registry's credentials.")


class HttpSource(Strict):
    url: str = Field(pattern=r"^https?://", description="Address of the bundle.")
    sha256: str | None = Field(
        default=None, pattern=SHA256_HEX, description="SHA-256 in hex that the download must have."
    )
    headers_secret_ref: LocalReference | None = Field(
        default=None, description="Secret whose entries are sent as request headers."
    )


class ConfigMapSource(Strict):
    name: str = Field(min_length=1, max_length=253, description="Name of the ConfigMap in the Addon's namespace.")
    key: str = Field(min_length=1, max_length=253, description="Entry of its binaryData that holds the bundle.")


class SourceKind(StrEnum):
    OCI = "oci"
    HTTP = "http"
    CONFIG_MAP = "configMap"
    PATH = "path"


class Source(Strict):
    """Where the bundle comes from; exactly one of the four."""

    oci: OciSource | None = Field(default=None, description="An artifact in an OCI registry.")
    http: HttpSource | None = Field(default=None, description="A file behind an HTTP address.")
    config_map: ConfigMapSource | None = Field(default=None, description="A ConfigMap, for small bundles.")
    path: str | None = Field(
        default=None,
        min_length=1,
        description="A file below the configured addons root: folder mode and mounted volumes.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, ("oci", "http", "config_map", "path"))
        return self

    @property
    def kind(self) -> SourceKind:
        if self.oci is not None:
            return SourceKind.OCI
        if self.http is not None:
            return SourceKind.HTTP
        return SourceKind.CONFIG_MAP if self.config_map is not None else SourceKind.PATH


class SignatureSource(Strict):
    """Where the signature comes from; exactly one of the three."""

    value: str | None = Field(default=None, min_length=2, description="The signature object itself, as JSON text.")
    secret_ref: KeyReference | None = Field(default=None, description="Secret entry that holds the signature object.")
    from_source: bool | None = Field(
        default=None, description="Take it from beside the bundle; for a path that is <bundle>.sig.json."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, ("value", "secret_ref", "from_source"))
        return self

    @field_validator("from_source")
    @classmethod
    def _only_true(cls, value: bool | None) -> bool | None:
        return _true_or_absent(value)


class SelectorRequirement(Strict):
    key: str = Field(min_length=1, description="Label of the organization; every one has `id` and `name`.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How `values` are compared.")
    values: tuple[str, ...] = Field(
        default=(), strict=False, max_length=MOST_VALUES, description="Empty for Exists and DoesNotExist."
    )

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            wanted = "needs values" if self.operator in ("In", "NotIn") else "takes no values"
            raise PydanticCustomError(
                "values", "operator {operator} {wanted}", {"operator": self.operator, "wanted": wanted}
            )
        return self


class OrganizationSelector(Strict):
    """All of what is given must hold, as in a Kubernetes label selector."""

    match_labels: dict[str, str] = Field(
        default={}, max_length=MOST_REQUIREMENTS, description="Labels with the values that they must have."
    )
    match_expressions: tuple[SelectorRequirement, ...] = Field(
        default=(), strict=False, max_length=MOST_REQUIREMENTS, description="Requirements on labels."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.match_labels and not self.match_expressions:
            raise PydanticCustomError(
                "selector", "an empty selector selects nothing; use `all: true` for everybody", {}
            )
        return self


class Organizations(Strict):
    """Which organizations get the addon; exactly one of the three."""

    all: bool | None = Field(default=None, description="Every organization, also those made later.")
    names: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        max_length=MOST_VALUES,
        description="Names or ids of organizations. A name must be unique.",
    )
    selector: OrganizationSelector | None = Field(default=None, description="Organizations chosen by their labels.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, ("all", "names", "selector"))
        return self

    @field_validator("all")
    @classmethod
    def _only_true(cls, value: bool | None) -> bool | None:
        return _true_or_absent(value)


def _true_or_absent(value: bool | None) -> bool | None:
    if value is False:
        raise PydanticCustomError("only_true", "may only be true; leave it out instead of false", {})
    return value


class SettingsSource(Strict):
    """Settings kept outside the Addon; exactly one of the two. Later entries win over earlier ones."""

    secret_ref: KeyReference | None = Field(default=None, description="Secret with settings.")
    config_map_ref: KeyReference | None = Field(default=None, description="ConfigMap with settings.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, ("secret_ref", "config_map_ref"))
        return self


CapabilityKind = Literal["db:read", "db:write", "http:fetch", "event:emit", "event:subscribe", "connector:read"]


class GrantedCapability(Strict):
    kind: CapabilityKind = Field(description="What kind of thing the addon may do.")
    target: str = Field(min_length=1, description="On what: a name, a prefix such as orders.*, or a host.")
    reason: str = Field(default="", description="Why, for readers.")


class Capabilities(Strict):
    accept: Literal["Declared", "Listed", "Always"] = Field(
        default="Declared",
        description=(
            "Declared grants what the first installed version asks for; an upgrade that asks for more waits until that "
            "is in list. Listed grants only what is in list. Always grants whatever a version asks for."
        ),
    )
    listed: tuple[GrantedCapability, ...] = Field(
        default=(),
        alias="list",
        strict=False,
        max_length=MOST_VALUES,
        description="What was approved: everything with Listed, what came later with Declared.",
    )

    @model_validator(mode="after")
    def _list_has_a_use(self) -> Self:
        if self.listed and self.accept == "Always":
            raise PydanticCustomError("list", "`list` has no meaning with `accept: Always`", {})
        return self


WAIVER = r"^(data_loss|rewrite|lock|downgrade)(@.{1,64})?$"

Waiver = Annotated[str, Field(pattern=WAIVER)]


class Preflight(Strict):
    waivers: tuple[Waiver, ...] = Field(
        default=(),
        strict=False,
        max_length=MOST_REQUIREMENTS,
        description="Codes of risks to accept, as the PreflightPassed condition names them, such as rewrite@1.1.0.",
    )


class AddonSpec(Strict):
    source: Source = Field(description="Where the bundle comes from.")
    digest: str | None = Field(
        default=None, pattern=SHA256_HEX, description="SHA-256 in hex of the one bundle that may be installed."
    )
    key: str | None = Field(
        default=None, pattern=ADDON_KEY, description="Addon key; default: metadata.name with - as _."
    )
    version: str | None = Field(
        default=None, min_length=1, description="Versions that may be installed, such as >=1.2.0 <2.0.0."
    )
    signature: SignatureSource | None = Field(
        default=None, description="Where the signature comes from; default: fromSource."
    )
    organizations: Organizations = Field(description="Which organizations get the addon.")
    settings: dict[str, Any] = Field(default={}, description="Values of the addon's settings in every organization.")
    settings_from: tuple[SettingsSource, ...] = Field(
        default=(),
        strict=False,
        max_length=MOST_REQUIREMENTS,
        description="Settings from Secrets and ConfigMaps; `settings` wins over them.",
    )
    capabilities: Capabilities = Field(default=Capabilities(), description="What the addon may do.")
    mode: Literal["inherit", "enforce"] = Field(
        default="inherit",
        description="enforce refuses ungranted operations of this addon whatever the cluster's mode is.",
    )
    enabled: bool = Field(
        default=True, description="false keeps the addon installed with its data but serves nothing of it."
    )
    suspend: bool = Field(default=False, description="true leaves everything as it is until it is false again.")
    deletion_policy: Literal["Retain", "Drop"] = Field(
        default="Retain", description="Whether data stays or goes when the Addon is deleted or leaves an organization."
    )
    preflight: Preflight = Field(default=Preflight(), description="How careful the checks before an installation are.")
    revision_history_limit: int = Field(default=10, ge=0, le=100, description="How many entries status.history keeps.")

    @field_validator("version")
    @classmethod
    def _version_is_a_range(cls, value: str | None) -> str | None:
        try:
            parse_range(value or "*")
        except InvalidInput as error:
            raise PydanticCustomError("version_range", "{problem}", {"problem": error.message}) from error
        return value

    @field_validator("settings")
    @classmethod
    def _settings_are_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            raise PydanticCustomError("json", "values must be what JSON can hold", {})
        return value
