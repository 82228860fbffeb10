"""Counters by which processes notice that something they cached has changed (table `metacore_epochs`).

The change, the raised counter and the NOTIFY are one transaction. A NOTIFY is quick but lost when its connection is;
the counter, compared at each heartbeat, is not.
"""

from __future__ import annotations

from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.db.channels import EPOCHS
from metacore.orm.addons import Epoch

_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


async def raise_epoch(connection: AsyncConnection, channel: str, payload: str) -> None:
    """Raise the counter of `channel` and, on PostgreSQL, notify it, when the transaction of `connection` commits.

    Call it last in the transaction and once: the counter is one row that all such changes share, and `EpochWatch`
    counts notifications.
    """
    name = EPOCHS[channel]
    raised = await connection.execute(update(Epoch).where(Epoch.name == name).values(value=Epoch.value + 1))
    if not raised.rowcount:
        await connection.execute(insert(Epoch).values(name=name, value=1))
    if connection.dialect.name == "postgresql":
        await connection.execute(_NOTIFY, {"channel": channel, "payload": payload})


class EpochWatch:
    """Tells whether the counter moved further than the notifications that arrived can explain."""

    def __init__(self) -> None:
        self._seen: int | None = None

    def notified(self) -> None:
        """One notification arrived (or, without a listener, this process made one change itself)."""
        if self._seen is not None:
            self._seen += 1

    def missed(self, value: int) -> bool:
        """Whether the counter, read as `value` just now, says that something was missed. The first reading always does:
        nobody knows what happened before it. A notification that is still on its way counts as missed; that costs one
        needless drop of a cache."""
        missed = value != self._seen
        self._seen = value
        return missed
