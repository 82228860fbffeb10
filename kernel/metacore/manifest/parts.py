"""Parts of the internal model that know nothing of models and columns; `metacore.manifest.model` offers them too."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Requirement(Part):
    key: str
    version: str = "*"
    optional: bool = False
    reason: str = ""


class Frontend(Part):
    entry: str
    format: Literal["federation", "script"] = "federation"
    expose: str = ""
    integrity: str = ""
    container: str = ""
    layout: Literal["shell", "immersive"] = "shell"


class Backend(Part):
    """`entry` is a path in the bundle; `timeout_ms` bounds one call, `memory_limit_mb` (MiB) one instance."""

    runtime: Literal["webhook", "wasm", "binary"]
    entry: str = ""
    url: str = ""
    exports: tuple[str, ...] = ()
    memory_limit_mb: int = 64
    timeout_ms: int = 10_000


class Schedule(Part):
    """`every` is a duration (`90s`, `1h30m`) or a cron expression of five fields; `do` a handler."""

    key: str
    every: str
    do: dict[str, Any] | str


class InboundWebhook(Part):
    key: str
    path: str
    verify: str = ""
    secret_ref: str = ""
    do: dict[str, Any] | str | None = None


class Icon(Part):
    type: str = ""
    slug: str = ""
    color: str = ""


class Capability(Part):
    """`kind` is one of contract 11's; `target` a name, a `prefix.*`, a host, or for events `*`."""

    kind: str
    target: str
    reason: str = ""


class NavigationItem(Part):
    title: str
    url: str = ""
    icon: str = ""
    model: str = ""
    permission: str = ""
    view_type: str = ""
    group_by: str = ""
    filter: dict[str, Any] = {}
    items: tuple[NavigationItem, ...] = ()


class NavigationGroup(Part):
    title: str = ""
    icon: str = ""
    target: str = ""
    items: tuple[NavigationItem, ...] = ()
