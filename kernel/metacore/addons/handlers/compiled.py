"""Handlers that are Python functions of the host, registered by addon and name."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from metacore.addons.handlers.run import Run, refused, result_of
from metacore.addons.invocation import Result
from metacore.errors import MetacoreError, Misconfigured, NotFound
from metacore.identity import Principal
from metacore.logs import get_logger

log = get_logger(__name__)

SECONDS: Final = 60.0
"""A function of the host gets as long as a guest gets at most."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """What a function gets. `principal` is the user who asked, None for what nobody asked for; `payload` must not be
    changed. `invocation_id` stays the same when the call is made again."""

    addon_key: str
    organization_id: UUID
    function: str
    payload: Mapping[str, Any]
    principal: Principal | None
    invocation_id: UUID


Function = Callable[[FunctionCall], Awaitable[Any] | Any]
"""Answers with data, or an envelope `{success, data?, error?}`; a `MetacoreError` that it raises declines the call."""


class CompiledFunctions:
    """Functions by addon key and name."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], Function] = {}

    def register(self, addon_key: str, name: str, function: Function) -> Callable[[], None]:
        """Run `function` for `compiled` handlers of that name. What is returned takes it out again.

        Raises:
            Misconfigured: the addon has a function of that name already.
        """
        key = (addon_key, name)
        if key in self._functions:
            raise Misconfigured(f"addon {addon_key!r} has two functions {name!r}")
        self._functions[key] = function

        def remove() -> None:
            if self._functions.get(key) is function:
                del self._functions[key]

        return remove

    def find(self, addon_key: str, name: str) -> Function:
        """Raises NotFound."""
        function = self._functions.get((addon_key, name))
        if function is None:
            raise NotFound(f"addon {addon_key!r} has no function {name[:64]!r} here", code="unknown_function")
        return function


class CompiledRuns:
    """Runs them on the event loop; a plain function runs in a thread."""

    def __init__(self, functions: CompiledFunctions) -> None:
        self._functions = functions

    async def run(self, run: Run) -> Result:
        invocation = run.invocation
        name = invocation.handler.function or invocation.name
        function = self._functions.find(invocation.addon_key, name)
        call = FunctionCall(
            addon_key=invocation.addon_key,
            organization_id=invocation.organization_id,
            function=name,
            payload=invocation.payload,
            principal=invocation.principal,
            invocation_id=invocation.id,
        )
        try:
            async with asyncio.timeout(SECONDS):
                answer = await _answer(function, call)
        except MetacoreError as error:
            return refused(error)
        except TimeoutError:
            return Result(success=False, code="timeout", message=f"no reply within {SECONDS:g} s")
        except Exception:
            log.exception("addon.function_failed", addon=invocation.addon_key, function=name)
            return Result(success=False, code="runtime_error", message=f"the function {name!r} failed")
        return answer if isinstance(answer, Result) else result_of(answer)


async def _answer(function: Function, call: FunctionCall) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(call)
    answer = await asyncio.to_thread(function, call)
    return await answer if inspect.isawaitable(answer) else answer
