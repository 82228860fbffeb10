"""Where a host's code joins in: before and after create, update and delete, per model or for all (`*`).

A before-hook gets the input and may return a changed one, or raise a `MetacoreError` (usually `Refused`) to stop the
save. It runs outside any transaction, on the row as it was committed; when that row changes before the save, hooks run
again on the newer row, so a before-hook must bear to run twice. An after-hook runs once the change is committed: it
cannot undo it, and what it raises is logged.

Two more points are for code of addons. `compute` gets the whole row as it is about to be saved and gives values of
computed columns. `during_update` runs once the row is changed and before that is committed: what it raises takes the
change back. It must not touch that row itself, which is held meanwhile.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from metacore.identity import Principal
from metacore.registry import LiveModel

log = logging.getLogger(__name__)

EVERY_MODEL = "*"


class HookPoint(StrEnum):
    BEFORE_CREATE = "before_create"
    AFTER_CREATE = "after_create"
    BEFORE_UPDATE = "before_update"
    AFTER_UPDATE = "after_update"
    BEFORE_DELETE = "before_delete"
    AFTER_DELETE = "after_delete"
    COMPUTE = "compute"
    DURING_UPDATE = "during_update"


@dataclass(frozen=True, slots=True)
class HookContext:
    """The change that a hook sees. `before` is the current row (None on create), without secret columns."""

    principal: Principal
    model: LiveModel
    row_id: uuid.UUID
    before: Mapping[str, Any] | None = None


Hook = Callable[[HookContext, dict[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Gets the context and, before create and update, the input; after them the stored row; around delete the row.

What a hook before create or update returns replaces the input; None leaves it, with whatever the hook changed in it."""

HookT = TypeVar("HookT", bound=Hook)


class HookRegistry:
    """Hooks by point and model name (key or table). They run in the order in which they were registered."""

    def __init__(self) -> None:
        self._hooks: dict[HookPoint, list[tuple[str, Hook]]] = {}

    def register(self, point: HookPoint | str, model: str, hook: Hook) -> Callable[[], None]:
        """Run `hook` at `point` for `model`, or for every model with `*`. What is returned takes it out again.

        Raises:
            ValueError: there is no such point.
        """
        registered = self._hooks.setdefault(HookPoint(point), [])
        entry = (model, hook)
        registered.append(entry)

        def remove() -> None:
            if entry in registered:
                registered.remove(entry)

        return remove

    def before_create(self, model: str) -> Callable[[HookT], HookT]:
        return self._decorator(HookPoint.BEFORE_CREATE, model)

    def after_create(self, model: str) -> Callable[[HookT], HookT]:
        return self._decorator(HookPoint.AFTER_CREATE, model)

    def before_update(self, model: str) -> Callable[[HookT], HookT]:
        return self._decorator(HookPoint.BEFORE_UPDATE, model)

    def after_update(self, model: str) -> Callable[[HookT], HookT]:
        return self._decorator(HookPoint.AFTER_UPDATE, model)

    def before_delete(self, model: str) -> Callable[[HookT], HookT]:
        return self._decorator(HookPoint.BEFORE_DELETE, model)

    def after_delete(self, model: str) -> Callable[[HookT], HookT]:
        return self._decorator(HookPoint.AFTER_DELETE, model)

    def at(self, point: HookPoint, model: LiveModel) -> list[Hook]:
        """The hooks to run there; an empty list almost always, so this is quick."""
        registered = self._hooks.get(point)
        if not registered:
            return []
        names = (*model.names, EVERY_MODEL)
        return [hook for name, hook in registered if name in names]

    def _decorator(self, point: HookPoint, model: str) -> Callable[[HookT], HookT]:
        def remember(hook: HookT) -> HookT:
            self.register(point, model, hook)
            return hook

        return remember


async def run_before(hooks: list[Hook], context: HookContext, values: dict[str, Any]) -> dict[str, Any]:
    """The input after every hook had its say. Whatever a hook raises stops the save."""
    for hook in hooks:
        changed = await hook(context, values)
        if changed is not None:
            values = dict(changed)
    return values


async def run_after(hooks: list[Hook], context: HookContext, row: Mapping[str, Any]) -> None:
    """Run every hook with a copy of its own of the row; one that fails does not keep the others from running."""
    for hook in hooks:
        try:
            await hook(context, dict(row))
        except Exception:
            log.exception("an after-hook of model %s failed; the change stands", context.model.key)
