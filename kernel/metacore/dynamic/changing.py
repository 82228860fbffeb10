"""One change of a row with what belongs into its transaction: code of its addon, and the rows above it.

A change that has none of these is a single statement, as ever. Where rows above count the changed one, that is held
first, as `rollups` says.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from metacore.db.database import Database
from metacore.dynamic.hook_points import Hook, HookContext, HookPoint, HookRegistry
from metacore.dynamic.postgres import PostgresRows
from metacore.dynamic.rollups import Recomputed, RollupRule, affected, held_parents, recomputed, rollups_of
from metacore.dynamic.rows import Rows, exact
from metacore.dynamic.shape import ModelShape
from metacore.dynamic.sqlite import one_writing
from metacore.dynamic.transactions import one_transaction, repeated_after_deadlock
from metacore.dynamic.validation import check_computed, whole_row
from metacore.identity import Principal
from metacore.registry import Registry

PATIENCE_SECONDS: Final = 2.0
"""How long a change that rows above count waits for a row that somebody else holds. It has a transaction meanwhile."""

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
        rules = [
            rule for rule in rollups_of(self.registry, shape) if columns.get(rule.relation.foreign_key) is not None
        ]

        async def change(rows: Rows) -> bytes:
            return await rows.insert(shape, principal, row_id, columns)

        if not rules:
            return await change(self.rows)
        body = await self._change(shape, HookContext(principal, shape.model, row_id), rules, change, columns)
        assert body is not None, "what is inserted is there"
        return body

    async def delete(self, shape: ModelShape, context: HookContext, version: str | None) -> bytes | None:
        """As `Rows.delete`."""
        principal, row_id = context.principal, context.row_id

        async def change(rows: Rows) -> bytes | None:
            return await rows.delete(shape, principal, row_id, version)

        rules = rollups_of(self.registry, shape)
        return await self._change(shape, context, rules, change, version=version, held=True)

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
        together = bool(during)
        return await self._change(shape, context, rules, change, columns, version=version, held=True, together=together)

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
        context: HookContext,
        rules: Sequence[RollupRule],
        change: Callable[[Rows], Awaitable[bytes | None]],
        columns: Mapping[str, Any] | None = None,
        *,
        version: str | None = None,
        held: bool = False,
        together: bool = False,
    ) -> bytes | None:
        """Run `change` and compute the rows above anew; in one transaction when there are some, or for `together`.

        `columns` are those that it sets. `held` tells that the row is there already, to be held from the start; when
        it has another version than `version` by then, nothing is done.
        """
        if not rules and not together:
            return await change(self.rows)
        principal = context.principal

        async def once() -> tuple[bytes | None, list[Recomputed]]:
            async with self._transaction(shape, principal, rolled=bool(rules), code=together) as rows:
                versions: list[Mapping[str, Any]] = [columns] if columns is not None else []
                if held and rules:
                    before = await self._held(rows, shape, context, version)
                    if before is None:
                        return None, []
                    versions = [before, *({**before, **each} for each in versions)]
                parents = await held_parents(rows, self.registry, principal, rules, *versions)
                body = await change(rows)
                if body is None:
                    return None, []
                return body, await recomputed(rows, self.registry, principal, parents, self.computed)

        # What code of addons did meanwhile may stand, so it is not run again.
        body, rolled = await (once() if together or self.inside else repeated_after_deadlock(once))
        for parent in rolled:
            if (parent.shape.model.key, parent.context.row_id) == (shape.model.key, context.row_id):
                # The row is above itself: what it comes to is in it now.
                body = parent.body
            after = self.hooks.at(HookPoint.AFTER_UPDATE, parent.shape.model)
            await self.run_after(after, parent.context, parent.row)
        return body

    async def _held(
        self, rows: Rows, shape: ModelShape, context: HookContext, version: str | None
    ) -> Mapping[str, Any] | None:
        """The row as it is, held; None when it is not there, or no longer of that version."""
        if self.inside and version is not None:
            # Read in this transaction, so it is held.
            return context.before
        current = await rows.current(shape, context.principal, context.row_id)
        return None if current is None or version not in (None, current.version) else current.row

    @asynccontextmanager
    async def _transaction(
        self, shape: ModelShape, principal: Principal, *, rolled: bool, code: bool
    ) -> AsyncIterator[Rows]:
        if self.inside:
            yield self.rows
        elif self.db.dialect == "postgresql":
            # Rows are waited for within an organization, so it is one organization that holds transactions for it.
            tenant = None if code else principal.organization_id
            patience = PATIENCE_SECONDS if rolled else 0
            addon_key = shape.model.addon_key
            async with one_transaction(self.db, lock_seconds=patience, owner=addon_key, tenant=tenant) as connection:
                yield PostgresRows(self.db, within=connection)
        elif rolled:
            async with one_writing(self.db, shape, principal):
                yield self.rows
        else:
            yield self.rows
