"""Create, read, update, delete and list rows of whatever models are live: permissions, hooks, rules, one statement.

The `*_json` methods give the reply's bytes as they go out; the others give Python values to programs that embed the
kernel. A caller sees rows of the own organization only; everything else does not exist.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from metacore.db.database import Database
from metacore.dynamic.counting import OperationCounter
from metacore.dynamic.hook_points import HookContext, HookPoint, HookRegistry, run_after, run_before
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.query import parse_shaped_query
from metacore.dynamic.rows import Current, Rows, exact, row_envelope
from metacore.dynamic.rules import needs_current, rules_of
from metacore.dynamic.shape import ModelShape, shape_of
from metacore.dynamic.sqlite import SqliteRows
from metacore.dynamic.validation import Custom, CustomValidator, check_create, check_update
from metacore.errors import Conflict, NotFound
from metacore.identity import Principal
from metacore.ids import new_uuid
from metacore.metadata.validators import OrganizationValidators, ValidatorSource
from metacore.metrics import Metrics
from metacore.registry import Registry

ATTEMPTS = 5
"""How often a change that depends on the row as it is starts over when others change the row in between."""


class Gate(Protocol):
    """Who may do what; `metacore.permissions.service` has the real one."""

    def check_cached(self, principal: Principal, capability: str) -> bool | None: ...

    async def require(self, principal: Principal, *capabilities: str, any_of: bool = False) -> None: ...


class DynamicService:
    """CRUD on the models of `registry`.

    Without `permissions` no user is refused anything. `on_commit` is called after every change that was committed; it
    wakes the relay. `validators` gives an organization's own validation rules, `custom_validators` are those that the
    host registered by name.

    Every method may raise `NotFound` (no such model or row for the caller), `PermissionDenied`, `Fenced` and
    `Unavailable`; those that take values also `InvalidInput` (a wrong type), `Refused` (a rule that does not hold)
    and `Conflict` (a unique value that is taken), each with every problem by field.
    """

    def __init__(
        self,
        db: Database,
        registry: Registry,
        *,
        hooks: HookRegistry | None = None,
        permissions: Gate | None = None,
        validators: ValidatorSource | None = None,
        custom_validators: Mapping[str, CustomValidator] | None = None,
        on_commit: Callable[[], None] = lambda: None,
        max_per_page: int = 200,
        coalesce: bool = True,
        metrics: Metrics | None = None,
    ) -> None:
        self.hooks = hooks if hooks is not None else HookRegistry()
        self.custom_validators: dict[str, CustomValidator] = dict(custom_validators or {})
        self.max_per_page = max_per_page
        self._registry = registry
        self._permissions = permissions
        self._validators: ValidatorSource = validators or OrganizationValidators(db)
        self._on_commit = on_commit
        self._counter = OperationCounter(metrics)
        self._rows: Rows = PostgresRows(db, coalesce=coalesce) if db.dialect == "postgresql" else SqliteRows(db)

    async def list_json(self, principal: Principal, name: str, params: Sequence[tuple[str, str]]) -> bytes:
        """The envelope of a list; `params` are the fields of the query string (contract 5).

        Raises:
            InvalidInput: a filter value of the wrong type, a number that is none, a broken cursor.
        """
        shape = await self._open(principal, name, "read")
        with self._counter.of(shape.model.key, "list"):
            query = parse_shaped_query(shape, params, max_per_page=self.max_per_page)
            return await self._rows.page(shape, principal, query)

    async def get_json(self, principal: Principal, name: str, row_id: uuid.UUID) -> bytes:
        shape = await self._open(principal, name, "read")
        with self._counter.of(shape.model.key, "get"):
            body = await self._rows.get(shape, principal, row_id)
            if body is None:
                raise _no_row()
            return row_envelope(body)

    async def create_json(self, principal: Principal, name: str, values: Mapping[str, Any]) -> bytes:
        shape = await self._open(principal, name, "create")
        with self._counter.of(shape.model.key, "create"):
            return row_envelope(await self._create(shape, principal, values))

    async def update_json(self, principal: Principal, name: str, row_id: uuid.UUID, values: Mapping[str, Any]) -> bytes:
        """Change the columns in `values`, and only them."""
        shape = await self._open(principal, name, "update")
        with self._counter.of(shape.model.key, "update"):
            return row_envelope(await self._update(shape, principal, row_id, values))

    async def delete(self, principal: Principal, name: str, row_id: uuid.UUID) -> None:
        """Delete the row, or mark it as deleted where the model says so."""
        shape = await self._open(principal, name, "delete")
        with self._counter.of(shape.model.key, "delete"):
            await self._delete(shape, principal, row_id)

    async def _delete(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> None:
        hooks = self.hooks.at(HookPoint.BEFORE_DELETE, shape.model)
        for _ in range(ATTEMPTS):
            current = await self._current(shape, principal, row_id) if hooks else None
            context = HookContext(principal, shape.model, row_id, current.row if current else None)
            if current is not None:
                await run_before(hooks, context, dict(current.row))
            body = await self._rows.delete(shape, principal, row_id, current.version if current else None)
            if body is not None:
                self._on_commit()
                after = self.hooks.at(HookPoint.AFTER_DELETE, shape.model)
                if after:
                    row = exact(body)
                    await run_after(after, HookContext(principal, shape.model, row_id, row), row)
                return
            if current is None:
                raise _no_row()
        raise _contended()

    async def list(
        self, principal: Principal, name: str, params: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rows of a list, and its meta."""
        reply = orjson.loads(await self.list_json(principal, name, params))
        return reply["data"], reply["meta"]

    async def get(self, principal: Principal, name: str, row_id: uuid.UUID) -> dict[str, Any]:
        return _data(await self.get_json(principal, name, row_id))

    async def create(self, principal: Principal, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return _data(await self.create_json(principal, name, values))

    async def update(
        self, principal: Principal, name: str, row_id: uuid.UUID, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        return _data(await self.update_json(principal, name, row_id, values))

    async def _open(self, principal: Principal, name: str, action: str) -> ModelShape:
        """The model, if the caller may do `action` on it. Almost always without a wait."""
        shape = shape_of(self._registry.model_for(name, principal.organization_id))
        if self._permissions is not None:
            capability = shape.capabilities[action]
            if not self._permissions.check_cached(principal, capability):
                await self._permissions.require(principal, capability)
        return shape

    async def _create(self, shape: ModelShape, principal: Principal, values: Mapping[str, Any]) -> bytes:
        row_id = new_uuid()
        given = _accepted(shape, values)
        hooks = self.hooks.at(HookPoint.BEFORE_CREATE, shape.model)
        if hooks:
            given = await run_before(hooks, HookContext(principal, shape.model, row_id), given)
        columns = check_create(shape, given, await self._custom(shape, principal, given))
        body = await self._rows.insert(shape, principal, row_id, columns)
        self._on_commit()
        after = self.hooks.at(HookPoint.AFTER_CREATE, shape.model)
        if after:
            await run_after(after, HookContext(principal, shape.model, row_id), exact(body))
        return body

    async def _update(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, values: Mapping[str, Any]
    ) -> bytes:
        accepted = _accepted(shape, values)
        hooks = self.hooks.at(HookPoint.BEFORE_UPDATE, shape.model)
        after = self.hooks.at(HookPoint.AFTER_UPDATE, shape.model)
        for _ in range(ATTEMPTS):
            given = dict(accepted)
            current: Current | None = None
            if hooks or after or needs_current(rules_of(shape), given):
                current = await self._current(shape, principal, row_id)
            context = HookContext(principal, shape.model, row_id, current.row if current else None)
            if hooks:
                given = await run_before(hooks, context, given)
            now = datetime.datetime.now(datetime.UTC)
            custom = await self._custom(shape, principal, given)
            columns = check_update(shape, given, current.row if current else None, now, custom)
            if not columns:
                body = await self._rows.get(shape, principal, row_id)
                if body is None:
                    raise _no_row()
                return body
            body = await self._rows.update(shape, principal, row_id, columns, current.version if current else None)
            if body is not None:
                self._on_commit()
                if after:
                    await run_after(after, context, exact(body))
                return body
            if current is None:
                raise _no_row()
        raise _contended()

    async def _current(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> Current:
        current = await self._rows.current(shape, principal, row_id)
        if current is None:
            raise _no_row()
        return current

    async def _custom(self, shape: ModelShape, principal: Principal, given: Mapping[str, Any]) -> Custom:
        organization: Mapping[str, Any] = {}
        if not rules_of(shape).organization_columns.isdisjoint(given):
            organization = await self._validators(principal.organization_id)
        return Custom(self.custom_validators, organization)


def _accepted(shape: ModelShape, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a caller's input counts. The rest (kernel columns, read-only ones, unknown names) is ignored."""
    return {name: value for name, value in values.items() if name in shape.accepted}


def _data(envelope: bytes) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(envelope)["data"]
    return data


def _no_row() -> NotFound:
    return NotFound("no such row", code="unknown_row")


def _contended() -> Conflict:
    return Conflict("the row is being changed by others all the time; try again", code="contention")
