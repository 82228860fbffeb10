"""Host services in memory: for tests of guests, and to try an addon's code without a database or a network.

What a real implementation asks the enforcer, the database or the network, this one takes from plain attributes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostCall, HostError, HostReply

Answer = HostReply | HostError
Statement = Callable[[str, list[Any]], Answer]

NOT_HERE = HostError(HostCode.DB_ERROR, "there is no database behind these services")


@dataclass
class MemoryServices:
    """`pages` are bodies by URL, `tables` rows by id by table. `on_query` and `on_exec` stand for the database."""

    settings: dict[str, str] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)
    connectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    on_query: Statement = lambda _sql, _args: NOT_HERE
    on_exec: Statement = lambda _sql, _args: NOT_HERE
    lines: list[str] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(default_factory=list)
    sequences: dict[tuple[str, str], int] = field(default_factory=dict)

    def log(self, call: HostCall, line: str) -> None:
        self.lines.append(line)

    def env_get(self, call: HostCall, key: str) -> str | None:
        return self.settings.get(key)

    async def http_fetch(self, call: HostCall, url: str, method: str, body: bytes) -> bytes | HostError:
        page = self.pages.get(url)
        return page if page is not None else HostError(HostCode.FORBIDDEN, f"no http:fetch for {url}")

    async def http_request(self, call: HostCall, request: dict[str, Any]) -> Answer:
        page = self.pages.get(str(request.get("url")))
        if page is None:
            return HostError(HostCode.FORBIDDEN, "no http:fetch for that host")
        return HostReply({"status": 200, "headers": {}, "body": page.decode("utf-8", "replace")})

    async def connector_get(self, call: HostCall, key: str) -> dict[str, Any] | HostError:
        credentials = self.connectors.get(key)
        return credentials if credentials is not None else HostError(HostCode.FORBIDDEN, "no connector:read")

    async def db_query(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
        return self.on_query(sql, args)

    async def db_exec(self, call: HostCall, sql: str, args: list[Any]) -> Answer:
        return self.on_exec(sql, args)

    async def event_emit(self, call: HostCall, name: str, payload: Any) -> Answer:
        self.events.append((name, payload))
        return HostReply({"event": name, "subscribers": 0})

    async def data_mutate(self, call: HostCall, mutation: dict[str, Any]) -> Answer:
        rows = self.tables.setdefault(str(mutation.get("table")), {})
        row_id = str(mutation.get("id") or uuid.uuid4())
        before = rows.get(row_id)
        operation = mutation.get("op")
        if operation != "create" and before is None:
            return HostError("not_found", f"no row {row_id}")
        if operation == "delete":
            del rows[row_id]
            return HostReply({"id": row_id, "before": before, "after": None})
        after = {**(before or {"id": row_id}), **mutation.get("data", {})}
        for column, delta in mutation.get("inc", {}).items():
            after[column] = after.get(column, 0) + delta
        rows[row_id] = after
        return HostReply({"id": row_id, "before": before, "after": after})

    async def data_query(self, call: HostCall, query: dict[str, Any]) -> Answer:
        where = query.get("where", {})
        rows = [
            row
            for row in self.tables.get(str(query.get("table")), {}).values()
            if all(row.get(column) == value for column, value in where.items())
        ]
        return HostReply({"rows": rows[: min(int(query.get("limit", 50)), 200)]})

    async def data_batch(self, call: HostCall, mutations: list[Any]) -> Answer:
        results = [await self.data_mutate(call, mutation) for mutation in mutations]
        return HostReply([result.data for result in results if isinstance(result, HostReply)])

    async def sequence_next(self, call: HostCall, request: dict[str, Any]) -> Answer:
        key = (str(request.get("model")), str(request.get("key")))
        self.sequences[key] = self.sequences.get(key, 0) + 1
        return HostReply({"value": str(self.sequences[key])})
