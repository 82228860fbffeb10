"""`data_mutate`, `data_query`, `data_batch`, `sequence_next`: rows of live models, by the rules that every save obeys.

An addon's own models are free to it; those of other addons and of the host need db:read or db:write for their table.
"""

from __future__ import annotations

import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from metacore.addons.guest_context import GuestCall, GuestContext
from metacore.addons.host_calls.changes import Change, read_change, read_limit, words
from metacore.addons.host_calls.data_errors import host_error
from metacore.addons.host_calls.parts import Answer
from metacore.addons.model_access import RowGate, require_rows, schema_named
from metacore.capabilities.access import CapabilityKind
from metacore.dynamic.service import DynamicService
from metacore.errors import InvalidInput, MetacoreError, NotFound, NotWired
from metacore.identity import Principal, nobody
from metacore.registry import LiveModel, Registry
from metacore.wasm.abi import HostCode
from metacore.wasm.ports import HostError, HostReply

HELD_SECONDS: Final = 1.0
"""Inside run_in_tx the row that is waited for may be the action's own: then waiting longer cannot help."""
LOCK_SECONDS: Final = 5.0


class GuestData:
    """`dynamic` is a service that asks no user's permission: what a guest may do, the gate decides."""

    def __init__(self, dynamic: DynamicService, registry: Registry, gate: RowGate, *, transactions: bool) -> None:
        """`transactions` tells whether the database has them for several statements (PostgreSQL)."""
        self._dynamic = dynamic
        self._registry = registry
        self._gate = gate
        self._transactions = transactions

    async def data_mutate(self, guest: GuestCall, mutation: dict[str, Any]) -> Answer:
        """`{op, table|model, id?, data?, inc?, returning?}` to `{id, row}`; `row` of a deleted one is as it was."""
        try:
            change = self._change(guest.context, mutation)
            if self._transactions and (change.increments or guest.context.transaction is not None):
                async with self._transaction(guest) as service:
                    return HostReply(await _carry_out(service, guest.context, change))
            return HostReply(await _carry_out(self._dynamic, guest.context, change))
        except MetacoreError as error:
            return _told(guest, error)

    async def data_batch(self, guest: GuestCall, mutations: list[Any]) -> Answer:
        """All of them, or none: `{results: [{id, row}, …]}` in their order."""
        if not self._transactions:
            return host_error(NotWired("data_batch needs PostgreSQL; this kernel runs on SQLite"))
        changes: list[Change] = []
        results: list[dict[str, Any]] = []
        failed = 0
        try:
            for mutation in mutations:
                failed = len(changes)
                changes += [self._change(guest.context, _object(mutation))]
            failed = 0
            async with self._transaction(guest) as service:
                for change in changes:
                    failed = len(results)
                    results += [await _carry_out(service, guest.context, change)]
        except MetacoreError as error:
            found = _told(guest, error)
            message = f"mutation {failed}: {found.message}; nothing was changed"
            return HostError(found.code, message, found.sqlstate)
        return HostReply({"results": results})

    async def data_query(self, guest: GuestCall, query: dict[str, Any]) -> Answer:
        """`{table|model, where?, limit?}` to `{rows}`, the newest first."""
        context = guest.context
        try:
            model = self._model(context, query)
            require_rows(self._gate, context, CapabilityKind.DB_READ, model)
            where = query.get("where") or {}
            if not isinstance(where, dict):
                raise InvalidInput("where must be an object: columns and the values that they must have")
            rows = await self._dynamic.find(_principal(context), model.key, where, limit=read_limit(query.get("limit")))
        except MetacoreError as error:
            return host_error(error)
        return HostReply({"rows": rows})

    async def sequence_next(self, guest: GuestCall, request: dict[str, Any]) -> Answer:
        """`{model, key, scope?}` to `{value}`. The number is used up, whatever becomes of the guest's own work."""
        context = guest.context
        try:
            model = self._model(context, request)
            require_rows(self._gate, context, CapabilityKind.DB_WRITE, model)
            value = await self._dynamic.next_number(
                _principal(context), model.key, words(request, "key"), request.get("scope")
            )
        except MetacoreError as error:
            return host_error(error)
        return HostReply({"value": value})

    def _transaction(self, guest: GuestCall) -> AbstractAsyncContextManager[DynamicService]:
        return self._dynamic.transaction(lock_seconds=_patience(guest), owner=guest.context.addon_key)

    def _change(self, context: GuestContext, mutation: dict[str, Any]) -> Change:
        model = self._model(context, mutation)
        change = read_change(model, mutation, own=model.addon_key == context.addon_key)
        require_rows(self._gate, context, CapabilityKind.DB_WRITE, model)
        return change

    def _model(self, context: GuestContext, request: dict[str, Any]) -> LiveModel:
        """The model that `model` or `table` names, the table also as `addon_<key>.<table>`."""
        if not request.get("model") and not request.get("table"):
            raise InvalidInput("model or table is required, as a text")
        name = words(request, "model" if request.get("model") else "table")
        schema, dot, table = name.rpartition(".")
        model = self._registry.model_for(table if dot else name, context.organization_id)
        if dot and schema not in (schema_named(model), model.schema_of(context.organization_id)):
            raise NotFound(f"unknown model {name[:64]!r}", code="unknown_model")
        return model


def _principal(context: GuestContext) -> Principal:
    return context.principal or nobody(context.organization_id)


def _patience(guest: GuestCall) -> float:
    """How long another's lock is waited for, in seconds."""
    most = LOCK_SECONDS if guest.context.transaction is None else HELD_SECONDS
    return max(0.01, min(most, guest.call.remaining()))


def _told(guest: GuestCall, error: MetacoreError) -> HostError:
    found = host_error(error)
    if found.code != HostCode.SERIALIZATION_FAILURE or guest.context.transaction is None:
        return found
    hint = "the row that this action holds is changed by db_exec, not by data_mutate"
    return HostError(found.code, f"{found.message}; {hint}", found.sqlstate)


def _object(mutation: Any) -> dict[str, Any]:
    if not isinstance(mutation, dict):
        raise InvalidInput("must be an object")
    return mutation


async def _carry_out(service: DynamicService, context: GuestContext, change: Change) -> dict[str, Any]:
    principal = _principal(context)
    row: dict[str, Any] | None
    if change.operation == "create":
        row = await service.create(principal, change.model.key, change.values, by_code=change.own)
        return change.answer(uuid.UUID(row["id"]), row)
    assert change.row_id is not None
    if change.operation == "update":
        row = await service.update(
            principal,
            change.model.key,
            change.row_id,
            change.values,
            increments=change.increments,
            by_code=change.own,
        )
    else:
        row = await service.delete(principal, change.model.key, change.row_id)
    return change.answer(change.row_id, row)
