"""The question that is asked before every privileged operation of an addon, and its answer."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class CapabilityKind(StrEnum):
    """Contract 11."""

    DB_READ = "db:read"
    DB_WRITE = "db:write"
    HTTP_FETCH = "http:fetch"
    EVENT_EMIT = "event:emit"
    EVENT_SUBSCRIBE = "event:subscribe"
    CONNECTOR_READ = "connector:read"


class Mode(StrEnum):
    """Shadow records what was not granted and allows it; enforce records and refuses."""

    SHADOW = "shadow"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Access:
    """One operation that an addon is about to do. `target` is spelled as in the manifest: `addon_orders.invoices`,
    `api.example.com:8443`, an event or a connector. `caller` names who set it off: a user id, or `schedule:nightly`."""

    addon_key: str
    kind: CapabilityKind | str
    target: str
    organization_id: uuid.UUID | None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """`granted` is what the grants say; `allowed` what happens, which in shadow may be more."""

    allowed: bool
    granted: bool
    mode: Mode


class Gate(Protocol):
    """Never waits and never fails: what it records is written later by somebody else."""

    def mode_of(self, addon_key: str) -> Mode:
        """The mode in which this addon is held right now, its own wish included."""
        ...

    def decide(self, access: Access) -> Decision: ...

    def require(self, access: Access) -> Decision:
        """`decide`, for those who stop when it is not allowed.

        Raises:
            PermissionDenied: with the code `forbidden`, naming kind and target.
        """
        ...
