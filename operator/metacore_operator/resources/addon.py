"""The whole resource, and how a decoded document becomes one."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from metacore.errors import InvalidInput, Problem
from metacore_operator.resources.spec import ADDON_KEY, AddonSpec
from metacore_operator.resources.status import AddonStatus
from metacore_operator.resources.strict import Strict

GROUP = "metacore.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "Addon"
PLURAL = "addons"

PAUSE = "metacore.dev/pause"
REQUESTED_AT = "metacore.dev/requested-at"
FORCE = "metacore.dev/force"
ROTATE_SECRETS = "metacore.dev/rotate-secrets"
"""Annotations by which people ask: the first, when `true`, acts as spec.suspend. A new value of the others asks for a
reconcile now, for one that leaves nothing out, and for new installation secrets."""
ASKING = (PAUSE, REQUESTED_AT, FORCE, ROTATE_SECRETS)

LONGEST_TOKEN = 128
"""Characters of an annotation's value that count and are echoed."""

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"

OBJECT_META_OF_THE_SERVER = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    }
)
"""Keys of Kubernetes' ObjectMeta that an API server adds and this model has no use for."""


class Metadata(Strict):
    name: str = Field(pattern=DNS_LABEL)
    namespace: str = Field(default="default", pattern=DNS_LABEL)
    uid: str = Field(default="", max_length=64)
    generation: int = Field(default=1, ge=1)
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _forget_what_the_server_adds(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if key not in OBJECT_META_OF_THE_SERVER}
        return value


class Addon(Strict):
    api_version: Literal["metacore.dev/v1alpha1"]
    kind: Literal["Addon"]
    metadata: Metadata
    spec: AddonSpec
    status: AddonStatus = AddonStatus()

    @model_validator(mode="after")
    def _key_is_possible(self) -> Self:
        if not re.fullmatch(ADDON_KEY, self.key):
            raise PydanticCustomError(
                "key", "metadata.name {name} makes no addon key; set spec.key", {"name": repr(self.metadata.name)}
            )
        return self

    @property
    def key(self) -> str:
        """The addon key that the spec means."""
        return self.spec.key or self.metadata.name.replace("-", "_")

    def asked(self, annotation: str) -> str:
        """What stands in one of `ASKING`, '' when nothing does."""
        return self.metadata.annotations.get(annotation, "")[:LONGEST_TOKEN]

    @property
    def paused(self) -> bool:
        return self.asked(PAUSE) == "true"

    @property
    def forced(self) -> bool:
        """Whether somebody asks for a reconcile that leaves nothing out, and did not get it yet."""
        return self.asked(FORCE) not in ("", self.status.last_handled_force)

    @property
    def rotating(self) -> bool:
        """Whether somebody asks for new installation secrets, and did not get them yet."""
        return self.asked(ROTATE_SECRETS) not in ("", self.status.last_handled_rotate_secrets)

    @property
    def wishes(self) -> tuple[str, ...]:
        """What people ask for by annotations; a change of it is a wish for a reconcile."""
        return tuple(self.asked(annotation) for annotation in ASKING)

    @property
    def full_name(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"


def parse_addon(document: Any) -> Addon:
    """The Addon that a decoded YAML or JSON document holds.

    Raises:
        InvalidInput: with every problem, each naming its path such as `spec.organizations.names`.
    """
    try:
        return Addon.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [
            Problem(_path(item["loc"]), item["type"], _message(item["msg"])) for item in error.errors(include_url=False)
        ]
        text = "; ".join(
            f"{problem.field}: {problem.message}" if problem.field else problem.message for problem in problems
        )
        raise InvalidInput(text, code="addon_invalid", problems=problems) from error


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _message(text: str) -> str:
    if text == "Extra inputs are not permitted":
        return "unknown key"
    if text.startswith("Input should be a valid dictionary"):
        return "should be a mapping"
    if text == "Input should be a valid tuple":
        return "should be a list"
    return (text[:1].lower() + text[1:]).removeprefix("input ")
