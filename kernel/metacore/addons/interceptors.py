"""Interceptors: code of the host that sees, changes or refuses an operation on a model before it happens.

A key is `<model>::<operation>` with the operation create, update or delete. Interceptors are hooks with an owner: those
of an addon act only where it is enabled, and all that it registered can be taken out again when it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from metacore.dynamic.hook_points import Hook, HookContext, HookPoint, HookRegistry
from metacore.errors import Misconfigured

Acts = Callable[[str, UUID], bool]
"""Whether interceptors of an addon act in an organization."""

POINTS = {
    "create": HookPoint.BEFORE_CREATE,
    "update": HookPoint.BEFORE_UPDATE,
    "delete": HookPoint.BEFORE_DELETE,
}


class Interceptors:
    """Registered interceptors, by addon."""

    def __init__(self, hooks: HookRegistry, acts: Acts = lambda addon_key, organization_id: True) -> None:
        self._hooks = hooks
        self._acts = acts
        self._removals: dict[str, list[Callable[[], None]]] = {}

    def register(self, addon_key: str, key: str, interceptor: Hook) -> None:
        """Run `interceptor` before the operation that `key` (`<model>::<operation>`) names, wherever the addon is
        enabled.

        Raises:
            Misconfigured: a key of another form.
        """
        model, separator, operation = key.partition("::")
        if not separator or not model or operation not in POINTS:
            raise Misconfigured(
                f"interceptor key {key!r}: write <model>::<operation>, with the operation create, update or delete"
            )

        async def where_enabled(context: HookContext, values: dict[str, Any]) -> Mapping[str, Any] | None:
            if not self._acts(addon_key, context.principal.organization_id):
                return None
            return await interceptor(context, values)

        remove = self._hooks.register(POINTS[operation], model, where_enabled)
        self._removals.setdefault(addon_key, []).append(remove)

    def remove(self, addon_key: str) -> int:
        """Take out everything that `addon_key` registered; tells how many."""
        removals = self._removals.pop(addon_key, [])
        for removal in removals:
            removal()
        return len(removals)
