"""One run of an addon's code, whatever set it off, and what came of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from metacore.identity import Principal

Trigger = Literal[
    "action",
    "lifecycle",
    "schedule",
    "subscription",
    "webhook",
    "tool",
    "transition",
    "hook",
    "formula",
    "connector",
]
HandlerKind = Literal["wasm", "webhook", "compiled", "connector", "noop"]


@dataclass(frozen=True, slots=True)
class Handler:
    """What to run: `function` is the export of a wasm handler or the name of a compiled one, `url` where a webhook is
    sent, relative to the addon's backend when it begins with `/`. `method` is for webhooks alone; `timeout` is in
    seconds, 0 for what the manifest's backend says."""

    kind: HandlerKind
    function: str = ""
    url: str = ""
    method: str = "POST"
    timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Invocation:
    """`payload` is the JSON request of the guest. `principal` is the user behind it, None for what nobody asked for;
    `caller` names who set it off in records of violations. `id` stays the same when a run is tried again."""

    addon_key: str
    organization_id: uuid.UUID
    trigger: Trigger
    name: str
    handler: Handler
    payload: Mapping[str, Any]
    principal: Principal | None = None
    caller: str = ""
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    digest: str = ""
    """Bundle whose code runs; empty: the one that is live."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the code answered. `code` and `message` are set when it is not a success; `meta` goes to the caller."""

    success: bool
    data: Any = None
    code: str = ""
    message: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    async def run(self, invocation: Invocation) -> Result:
        """Run it once, outside of any transaction of the caller's. What the code does wrong is in the result.

        Raises:
            NotFound: the addon is not installed and enabled there, or has no such function.
            Fenced: its signature is no longer trusted.
            TooManyRequests: too many runs wait.
            NotWired: this process has no runtime for such a handler.
            PermissionDenied: what the handler itself needs was not granted: the host of a webhook.
            Unavailable: its backend cannot be reached, or the addon is quarantined.
        """
        ...
