"""Create, read, update, delete and list rows of whatever models are live: permissions, hooks, rules, one statement.

The `*_json` methods give the reply's bytes as they go out; the others give Python values to programs that embed the
kernel. A caller sees rows of the own organization only; everything else does not exist.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, Protocol, TypeAlias

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.database import Database
from metacore.dynamic.changing import PATIENCE_SECONDS, Changing
from metacore.dynamic.counting import OperationCounter
from metacore.dynamic.hook_points import Hook, HookContext, HookPoint, HookRegistry, run_after, run_before
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.query import parse_shaped_query, rows_equal
from metacore.dynamic.rollups import affected, rollups_of
from metacore.dynamic.rows import NO_TAGS, Current, Rows, contended, exact, no_row, row_envelope
from metacore.dynamic.rules import needs_current, reached, rules_of
from metacore.dynamic.sequences import next_number, numbered
from metacore.dynamic.shape import ModelShape, shape_of
from metacore.dynamic.sqlite import SqliteRows
from metacore.dynamic.transactions import HeldRow, hold_row, one_transaction, repeated_after_deadlock
from metacore.dynamic.validation import (
    Custom,
    CustomValidator,
    check_create,
    check_update,
    increased,
)
from metacore.identity import Principal
from metacore.ids import new_uuid
from metacore.metadata.validators import OrganizationValidators, ValidatorSource
from metacore.metrics import Metrics
from metacore.registry import Registry

ATTEMPTS = 5
"""How often a change that depends on the row as it is starts over when others change the row in between."""


Hooks: TypeAlias = list[Hook]
Deferred: TypeAlias = list[tuple[Hooks, HookContext, dict[str, Any]]]
"""Hooks that run once a transaction is committed, with what they are told."""


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
        self._db = db
        # Within a transaction: the hooks that run once it is committed.
        self._committed: Deferred | None = None
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
                raise no_row()
            return row_envelope(body)

    async def create_json(
        self, principal: Principal, name: str, values: Mapping[str, Any], *, by_code: bool = False
    ) -> bytes:
        """Create a row. `by_code` tells that the values come from code of the model's addon, which may set what users
        may only read."""
        shape = await self._open(principal, name, "create")
        with self._counter.of(shape.model.key, "create"):
            return row_envelope(await self._create(shape, principal, _accepted(shape, values, by_code)))

    async def update_json(
        self,
        principal: Principal,
        name: str,
        row_id: uuid.UUID,
        values: Mapping[str, Any],
        *,
        increments: Mapping[str, Any] | None = None,
        by_code: bool = False,
        tags: frozenset[str] = NO_TAGS,
    ) -> bytes:
        """Change the columns in `values`, and only them; add `increments` to what numbers are, without losing any that
        others add meanwhile. With `tags` only if one of them is the row's (or `*`), else StaleVersion."""
        shape = await self._open(principal, name, "update")
        with self._counter.of(shape.model.key, "update"):
            accepted = _accepted(shape, values, by_code)
            added = _accepted(shape, increments or {}, by_code)
            return row_envelope(await self._update(shape, principal, row_id, accepted, added, tags))

    async def delete(
        self, principal: Principal, name: str, row_id: uuid.UUID, *, tags: frozenset[str] = NO_TAGS
    ) -> dict[str, Any]:
        """Delete the row, or mark it as deleted where the model says so. Gives it as it was. `tags` as in a change."""
        shape = await self._open(principal, name, "delete")
        with self._counter.of(shape.model.key, "delete"):
            row: dict[str, Any] = orjson.loads(await self._delete(shape, principal, row_id, tags))
            return row

    async def find(
        self, principal: Principal, name: str, equal: Mapping[str, Any], *, limit: int
    ) -> list[dict[str, Any]]:
        """Up to `limit` rows, the newest first, whose columns have exactly these JSON values (null: none).

        Raises:
            InvalidInput: an unknown or secret column, or a value that it cannot have.
        """
        shape = await self._open(principal, name, "read")
        with self._counter.of(shape.model.key, "list"):
            query = rows_equal(shape, equal, limit)
            data: list[dict[str, Any]] = orjson.loads(await self._rows.page(shape, principal, query))["data"]
            return data

    async def next_number(self, principal: Principal, name: str, key: str, scope: Any = None) -> str:
        """The next value of a declared sequence; see `sequences.next_number`."""
        shape = shape_of(self._registry.model_for(name, principal.organization_id))
        return await next_number(self._rows, shape, principal.organization_id, key, scope)

    @asynccontextmanager
    async def transaction(
        self, *, lock_seconds: float = 0, owner: str = "", tenant: uuid.UUID | None = None
    ) -> AsyncIterator[DynamicService]:
        """A service whose changes are all committed when the block ends well, or none; hooks after a change run then.

        Rows that it changes are held until the end. With `lock_seconds` it waits no longer than that for a row which
        somebody else holds: `Unavailable` with the code `database_busy`. `owner` is the addon that asks for it: not all
        that there can be at once are for one, nor with `tenant` for one organization. Only on PostgreSQL.

        Raises:
            Misconfigured: on SQLite.
            Unavailable: the database cannot be reached, or whether the change was committed is not known.
        """
        committed: Deferred = []
        async with one_transaction(self._db, lock_seconds=lock_seconds, owner=owner, tenant=tenant) as connection:
            inner = copy(self)
            inner._rows = PostgresRows(self._db, within=connection)
            inner._on_commit = _nothing
            inner._committed = committed
            yield inner
        self._on_commit()
        for hooks, context, row in committed:
            await run_after(hooks, context, row)

    async def hold(self, connection: AsyncConnection, principal: Principal, name: str, row_id: uuid.UUID) -> HeldRow:
        """The row, held until the end of the transaction that `connection` is in. Only on PostgreSQL.

        Raises:
            NotFound: no such row for the caller.
            Conflict: somebody else holds it for too long.
        """
        shape = shape_of(self._registry.model_for(name, principal.organization_id))
        held = await hold_row(self._db, connection, shape, principal, row_id)
        if held is None:
            raise no_row()
        return held

    async def _delete(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, tags: frozenset[str]) -> bytes:
        hooks = self.hooks.at(HookPoint.BEFORE_DELETE, shape.model)
        for _ in range(ATTEMPTS):
            current = await self._current(shape, principal, row_id) if hooks or tags else None
            context = HookContext(principal, shape.model, row_id, current.row if current else None)
            if current is not None:
                current.require(tags)
                await run_before(hooks, context, dict(current.row))
            body = await self._changing.delete(shape, context, current.version if current else None)
            if body is not None:
                self._on_commit()
                after = self.hooks.at(HookPoint.AFTER_DELETE, shape.model)
                if after:
                    row = exact(body)
                    await self._run_after(after, HookContext(principal, shape.model, row_id, row), row)
                return body
            if current is None:
                raise no_row()
        raise contended()

    async def list(
        self, principal: Principal, name: str, params: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rows of a list, and its meta."""
        reply = orjson.loads(await self.list_json(principal, name, params))
        return reply["data"], reply["meta"]

    async def get(self, principal: Principal, name: str, row_id: uuid.UUID) -> dict[str, Any]:
        return _data(await self.get_json(principal, name, row_id))

    async def create(
        self, principal: Principal, name: str, values: Mapping[str, Any], *, by_code: bool = False
    ) -> dict[str, Any]:
        return _data(await self.create_json(principal, name, values, by_code=by_code))

    async def update(
        self,
        principal: Principal,
        name: str,
        row_id: uuid.UUID,
        values: Mapping[str, Any],
        *,
        increments: Mapping[str, Any] | None = None,
        by_code: bool = False,
    ) -> dict[str, Any]:
        return _data(await self.update_json(principal, name, row_id, values, increments=increments, by_code=by_code))

    async def _open(self, principal: Principal, name: str, action: str) -> ModelShape:
        """The model, if the caller may do `action` on it. Almost always without a wait."""
        shape = shape_of(self._registry.model_for(name, principal.organization_id))
        if self._permissions is not None:
            capability = shape.capabilities[action]
            if not self._permissions.check_cached(principal, capability):
                await self._permissions.require(principal, capability)
        return shape

    async def _run_after(self, hooks: Hooks, context: HookContext, row: dict[str, Any]) -> None:
        if self._committed is None:
            await run_after(hooks, context, row)
        else:
            self._committed.append((hooks, context, row))

    async def _create(self, shape: ModelShape, principal: Principal, given: dict[str, Any]) -> bytes:
        row_id = new_uuid()
        hooks = self.hooks.at(HookPoint.BEFORE_CREATE, shape.model)
        if hooks:
            given = await run_before(hooks, HookContext(principal, shape.model, row_id), given)
        columns = check_create(shape, given, await self._custom(shape, principal, given))
        columns |= await numbered(self._rows, shape, principal.organization_id, columns)
        changing = self._changing
        columns |= await changing.computed(shape, HookContext(principal, shape.model, row_id), columns)
        body = await changing.insert(shape, principal, row_id, columns)
        self._on_commit()
        after = self.hooks.at(HookPoint.AFTER_CREATE, shape.model)
        if after:
            await self._run_after(after, HookContext(principal, shape.model, row_id), exact(body))
        return body

    async def _update(
        self,
        shape: ModelShape,
        principal: Principal,
        row_id: uuid.UUID,
        accepted: Mapping[str, Any],
        increments: Mapping[str, Any],
        tags: frozenset[str],
    ) -> bytes:
        hooks = self.hooks.at(HookPoint.BEFORE_UPDATE, shape.model)
        after = self.hooks.at(HookPoint.AFTER_UPDATE, shape.model)
        others = (self.hooks.at(point, shape.model) for point in (HookPoint.DURING_UPDATE, HookPoint.COMPUTE))
        coded = bool(hooks) or any(others)
        if self._may_hold and not coded and (rolled := rollups_of(self._registry, shape)):
            # The row is held and its own changes take turns, as those of the rows above do. Code runs outside of that.
            names = reached(rules_of(shape), (*accepted, *increments))
            if affected(rolled, names):
                return await repeated_after_deadlock(
                    lambda: self._update_held(shape, principal, row_id, accepted, increments, tags)
                )
        watched = coded or bool(after)
        changing = self._changing
        for _ in range(ATTEMPTS):
            given = dict(accepted)
            current: Current | None = None
            if watched or increments or tags or needs_current(rules_of(shape), given):
                current = await self._current(shape, principal, row_id)
                current.require(tags)
            if current is not None and increments:
                given |= increased(shape, current.row, increments)
            context = HookContext(principal, shape.model, row_id, current.row if current else None)
            if hooks:
                given = await run_before(hooks, context, given)
            now = datetime.datetime.now(datetime.UTC)
            custom = await self._custom(shape, principal, given)
            columns = check_update(shape, given, current.row if current else None, now, custom)
            if not columns:
                body = await self._rows.get(shape, principal, row_id)
                if body is None:
                    raise no_row()
                return body
            columns |= await changing.computed(shape, context, columns)
            body = await changing.update(shape, context, columns, current.version if current else None)
            if body is not None:
                self._on_commit()
                if after:
                    await self._run_after(after, context, exact(body))
                return body
            if current is None:
                raise no_row()
        raise contended()

    async def _update_held(
        self,
        shape: ModelShape,
        principal: Principal,
        row_id: uuid.UUID,
        accepted: Mapping[str, Any],
        increments: Mapping[str, Any],
        tags: frozenset[str],
    ) -> bytes:
        owner, tenant = shape.model.addon_key, principal.organization_id
        async with self.transaction(lock_seconds=PATIENCE_SECONDS, owner=owner, tenant=tenant) as inner:
            return await inner._update(shape, principal, row_id, accepted, increments, tags)

    @property
    def _may_hold(self) -> bool:
        """Whether a change may have a transaction of its own, in which it holds rows."""
        return self._committed is None and self._db.dialect == "postgresql"

    @property
    def _changing(self) -> Changing:
        return Changing(self._db, self._registry, self._rows, self._committed is not None, self.hooks, self._run_after)

    async def _current(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> Current:
        current = await self._rows.current(shape, principal, row_id)
        if current is None:
            raise no_row()
        return current

    async def _custom(self, shape: ModelShape, principal: Principal, given: Mapping[str, Any]) -> Custom:
        organization: Mapping[str, Any] = {}
        if not rules_of(shape).organization_columns.isdisjoint(given):
            organization = await self._validators(principal.organization_id)
        return Custom(self.custom_validators, organization)


def _accepted(shape: ModelShape, values: Mapping[str, Any], by_code: bool) -> dict[str, Any]:
    """What of a caller's input counts. The rest (kernel columns, read-only ones, unknown names) is ignored."""
    accepted = shape.settable if by_code else shape.accepted
    return {name: value for name, value in values.items() if name in accepted}


def _nothing() -> None:
    return None


def _data(envelope: bytes) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(envelope)["data"]
    return data
