"""Declared addons on SQLite: tables with the addon's key in front, no SQL of their own."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import text
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, read, signed, tickets_manifest

from metacore.db.database import Database
from metacore.errors import InstallFailed, Refused
from metacore.installer.execute import Installer, InstallReport


async def install(
    db: Database,
    *organizations: uuid.UUID,
    manifest: Mapping[str, Any] | None = None,
    migrations: Mapping[str, str] | None = None,
) -> InstallReport:
    content, signature = signed(make_bundle(manifest or tickets_manifest(), migrations))
    return await Installer(db).install(content, signature, trusted=TRUSTED, organizations=organizations)


async def rows(db: Database, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    async with db.transaction(None) as connection:
        return [tuple(row) for row in await connection.execute(text(statement), values)]


async def tables(db: Database) -> list[str]:
    found = await rows(db, "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'addon%' ORDER BY name")
    return [row[0] for row in found]


async def test_a_declared_addon_has_tables_indexes_seeds_and_rows(sqlite_db: Database) -> None:
    acme, globex = await make_organization(sqlite_db), await make_organization(sqlite_db, "Globex")
    report = await install(sqlite_db, acme, globex)
    assert (report.changed, report.revision, set(report.secrets)) == (True, 1, {acme, globex})
    assert await tables(sqlite_db) == [
        "addon_tickets__ticket_comments",
        "addon_tickets__ticket_kinds",
        "addon_tickets__tickets",
    ]
    kinds = await rows(sqlite_db, "SELECT organization_id, code FROM addon_tickets__ticket_kinds ORDER BY 1, 2")
    assert kinds == sorted((organization.hex, code) for organization in (acme, globex) for code in ("bug", "wish"))
    async with sqlite_db.transaction(None) as connection:
        await connection.execute(
            text("INSERT INTO addon_tickets__tickets (organization_id, title) VALUES (:o, 'x')"), {"o": acme.hex}
        )
    ((made, status, priority),) = await rows(sqlite_db, "SELECT id, status, priority FROM addon_tickets__tickets")
    assert uuid.UUID(made).version == 4
    assert (status, priority) == ("open", 3)
    installed = await rows(sqlite_db, "SELECT version, status FROM metacore_installations")
    assert installed == [("1.0.0", "enabled")] * 2


async def test_installing_again_changes_nothing(sqlite_db: Database) -> None:
    acme = await make_organization(sqlite_db)
    await install(sqlite_db, acme)
    again = await install(sqlite_db, acme)
    assert (again.changed, again.revision) == (False, 1)
    assert (await Installer(sqlite_db).plan(read(tickets_manifest()), [acme])).steps == ()


async def test_a_new_version_adds_columns_and_keeps_rows(sqlite_db: Database) -> None:
    acme = await make_organization(sqlite_db)
    await install(sqlite_db, acme)
    async with sqlite_db.transaction(None) as connection:
        await connection.execute(
            text("INSERT INTO addon_tickets__tickets (organization_id, title) VALUES (:o, 'kept')"), {"o": acme.hex}
        )
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"] += [
        {"name": "color", "type": "string", "not_null": True, "default": "red"},
        {"name": "seen_at", "type": "timestamp", "not_null": True, "default": "now()"},
        {"name": "twice", "type": "decimal", "generated": "amount * 2"},
    ]
    await install(sqlite_db, acme, manifest=newer)
    assert await rows(sqlite_db, "SELECT title, color, twice FROM addon_tickets__tickets") == [("kept", "red", 0)]
    assert (await install(sqlite_db, acme, manifest=newer)).changed is False


async def test_a_unique_column_is_unique_within_an_organization(sqlite_db: Database) -> None:
    acme, globex = await make_organization(sqlite_db), await make_organization(sqlite_db, "Globex")
    await install(sqlite_db, acme, globex)
    insert = text("INSERT INTO addon_tickets__ticket_kinds (organization_id, code) VALUES (:o, 'new')")
    for organization in (acme, globex):
        async with sqlite_db.transaction(None) as connection:
            await connection.execute(insert, {"o": organization.hex})
    with pytest.raises(Exception, match="UNIQUE"):
        async with sqlite_db.transaction(None) as connection:
            await connection.execute(insert, {"o": acme.hex})


async def test_sql_and_tenant_schemas_are_refused_clearly(sqlite_db: Database) -> None:
    acme = await make_organization(sqlite_db)
    with pytest.raises(Refused, match="need PostgreSQL"):
        await install(sqlite_db, acme, migrations={"0001_x.sql": "CREATE TABLE x (id int);"})
    with pytest.raises(Refused, match="schema per tenant"):
        await install(sqlite_db, acme, manifest=tickets_manifest(tenancy={"isolation": "schema"}))
    assert await tables(sqlite_db) == []


async def test_a_step_that_fails_leaves_nothing_behind(sqlite_db: Database) -> None:
    acme = await make_organization(sqlite_db)
    await install(sqlite_db, acme)
    async with sqlite_db.transaction(None) as connection:
        for _ in range(2):
            await connection.execute(
                text("INSERT INTO addon_tickets__tickets (organization_id, title) VALUES (:o, 'same')"), {"o": acme.hex}
            )
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"][0]["unique"] = True
    with pytest.raises(InstallFailed, match="UNIQUE"):
        await install(sqlite_db, acme, manifest=newer)
    assert await rows(sqlite_db, "SELECT version FROM metacore_addons") == [("1.0.0",)]


async def test_uninstalling_drops_rows_then_tables(sqlite_db: Database) -> None:
    acme, globex = await make_organization(sqlite_db), await make_organization(sqlite_db, "Globex")
    installer = Installer(sqlite_db)
    await install(sqlite_db, acme, globex)
    await installer.uninstall("tickets", acme, drop=True)
    left = await rows(sqlite_db, "SELECT DISTINCT organization_id FROM addon_tickets__ticket_kinds")
    assert left == [(globex.hex,)]
    await installer.uninstall("tickets", globex, drop=False)
    assert len(await tables(sqlite_db)) == 3
    await install(sqlite_db, globex)
    await installer.remove("tickets", drop=True)
    assert await tables(sqlite_db) == []


async def test_the_last_one_to_leave_takes_nothing_of_who_kept_rows(sqlite_db: Database) -> None:
    acme, globex = await make_organization(sqlite_db), await make_organization(sqlite_db, "Globex")
    installer = Installer(sqlite_db)
    await install(sqlite_db, acme, globex)
    await installer.uninstall("tickets", acme, drop=False)
    await installer.uninstall("tickets", globex, drop=True)
    left = await rows(sqlite_db, "SELECT DISTINCT organization_id FROM addon_tickets__ticket_kinds")
    assert left == [(acme.hex,)]
    await install(sqlite_db, acme)
    await installer.uninstall("tickets", acme, drop=True)
    assert await tables(sqlite_db) == []
