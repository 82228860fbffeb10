"""The seams between the functions of the host and those who answer them."""

from __future__ import annotations

from typing import Any, Protocol

from metacore.addons.guest_context import GuestCall
from metacore.wasm.ports import HostError, HostReply

Answer = HostReply | HostError


class EventCalls(Protocol):
    async def event_emit(self, guest: GuestCall, name: str, payload: Any) -> Answer: ...


class DataCalls(Protocol):
    async def data_mutate(self, guest: GuestCall, mutation: dict[str, Any]) -> Answer: ...

    async def data_query(self, guest: GuestCall, query: dict[str, Any]) -> Answer: ...

    async def data_batch(self, guest: GuestCall, mutations: list[Any]) -> Answer: ...

    async def sequence_next(self, guest: GuestCall, request: dict[str, Any]) -> Answer: ...


class SqlCalls(Protocol):
    async def db_query(self, guest: GuestCall, sql: str, args: list[Any]) -> Answer: ...

    async def db_exec(self, guest: GuestCall, sql: str, args: list[Any]) -> Answer: ...


class WebCalls(Protocol):
    async def http_fetch(self, guest: GuestCall, url: str, method: str, body: bytes) -> bytes | HostError: ...

    async def http_request(self, guest: GuestCall, request: dict[str, Any]) -> Answer: ...


class ConnectorCalls(Protocol):
    async def connector_get(self, guest: GuestCall, key: str) -> dict[str, Any] | HostError: ...
