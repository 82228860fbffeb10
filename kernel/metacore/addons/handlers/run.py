"""What a handler gets to run, once it was decided that it may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from metacore.addons.guest_context import GuestContext
from metacore.addons.invocation import Invocation, Result
from metacore.errors import MetacoreError
from metacore.registry import Installed, LiveAddon


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation with what is known of its addon. `addon` is None when only the bundle's digest is known any more,
    `installed` where the organization does not have the addon (any more, or yet)."""

    invocation: Invocation
    context: GuestContext
    digest: str
    addon: LiveAddon | None
    installed: Installed | None


class HandlerRuns(Protocol):
    async def run(self, run: Run) -> Result:
        """Run it. What the code does wrong is in the result; see `Runner` for what is raised."""
        ...


class Noop:
    """The handler that does nothing, successfully."""

    async def run(self, run: Run) -> Result:
        return Result(success=True)


def result_of(value: Any) -> Result:
    """What code answered, as a result: an envelope `{success?, data?, error?, meta?}`, or any other value as data.

    Without `success` an envelope says no when it has an `error`, as `wasm.abi.Reply` reads it.
    """
    if not isinstance(value, Mapping) or not value.keys() & {"success", "error"}:
        plain = value["data"] if isinstance(value, Mapping) and value.keys() <= {"data", "meta"} and value else value
        return Result(success=True, data=plain, meta=_meta(value))
    if value.get("success", "error" not in value) is True:
        return Result(success=True, data=value.get("data"), meta=_meta(value))
    error = value.get("error")
    code, message = "", ""
    if isinstance(error, Mapping):
        code, message = _word(error.get("code")), _word(error.get("message"), 2_000)
    elif isinstance(error, str):
        message = error[:2_000]
    message = message or _word(value.get("message"), 2_000)
    return Result(
        success=False,
        data=value.get("data"),
        code=code or "declined",
        message=message or "the addon declined",
        meta=_meta(value),
    )


def refused(error: MetacoreError) -> Result:
    """What trusted code raised on purpose, as its answer."""
    return Result(success=False, code=error.code, message=error.message)


def _meta(value: Any) -> Mapping[str, Any]:
    meta = value.get("meta") if isinstance(value, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _word(value: Any, limit: int = 64) -> str:
    return value[:limit] if isinstance(value, str) else ""
