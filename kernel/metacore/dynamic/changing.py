"""One change of a row with what belongs into its transaction: code of its addon, and the rows above it.

A change that has none of these is a single statement, as ever.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from metacore.db.database import Database
from metacore.dynamic.hook_points import Hook, HookContext, HookPoint, HookRegistry
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.rollups import RollupRule, affected, held_parents, recomputed, rollups_of
from metacore.dynamic.rows import Current, Rows, exact
from metacore.dynamic.shape import ModelShape
from metacore.dynamic.transactions import HOLD_SECONDS, one_transaction
from metacore.dynamic.validation import check_computed, whole_row
from metacore.identity import Principal
from metacore.registry import Registry

Body = TypeVar("Body", bytes, bytes | None)
Version: TypeAlias = Mapping[str, Any] | None
"""A row as it was, or as it will be."""
RunAfter: TypeAlias = Callable[[list[Hook], HookContext, dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Changing:
    """`inside` tells that `rows` are in a transaction already. `run_after` runs hooks once the change is committed."""

    db: Database
    registry: Registry
    rows: Rows
    inside: bool
    hooks: HookRegistry
    run_after: RunAfter

    async def insert(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, columns: Mapping[str, Any]
    ) -> bytes:
        rules = rollups_of(self.registry, shape)
        return await self._change(
            shape, principal, rules, (columns,), lambda rows: rows.insert(shape, principal, row_id, columns)
        )

    async def delete(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, current: Current | None
    ) -> bytes | None:
        """As `Rows.delete`. `current` is the row as it is, needed where it has rows above it."""
        version = current.version if current else None
        return await self._change(
            shape,
            principal,
            rollups_of(self.registry, shape),
            (current.row if current else None,),
            lambda rows: rows.delete(shape, principal, row_id, version),
        )

    async def update(
        self, shape: ModelShape, context: HookContext, columns: Mapping[str, Any], version: str | None
    ) -> bytes | None:
        """As `Rows.update`, with the hooks that run in its transaction; what they raise takes the change back."""
        principal, row_id = context.principal, context.row_id
        during = self.hooks.at(HookPoint.DURING_UPDATE, shape.model)
        on_postgres = self.db.dialect == "postgresql"
        if during and not on_postgres:
            # One writer at a time: code that writes, too, would wait for this very change. So it runs before it.
            row = whole_row(shape, context.before, columns)
            for hook in during:
                await hook(context, dict(row))

        async def change(rows: Rows) -> bytes | None:
            body = await rows.update(shape, principal, row_id, columns, version)
            if body is not None and on_postgres:
                for hook in during:
                    await hook(context, exact(body))
            return body

        rules = affected(rollups_of(self.registry, shape), columns)
        versions = (context.before, {**(context.before or {}), **columns}) if rules else ()
        return await self._change(shape, principal, rules, versions, change, together=bool(during))

    async def computed(self, shape: ModelShape, context: HookContext, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Values of columns that code computes, from the row as it will be."""
        hooks = self.hooks.at(HookPoint.COMPUTE, shape.model)
        if not hooks:
            return {}
        found: dict[str, Any] = {}
        row = whole_row(shape, context.before, columns)
        for hook in hooks:
            found |= check_computed(shape, await hook(context, {**row, **found}) or {})
        return found

    async def _change(
        self,
        shape: ModelShape,
        principal: Principal,
        rules: Sequence[RollupRule],
        versions: Sequence[Version],
        change: Callable[[Rows], Awaitable[Body]],
        *,
        together: bool = False,
    ) -> Body:
        """Run `change` and compute the rows above anew; in one transaction when there are some, or for `together`."""
        if not rules and not together:
            return await change(self.rows)
        async with AsyncExitStack() as stack:
            rows = self.rows
            if not self.inside and self.db.dialect == "postgresql":
                patience = HOLD_SECONDS if rules else 0
                transaction = one_transaction(self.db, lock_seconds=patience, owner=shape.model.addon_key)
                rows = PostgresRows(self.db, within=await stack.enter_async_context(transaction))
            parents = await held_parents(rows, principal, rules, *versions)
            body = await change(rows)
            if body is None:
                return body
            rolled = await recomputed(rows, self.registry, principal, shape, parents, self.computed)
        for parent in rolled:
            after = self.hooks.at(HookPoint.AFTER_UPDATE, parent.shape.model)
            await self.run_after(after, parent.context, parent.row)
        return body
