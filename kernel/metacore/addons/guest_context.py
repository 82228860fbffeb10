"""Whom a guest's host calls act for: made once per invocation, handed to every part that answers host calls."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.guest_sql.callers import Judged
from metacore.identity import Principal
from metacore.wasm.ports import HostCall


@dataclass(slots=True, eq=False)
class GuestTransaction:
    """The transaction of an action with `run_in_tx`. `connection` is under the kernel role with the organization set;
    whoever becomes another role on it comes back before letting go of `lock`. `failed` is set when a statement broke
    the transaction itself, so that nothing more can be committed."""

    connection: AsyncConnection
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class GuestContext:
    """`principal` is None for what no user asked for; `caller` is what records of violations name; `judged` counts what
    the invocation's SQL costs."""

    addon_key: str
    organization_id: uuid.UUID
    caller: str
    principal: Principal | None = None
    transaction: GuestTransaction | None = None
    judged: Judged = field(default_factory=Judged, compare=False)


@dataclass(frozen=True, slots=True)
class GuestCall:
    """One host call: who it is for, and how long it may take (`call.remaining()`)."""

    context: GuestContext
    call: HostCall
