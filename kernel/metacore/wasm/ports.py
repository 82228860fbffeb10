"""What host functions ask of the rooms above: one method per function of the contract, for one invocation.

An implementation knows the organization, the caller and the transaction; it asks the enforcer first. Methods answer
with a value, or with `HostError` where the contract has a code; a `MetacoreError` is understood too. `log` and
`env_get` run in the worker thread and must not wait; all others are awaited on the event loop that made the invocation,
and are cancelled when the guest's time is up.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from metacore.wasm.abi import HostCode


@dataclass(frozen=True, slots=True)
class HostCall:
    """Which invocation asks. `deadline` is a time of `time.monotonic()`."""

    addon_key: str
    export: str
    deadline: float
    invocation_id: uuid.UUID = field(default_factory=uuid.uuid4)

    def remaining(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.deadline - time.monotonic())


def deadline_in(seconds: float) -> float:
    """The `HostCall.deadline` of an invocation that begins now."""
    return time.monotonic() + seconds


@dataclass(frozen=True, slots=True)
class HostReply:
    """`data` and `meta` of a success envelope: whatever orjson writes, `orjson.Fragment` included."""

    data: Any = None
    meta: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HostError:
    """An envelope that says no. `code` is a `HostCode`, or another stable word; `message` goes to the guest."""

    code: HostCode | str
    message: str
    sqlstate: str = ""


class HostServices(Protocol):
    """See the module. JSON arguments arrive parsed and of the right outer type, names and sizes within their limits."""

    def log(self, call: HostCall, line: str) -> None: ...

    def env_get(self, call: HostCall, key: str) -> str | None:
        """The setting's value; None when there is none."""

    async def http_fetch(self, call: HostCall, url: str, method: str, body: bytes) -> bytes | HostError:
        """The response's body, whatever its status. An empty `method` means GET."""

    async def http_request(self, call: HostCall, request: dict[str, Any]) -> HostReply | HostError:
        """`{url, method, headers, body}` to `{status, headers, body}`."""

    async def connector_get(self, call: HostCall, key: str) -> dict[str, Any] | HostError:
        """The decrypted credentials; they reach the guest bare, without an envelope."""

    async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> HostReply | HostError:
        """`{rows, rowCount, columns}` with meta `{schema, durationMs, truncated}`. `args` are not decoded yet."""

    async def db_exec(self, call: HostCall, sql: str, args: list[Any]) -> HostReply | HostError:
        """`{rowsAffected, lastInsertId, returning, columns}` with meta `{txId}`."""

    async def event_emit(self, call: HostCall, name: str, payload: Any) -> HostReply | HostError:
        """`{event, subscribers}`."""

    async def data_mutate(self, call: HostCall, mutation: dict[str, Any]) -> HostReply | HostError: ...

    async def data_query(self, call: HostCall, query: dict[str, Any]) -> HostReply | HostError: ...

    async def data_batch(self, call: HostCall, mutations: list[Any]) -> HostReply | HostError:
        """Up to 100 mutations in one transaction."""

    async def sequence_next(self, call: HostCall, request: dict[str, Any]) -> HostReply | HostError:
        """`{model, key}` to `{value}`."""
