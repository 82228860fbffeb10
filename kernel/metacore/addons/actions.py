"""Actions on rows and tables: who may, in which state, with which input; then the addon's code, in a transaction of
its own where the manifest says so."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

from metacore.addons.action_fields import checked_input
from metacore.addons.action_lookup import FoundAction, find_action
from metacore.addons.guest_context import GuestContext, GuestTransaction
from metacore.addons.invocation import Handler, Invocation, Result
from metacore.addons.model_access import RowGate, require_rows
from metacore.addons.runner import AddonRunner
from metacore.capabilities.access import CapabilityKind
from metacore.db.database import Database
from metacore.db.faults import fault_of
from metacore.dynamic.fair_slots import FairSlots
from metacore.dynamic.service import DynamicService
from metacore.errors import Conflict, Fenced, MetacoreError, NotFound, NotWired, PermissionDenied, Refused, Unavailable
from metacore.identity import Principal
from metacore.metadata.derive import derive_action
from metacore.registry import LiveModel, Registry

STATE_COLUMNS = ("status", "state")
SLOT_SECONDS = 10.0
"""How long an action waits for its turn to hold a transaction open."""
FORBIDDEN = "forbidden"
"""The code of an action that failed because its addon was not granted what it did."""


class UserGate(Protocol):
    """What users may do; `metacore.permissions.service` has the real one."""

    async def require(self, principal: Principal, *capabilities: str, any_of: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """What came of an action. `meta` tells model, action, trigger, and `rolled_back` when its writes were."""

    result: Result
    meta: Mapping[str, Any]

    @property
    def forbidden(self) -> bool:
        return not self.result.success and self.result.code == FORBIDDEN


class _RolledBack(Exception):
    """Ends the transaction of an action that did not succeed. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One action, about to run."""

    principal: Principal
    model: LiveModel
    found: FoundAction
    handler: Handler
    row_id: uuid.UUID | None
    values: Mapping[str, Any]

    def invocation(self, row: Mapping[str, Any] | None) -> Invocation:
        principal, key = self.principal, self.found.definition.key
        identity = uuid.uuid4()
        payload: dict[str, Any] = {
            "action": key,
            "model": self.model.key,
            "table": self.model.definition.table,
            "id": str(self.row_id) if self.row_id is not None else None,
            "row": dict(row) if row is not None else None,
            "input": dict(self.values),
            "organization_id": str(principal.organization_id),
            "user": {"id": str(principal.user_id), "email": principal.email, "role": principal.role},
            "locale": principal.locale,
            "invocation_id": str(identity),
        }
        return Invocation(
            addon_key=self.found.addon.key,
            organization_id=principal.organization_id,
            trigger="action",
            name=f"{self.model.key}::{key}",
            handler=self.handler,
            payload=payload,
            principal=principal,
            caller=str(principal.user_id),
            id=identity,
        )


class ActionService:
    """`dynamic` is a service that asks no user's permission for rows: an action has a permission of its own."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        dynamic: DynamicService,
        runner: AddonRunner,
        *,
        gate: RowGate,
        permissions: UserGate | None,
        on_commit: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._database = database
        self._registry = registry
        self._dynamic = dynamic
        self._runner = runner
        self._permissions = permissions
        self._on_commit = on_commit
        # Each holds a connection, so there are fewer than connections: whoever has one may need another besides.
        total = max(1, database.pool_size // 2)
        self._slots = FairSlots(
            total,
            max(1, total - 1),
            wait_seconds=SLOT_SECONDS,
            what="actions in transactions",
            code="actions_busy",
            retry_after=1.0,
        )

    async def execute(
        self, principal: Principal, model: str, row_id: uuid.UUID | None, key: str, given: Mapping[str, Any]
    ) -> ActionOutcome:
        """Run the action `key` on a row, or with None on the model as a whole.

        Raises:
            NotFound: no such model, action or row for the caller.
            PermissionDenied: the caller lacks `<model>.<key>`.
            Refused: the row is in another state, or the input breaks a rule of its fields.
            Conflict: somebody else changes the row all the time, or the changes could not be committed.
            NotWired, TooManyRequests, Unavailable, Fenced: it could not be run; see `Runner`.
        """
        live = self._registry.model_for(model, principal.organization_id)
        found = find_action(self._registry, live, principal.organization_id, key)
        if found.is_collection != (row_id is None):
            how = "without a row" if found.is_collection else "on a row"
            raise NotFound(f"action {key[:64]!r} is called {how}", code="unknown_action")
        if self._permissions is not None:
            await self._permissions.require(principal, f"{live.key.lower()}.{key}")
        values = checked_input(derive_action(found.definition).fields, given)
        call = _Call(principal, live, found, found.handler, row_id, values)
        meta: dict[str, Any] = {"model": live.key, "action": key, "trigger": call.handler.kind}
        refusal = self._refusal(call)
        if refusal is not None:
            return ActionOutcome(refusal, meta)
        if found.definition.run_in_tx and row_id is not None:
            result, rolled_back = await self._in_transaction(call, row_id)
            if rolled_back:
                meta["rolled_back"] = True
        else:
            row = await self._dynamic.get(principal, live.key, row_id) if row_id is not None else None
            if row is not None:
                _check_state(live, found, row)
            result = await self._run(call.invocation(row))
        return ActionOutcome(result, {**result.meta, **meta})

    def _refusal(self, call: _Call) -> Result | None:
        """What to answer when the row is of another addon, and the one whose code would get it may not read it."""
        addon = call.found.addon.key
        if call.row_id is None or call.model.addon_key == addon:
            return None
        principal = call.principal
        context = GuestContext(addon, principal.organization_id, str(principal.user_id), principal)
        try:
            require_rows(self._gate, context, CapabilityKind.DB_READ, call.model)
        except PermissionDenied as error:
            return Result(success=False, code=FORBIDDEN, message=error.message)
        return None

    async def _in_transaction(self, call: _Call, row_id: uuid.UUID) -> tuple[Result, bool]:
        """The result, and whether what the code wrote was taken back."""
        if self._database.dialect != "postgresql":
            raise NotWired("run_in_tx needs PostgreSQL; this kernel runs on SQLite", code="needs_postgresql")
        result, ended = Result(success=False), False
        async with self._slots.of(call.found.addon.key):
            try:
                async with self._database.transaction(call.principal.organization_id) as connection:
                    held = await self._dynamic.hold(connection, call.principal, call.model.key, row_id)
                    _check_state(call.model, call.found, held.row)
                    transaction = GuestTransaction(connection)
                    result = await self._run(call.invocation(held.row), transaction)
                    if result.success and transaction.failed:
                        message = "a statement broke the action's transaction"
                        result = Result(success=False, code="db_error", message=message)
                    if not result.success:
                        raise _RolledBack
                    await held.tell()
                    ended = True
            except _RolledBack:
                return result, True
            except (DBAPIError, OSError) as error:
                told = _uncommitted(error, ended)
                if told is None:
                    raise
                raise told from error
        self._on_commit()
        return result, False

    async def _run(self, invocation: Invocation, transaction: GuestTransaction | None = None) -> Result:
        try:
            return await self._runner.run_within(invocation, transaction)
        except Fenced:
            raise
        except PermissionDenied as error:
            return Result(success=False, code=FORBIDDEN, message=error.message)


def _uncommitted(error: DBAPIError | OSError, ended: bool) -> MetacoreError | None:
    """What to tell of a transaction that failed, after its code had `ended` or before; None for what is a bug."""
    fault = fault_of(error)
    if fault is not None and ended:
        message = "the connection to the database broke; read the row to see whether the changes were made"
        return Unavailable(message, code="outcome_unknown")
    if fault is None and isinstance(error, DBAPIError):
        # A rule that is only checked at the end, or another transaction that came first.
        return Conflict("the changes could not be committed; try again", code="contention")
    return fault


def _check_state(model: LiveModel, found: FoundAction, row: Mapping[str, Any]) -> None:
    """`requiresState` against the stage field, `status` or `state`, whichever the row has.

    Raises:
        Refused: none of them is in a state that the action wants.
    """
    wanted = found.definition.requires_state
    if not wanted:
        return
    names = [name for name in dict.fromkeys((model.definition.stage_field, *STATE_COLUMNS)) if name and name in row]
    if any(row[name] in wanted for name in names):
        return
    now = repr(row[names[0]]) if names else "unknown"
    raise Refused(
        f"action {found.definition.key!r} needs the state {' or '.join(wanted)}; it is {now}", code="requires_state"
    )
