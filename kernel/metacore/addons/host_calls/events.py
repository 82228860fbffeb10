"""`event_emit`: events of an addon go into the log of events, and from there to everybody who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
from sqlalchemy.exc import DBAPIError

from metacore.addons.guest_context import GuestCall, GuestTransaction
from metacore.addons.host_calls.parts import Answer
from metacore.capabilities.access import Access, CapabilityKind, Gate
from metacore.db.database import Database
from metacore.errors import InvalidInput
from metacore.events.bus import Bus
from metacore.events.canonical import check_name
from metacore.events.log import NewEvent, append
from metacore.wasm.abi import HostCode
from metacore.wasm.limits import KIB
from metacore.wasm.ports import HostError, HostReply

MAX_PAYLOAD_BYTES: Final = 256 * KIB


class GuestEvents:
    """Outside a transaction of the run an event is committed at once, and `on_commit` called; inside one it is only
    put into that transaction."""

    def __init__(self, database: Database, bus: Bus, gate: Gate, on_commit: Callable[[], None]) -> None:
        self._database = database
        self._bus = bus
        self._gate = gate
        self._on_commit = on_commit

    async def event_emit(self, guest: GuestCall, name: str, payload: Any) -> Answer:
        context = guest.context
        try:
            check_name(name)
        except InvalidInput as error:
            return HostError(HostCode.ARG_DECODE, error.message)
        data = {} if payload is None else payload if isinstance(payload, dict) else {"value": payload}
        encoded = orjson.dumps(data)
        if len(encoded) > MAX_PAYLOAD_BYTES:
            return HostError(HostCode.PAYLOAD_TOO_LARGE, f"an event has at most {MAX_PAYLOAD_BYTES} bytes")
        if b"\\u0000" in encoded.replace(b"\\\\", b""):
            return HostError(HostCode.ARG_DECODE, "an event must not hold the character U+0000")
        self._gate.require(
            Access(context.addon_key, CapabilityKind.EVENT_EMIT, name, context.organization_id, context.caller)
        )
        actor = context.principal.actor_id if context.principal is not None else None
        event = NewEvent(context.organization_id, context.addon_key, name, data, actor)
        if context.transaction is not None:
            if not await _enqueued(context.transaction, event):
                return HostError(
                    HostCode.NO_ACTIVE_TX, "the action's transaction failed; nothing more can be done in it"
                )
        else:
            async with self._database.transaction(context.organization_id) as connection:
                await append(connection, event)
            self._on_commit()
        return HostReply({"event": name, "subscribers": self._bus.listeners(name, context.organization_id)})


async def _enqueued(transaction: GuestTransaction, event: NewEvent) -> bool:
    """Put the event into the transaction; False when that is broken."""
    async with transaction.lock:
        if transaction.failed:
            return False
        try:
            await append(transaction.connection, event)
        except BaseException as error:
            # Whatever stopped it, a cancellation too: what the transaction holds now is not what the guest meant.
            transaction.failed = True
            if isinstance(error, DBAPIError):
                return False
            raise
        return True
