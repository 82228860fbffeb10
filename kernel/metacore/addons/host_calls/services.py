"""The host as one run of a guest sees it: every function of the contract, handed to the part that answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson

from metacore.addons.guest_context import GuestCall, GuestContext
from metacore.addons.host_calls.parts import Answer, ConnectorCalls, DataCalls, EventCalls, SqlCalls, WebCalls
from metacore.errors import NotWired, PermissionDenied
from metacore.logs import get_logger
from metacore.registry import LiveAddon
from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostCall, HostError

log = get_logger("metacore.guest")

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first operation that was refused to a run."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Parts:
    """Who answers what. A part that is None is answered with `not_wired`."""

    events: EventCalls | None = None
    data: DataCalls | None = None
    sql: SqlCalls | None = None
    web: WebCalls | None = None
    connectors: ConnectorCalls | None = None


class SettingsReader(Protocol):
    async def for_code(self, context: GuestContext, addon: LiveAddon) -> Mapping[str, Any]:
        """Values by key, secrets in clear, the manifest's defaults where nothing was set."""
        ...


class GuestHost:
    """Makes the services of a run."""

    def __init__(self, parts: Parts, settings: SettingsReader) -> None:
        self._parts = parts
        self._settings = settings

    async def services_for(self, context: GuestContext, addon: LiveAddon | None, name: str) -> GuestServices:
        """`name` is what the lines of the guest's log are told of."""
        declared = addon is not None and bool(addon.manifest.settings)
        settings = await self._settings.for_code(context, addon) if addon is not None and declared else {}
        return GuestServices(context, self._parts, settings, name)


class GuestServices:
    """`wasm.ports.HostServices` of one run. `refusal` tells what was refused to it first."""

    def __init__(self, context: GuestContext, parts: Parts, settings: Mapping[str, Any], name: str) -> None:
        self._context = context
        self._parts = parts
        self._settings = settings
        self._name = name
        self.refusal: Refusal | None = None

    def log(self, call: HostCall, line: str) -> None:
        log.info(
            "addon.log",
            addon=self._context.addon_key,
            organization=str(self._context.organization_id),
            name=self._name,
            invocation=str(call.invocation_id),
            line=line,
        )

    def env_get(self, call: HostCall, key: str) -> str | None:
        value = self._settings.get(key)
        if value is None or isinstance(value, str):
            return value
        return orjson.dumps(value).decode()

    async def http_fetch(self, call: HostCall, url: str, method: str, body: bytes) -> bytes | HostError:
        web = _wired(self._parts.web, "http_fetch")
        return await self._ask(call, lambda guest: web.http_fetch(guest, url, method, body))

    async def http_request(self, call: HostCall, request: dict[str, Any]) -> Answer:
        web = _wired(self._parts.web, "http_request")
        return await self._ask(call, lambda guest: web.http_request(guest, request))

    async def connector_get(self, call: HostCall, key: str) -> dict[str, Any] | HostError:
        connectors = _wired(self._parts.connectors, "connector_get")
        return await self._ask(call, lambda guest: connectors.connector_get(guest, key))

    async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
        part = _wired(self._parts.sql, "db_query")
        return await self._ask(call, lambda guest: part.db_query(guest, sql, args))

    async def db_exec(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
        part = _wired(self._parts.sql, "db_exec")
        return await self._ask(call, lambda guest: part.db_exec(guest, sql, args))

    async def event_emit(self, call: HostCall, name: str, payload: Any) -> Answer:
        events = _wired(self._parts.events, "event_emit")
        return await self._ask(call, lambda guest: events.event_emit(guest, name, payload))

    async def data_mutate(self, call: HostCall, mutation: dict[str, Any]) -> Answer:
        data = _wired(self._parts.data, "data_mutate")
        return await self._ask(call, lambda guest: data.data_mutate(guest, mutation))

    async def data_query(self, call: HostCall, query: dict[str, Any]) -> Answer:
        data = _wired(self._parts.data, "data_query")
        return await self._ask(call, lambda guest: data.data_query(guest, query))

    async def data_batch(self, call: HostCall, mutations: list[Any]) -> Answer:
        data = _wired(self._parts.data, "data_batch")
        return await self._ask(call, lambda guest: data.data_batch(guest, mutations))

    async def sequence_next(self, call: HostCall, request: dict[str, Any]) -> Answer:
        data = _wired(self._parts.data, "sequence_next")
        return await self._ask(call, lambda guest: data.sequence_next(guest, request))

    async def _ask(self, call: HostCall, ask: Callable[[GuestCall], Awaitable[AnswerT]]) -> AnswerT:
        try:
            answer = await ask(GuestCall(self._context, call))
        except PermissionDenied as error:
            self._refused(HostCode.FORBIDDEN.value, error.message)
            raise
        if isinstance(answer, HostError) and answer.code == HostCode.FORBIDDEN:
            self._refused(HostCode.FORBIDDEN.value, answer.message)
        return answer

    def _refused(self, code: str, message: str) -> None:
        if self.refusal is None:
            self.refusal = Refusal(code, message)


def _wired(part: AnswerT | None, function: str) -> AnswerT:
    if part is None:
        raise NotWired(f"this kernel has no {function}")
    return part
