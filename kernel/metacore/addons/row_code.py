"""Code of addons around changes of rows: stage transitions, v2's row hooks, and formulas that a function computes.

They are hooks like those of a host, registered for the models of the addons that are loaded, so a model without any
costs nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, cast

from metacore.addons.invocation import Handler, Invocation, Result, Runner, Trigger
from metacore.dynamic.hook_points import Hook, HookContext, HookPoint, HookRegistry
from metacore.errors import Refused
from metacore.installer.job_rows import handler_of
from metacore.logs import get_logger
from metacore.manifest.model import Formula, ModelDefinition, OnTransition
from metacore.registry import LiveAddon, Registry, Snapshot

log = get_logger(__name__)

MAX_DEPTH: Final = 4
"""Code changes a row, which sets off code, and so on: how far that goes."""

_depth: ContextVar[int] = ContextVar("metacore_row_code_depth", default=0)


class RowCode:
    """Follows the registry; `stop` ends what still runs in the background."""

    def __init__(self, registry: Registry, hooks: HookRegistry, runner: Runner) -> None:
        self._hooks = hooks
        self._runner = runner
        self._removals: dict[str, tuple[LiveAddon, list[Callable[[], None]]]] = {}
        self._background: set[asyncio.Task[None]] = set()
        registry.on_change(self._follow)
        self._follow(registry.snapshot)

    async def stop(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, snapshot: Snapshot) -> None:
        served = {key: addon for key, addon in snapshot.addons.items() if not addon.error and not addon.fenced_reason}
        for key in [key for key, (addon, _) in self._removals.items() if served.get(key) is not addon]:
            for remove in self._removals.pop(key)[1]:
                remove()
        for key, addon in served.items():
            if key not in self._removals:
                self._removals[key] = (addon, self._register(addon))

    def _register(self, addon: LiveAddon) -> list[Callable[[], None]]:
        removals: list[Callable[[], None]] = []
        for model in addon.models.values():
            found: list[tuple[HookPoint, Hook]] = [
                (HookPoint.DURING_UPDATE if step.required else HookPoint.AFTER_UPDATE, self._transition(addon, step))
                for step in model.definition.on_transition
                if step.do is not None
            ]
            formulas = [formula for formula in model.definition.formulas if formula.tier == 3]
            if formulas:
                found.append((HookPoint.COMPUTE, self._formulas(addon, formulas)))
            found += [(point, self._row_hook(addon, point, hook)) for point, hook in row_hooks(addon, model.definition)]
            removals += [self._hooks.register(point, model.key, hook) for point, hook in found]
        return removals

    def _transition(self, addon: LiveAddon, step: OnTransition) -> Hook:
        handler = _handler(step.do)

        async def hook(context: HookContext, row: dict[str, Any]) -> None:
            field = context.model.definition.stage_field
            before, after = (context.before or {}).get(field), row.get(field)
            if before == after or step.source not in ("", before) or step.target not in ("", after):
                return
            payload = {"from": before, "to": after, "before": dict(context.before or {}), "row": row}
            result = await self._run(addon, "transition", f"{before}->{after}", handler, context, payload)
            if not result.success:
                # Of one that is not required the log is told, where the runner stands.
                raise Refused(f"{before!r} to {after!r}: {result.message}", code=result.code or "transition")

        return hook

    def _formulas(self, addon: LiveAddon, formulas: list[Formula]) -> Hook:
        async def hook(context: HookContext, row: dict[str, Any]) -> Mapping[str, Any]:
            values: dict[str, Any] = {}
            for formula in formulas:
                payload = {"target": formula.target, "row": {**row, **values}}
                handler = _formula_handler(formula.handler)
                result = await self._run(addon, "formula", formula.target, handler, context, payload)
                if not result.success:
                    raise Refused(f"{formula.target}: {result.message}", code=result.code or "formula")
                data = result.data
                values[formula.target] = data["value"] if isinstance(data, dict) and "value" in data else data
            return values

        return hook

    def _row_hook(self, addon: LiveAddon, point: HookPoint, written: Mapping[str, Any]) -> Hook:
        handler = _handler(written.get("target") or written)
        before = point in (HookPoint.BEFORE_CREATE, HookPoint.BEFORE_UPDATE, HookPoint.BEFORE_DELETE)
        changes = before and point is not HookPoint.BEFORE_DELETE

        async def hook(context: HookContext, values: dict[str, Any]) -> Mapping[str, Any] | None:
            payload: dict[str, Any] = {"event": point.value, "before": dict(context.before) if context.before else None}
            payload["input" if changes else "row"] = values
            result = await self._run(addon, "hook", point.value, handler, context, payload)
            if not result.success:
                raise Refused(result.message, code=result.code or "refused")
            data = result.data
            changed = data.get("input") if changes and isinstance(data, dict) else None
            return changed if isinstance(changed, dict) else None

        async def later(context: HookContext, values: dict[str, Any]) -> None:
            # What runs on by itself has the depth of who set it off, and no request any more.
            around = contextvars.copy_context()
            task = asyncio.get_running_loop().create_task(self._quietly(hook, context, values), context=around)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

        return later if written.get("async") and not before else hook

    async def _quietly(self, hook: Hook, context: HookContext, values: dict[str, Any]) -> None:
        try:
            await hook(context, values)
        except Exception as error:
            log.warning("addon.hook_failed", model=context.model.key, reason=f"{type(error).__name__}: {error}")

    async def _run(
        self,
        addon: LiveAddon,
        trigger: Trigger,
        name: str,
        handler: Handler,
        context: HookContext,
        payload: Mapping[str, Any],
    ) -> Result:
        depth = _depth.get()
        if depth >= MAX_DEPTH:
            raise Refused(f"{name}: changes set each other off more than {MAX_DEPTH} times", code="too_deep")
        token = _depth.set(depth + 1)
        principal = context.principal
        user = None if principal.actor_id is None else {"id": str(principal.user_id), "role": principal.role}
        try:
            return await self._runner.run(
                Invocation(
                    addon_key=addon.key,
                    organization_id=principal.organization_id,
                    trigger=trigger,
                    name=f"{context.model.key}::{name}",
                    handler=handler,
                    payload={
                        "model": context.model.key,
                        "table": context.model.definition.table,
                        "id": str(context.row_id),
                        "organization_id": str(principal.organization_id),
                        "user": user,
                        **payload,
                    },
                    principal=principal if user is not None else None,
                    caller=str(principal.user_id) if user is not None else trigger,
                )
            )
        finally:
            _depth.reset(token)


def row_hooks(addon: LiveAddon, model: ModelDefinition) -> list[tuple[HookPoint, Mapping[str, Any]]]:
    """v2's hooks around rows of `model`, by point. A list stands under its event, then for the model that each names
    or for all; or under a model, then each names its event."""
    found: list[tuple[HookPoint, Mapping[str, Any]]] = []
    points = {point.value: point for point in HookPoint}
    names = (model.key, model.table)
    for place, items in addon.manifest.lifecycle_hooks.items():
        for item in items if isinstance(items, list | tuple) else ():
            point = points.get(str(item.get("event") or place))
            target = str(item.get("model") or item.get("table") or ("*" if place in points else place))
            if point is not None and (target == "*" or target.rpartition(".")[2] in names):
                found.append((point, item))
    return found


def _handler(written: Any) -> Handler:
    given = handler_of(written)
    kind = "wasm" if given["kind"] == "wasm_call" else given["kind"]
    return Handler(cast(Any, kind), given["function"], given["url"])


def _formula_handler(written: str) -> Handler:
    kind, colon, name = written.partition(":")
    return Handler("compiled", name) if colon and kind == "compiled" else Handler("wasm", name if colon else written)
