"""What a statement needs to know of the invocation that sends it. `metacore.addons.guest_context` has it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.wasm.ports import HostCall


class Transaction(Protocol):
    """The transaction of an action, under the kernel role with the organization set. Whoever uses `connection` holds
    `lock`, and gives it back in the role and with the settings it had."""

    @property
    def connection(self) -> AsyncConnection: ...
    @property
    def lock(self) -> asyncio.Lock: ...

    failed: bool


@dataclass(slots=True, eq=False)
class Judged:
    """How much text of statements that were not known yet one invocation had judged, in characters."""

    characters: int = 0


class Context(Protocol):
    @property
    def addon_key(self) -> str: ...
    @property
    def organization_id(self) -> uuid.UUID: ...
    @property
    def caller(self) -> str: ...
    @property
    def transaction(self) -> Transaction | None: ...
    @property
    def judged(self) -> Judged: ...


class Guest(Protocol):
    """One host call: for whom, and how long it may take."""

    @property
    def context(self) -> Context: ...
    @property
    def call(self) -> HostCall: ...
