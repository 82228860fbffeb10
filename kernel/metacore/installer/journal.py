"""The journal of installations, and the lock and attempt number that keep two of them apart.

Each attempt to install an addon has a number in `metacore_addons`. A step's transaction takes the addon's advisory
lock and compares the number: an older attempt, whose process may go on after its connection died, can change nothing.
"""

from __future__ import annotations

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.errors import Conflict
from metacore.orm.tables import Addon, JournalEntry

KEPT_ATTEMPTS = 20
MAX_STEP = 255
MAX_DETAIL = 2_000

RUNNING, DONE, FAILED = "running", "done", "failed"

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:text, 0))")


def lock_text(key: str) -> str:
    """What is hashed to the advisory lock of an addon."""
    return f"metacore addon {key}"


async def lock(connection: AsyncConnection, key: str) -> None:
    """Wait until nobody else changes this addon; the lock ends with the transaction. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(_LOCK, {"text": lock_text(key)})


async def next_attempt(connection: AsyncConnection, key: str) -> int:
    """Begin an attempt: every older one is superseded when this transaction commits. The addon's row must be there."""
    await connection.execute(update(Addon).where(Addon.key == key).values(attempt=Addon.attempt + 1))
    attempt = int((await connection.execute(select(Addon.attempt).where(Addon.key == key))).scalar_one())
    await connection.execute(
        delete(JournalEntry).where(JournalEntry.addon_key == key, JournalEntry.attempt <= attempt - KEPT_ATTEMPTS)
    )
    return attempt


async def check_attempt(connection: AsyncConnection, key: str, attempt: int) -> None:
    """Whether `attempt` is still the one that counts.

    Raises:
        Conflict: another one began, or the addon was removed; `code` is superseded.
    """
    current = (await connection.execute(select(Addon.attempt).where(Addon.key == key))).scalar_one_or_none()
    if current != attempt:
        raise Conflict(f"another installation of addon {key!r} began meanwhile", code="superseded")


async def write(
    connection: AsyncConnection,
    key: str,
    attempt: int,
    position: int,
    step: str,
    digest: str,
    status: str,
    detail: str = "",
) -> None:
    """Say how a step stands, in the transaction of `connection`."""
    finished = func.current_timestamp() if status != RUNNING else None
    place = (
        JournalEntry.addon_key == key,
        JournalEntry.attempt == attempt,
        JournalEntry.position == position,
    )
    values = {"status": status, "detail": detail[:MAX_DETAIL], "finished_at": finished}
    changed = await connection.execute(update(JournalEntry).where(*place).values(values))
    if not changed.rowcount:
        await connection.execute(
            insert(JournalEntry).values(
                addon_key=key, attempt=attempt, position=position, step=step[:MAX_STEP], digest=digest, **values
            )
        )
