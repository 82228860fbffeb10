"""`metacore migrate`: the kernel's own tables."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from metacore.cli.environment import read_settings
from metacore.db.database import Database
from metacore.db.migrate import current_revision, head_revision, suffices
from metacore.db.migrate import migrate as bring_to_head
from metacore.errors import Misconfigured


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail when the database is behind.")] = False,
) -> None:
    """Bring the kernel's tables to what this build needs, as the owner role (METACORE_OWNER_DATABASE_URL)."""
    settings = read_settings()
    url = settings.owner_database_url.get_secret_value()
    if check:
        url = url or settings.database_url.get_secret_value()
    if not url:
        raise Misconfigured("METACORE_OWNER_DATABASE_URL is not set: the database of the owner role")
    if not check:
        print(f"migrated to {asyncio.run(bring_to_head(url))}")
        return
    revision = asyncio.run(_current(url))
    print(f"database {revision or 'empty'}, this build {head_revision()}")
    if not suffices(revision):
        raise typer.Exit(1)


async def _current(url: str) -> str | None:
    database = await Database.connect(url, pool_size=1, application_name="metacore-migrate")
    try:
        return await current_revision(database)
    finally:
        await database.close()
