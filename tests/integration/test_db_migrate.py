"""Migrations: they make what the models say, once, whoever calls them and however often."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from tests.conftest import DatabaseUrls, new_database

from metacore.db import migrate as migrations
from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.grants import VERSION_TABLE
from metacore.db.migrate import create_all, current_revision, head_revision, migrate, suffices
from metacore.db.roles import OWNER_ROLE
from metacore.errors import Misconfigured, Unavailable
from metacore.orm.tables import Addon, metadata

ROOT = Path(__file__).resolve().parents[2]


def differences(connection: Connection) -> list[object]:
    options = {
        "version_table": VERSION_TABLE,
        "compare_type": True,
        "target_metadata": metadata,
    }
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_the_migrated_database_is_what_the_models_say(owner_db: Database, sqlite_db: Database) -> None:
    for database in (owner_db, sqlite_db):
        async with database.transaction(None) as connection:
            assert await connection.run_sync(differences) == [], database.dialect


async def test_the_check_notices_a_difference(owner_db: Database) -> None:
    await owner_db.postgres.execute("ALTER TABLE users DROP COLUMN name; DROP INDEX ix_users_organization_id")
    async with owner_db.transaction(None) as connection:
        assert len(await connection.run_sync(differences)) == 2


async def test_first_rows_are_there(owner_db: Database, sqlite_db: Database) -> None:
    for database in (owner_db, sqlite_db):
        async with database.transaction(None) as connection:
            registry = (await connection.execute(text("SELECT id, revision FROM metacore_registry"))).all()
            epochs = (await connection.execute(text("SELECT name, value FROM metacore_epochs ORDER BY 1"))).all()
        assert [tuple(row) for row in registry] == [(1, 0)]
        assert [tuple(row) for row in epochs] == [("auth", 0), ("permissions", 0)]


async def test_defaults_of_the_database_suit_the_models_on_both_dialects(
    owner_db: Database, sqlite_db: Database
) -> None:
    for database in (owner_db, sqlite_db):
        async with database.session(None) as session:
            session.add(Addon(key="shop"))
        async with database.session(None) as session:
            addon = await session.get_one(Addon, "shop")
            assert addon.enabled is True
            assert addon.grants == []
            assert addon.created_at.tzinfo is not None


async def test_the_kernel_role_can_ask_for_the_revision(kernel_db: Database, sqlite_db: Database) -> None:
    assert await current_revision(kernel_db) == head_revision()
    assert await current_revision(sqlite_db) == head_revision()


async def test_a_database_without_our_tables_has_no_revision(postgres_server: EmbeddedServer, tmp_path: Path) -> None:
    async with new_database(postgres_server) as urls:
        empty = Database(urls.owner, pool_size=1)
        assert await current_revision(empty) is None
        await empty.close()
    sqlite = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    assert await current_revision(sqlite) is None
    await sqlite.close()


def test_later_revisions_suffice_and_earlier_ones_do_not() -> None:
    assert suffices(head_revision())
    assert suffices("9999")
    assert not suffices("0000")
    assert not suffices(None)


async def test_many_may_migrate_at_once(postgres_server: EmbeddedServer) -> None:
    async with new_database(postgres_server) as urls:
        heads = await asyncio.gather(*(migrate(urls.owner) for _ in range(3)))
        assert heads == [head_revision()] * 3
        assert await migrate(urls.owner) == head_revision()


async def test_several_may_create_all_of_one_sqlite_file(tmp_path: Path) -> None:
    databases = [Database(f"sqlite:///{tmp_path / 'one.db'}") for _ in range(3)]
    await asyncio.gather(*(create_all(database) for database in databases))
    for database in databases:
        assert await current_revision(database) == head_revision()
        await database.close()


async def test_create_all_works_on_postgresql_with_one_role(postgres_server: EmbeddedServer) -> None:
    async with new_database(postgres_server) as urls:
        database = await Database.connect(urls.owner, pool_size=1)
        await create_all(database)
        assert await current_revision(database) == head_revision()
        assert await migrate(urls.owner, kernel_role=OWNER_ROLE) == head_revision()
        assert await database.postgres.fetchval("SELECT count(*) FROM metacore_journal") == 0
        await database.close()


async def test_a_migration_that_fails_leaves_nothing_behind(
    postgres_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    source = migrations.migrations_folder()
    (folder / "env.py").write_text((source / "env.py").read_text())
    first = (source / "versions" / "0001_foundation.py").read_text()
    broken = first.replace("    _create_tables()\n", "    _create_tables()\n    raise RuntimeError('power failure')\n")
    (folder / "versions" / "0001_broken.py").write_text(broken)
    monkeypatch.setattr(migrations, "migrations_folder", lambda: folder)
    sqlite = Database(f"sqlite:///{tmp_path / 'one.db'}")
    async with new_database(postgres_server) as urls:
        with pytest.raises(RuntimeError, match="power failure"):
            await migrate(urls.owner)
        with pytest.raises(RuntimeError, match="power failure"):
            await create_all(sqlite)
        monkeypatch.undo()
        assert await migrate(urls.owner) == head_revision()
        await create_all(sqlite)
    assert await current_revision(sqlite) == head_revision()
    await sqlite.close()


async def test_a_database_ahead_of_this_build_is_left_alone(database_urls: DatabaseUrls, owner_db: Database) -> None:
    await owner_db.postgres.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert await migrate(database_urls.owner) == "9999"


async def test_a_missing_kernel_role_is_named(database_urls: DatabaseUrls) -> None:
    with pytest.raises(Misconfigured, match="'nobody_made_me' does not exist"):
        await migrate(database_urls.owner, kernel_role="nobody_made_me")


async def test_a_login_that_may_not_do_ddl_is_misconfigured(postgres_server: EmbeddedServer) -> None:
    async with new_database(postgres_server) as urls:
        with pytest.raises(Misconfigured, match="permission denied"):
            await migrate(urls.kernel)


async def test_a_server_that_is_away_is_misconfigured_without_the_password() -> None:
    with pytest.raises(Misconfigured) as caught:
        await migrate("postgresql://owner:hunter2@127.0.0.1:1/app")
    assert "hunter2" not in str(caught.value)


async def test_a_wrong_password_is_misconfigured(database_urls: DatabaseUrls) -> None:
    place = database_urls.owner.rpartition("@")[2]
    with pytest.raises(Misconfigured, match="password authentication failed"):
        await migrate(f"postgresql://{OWNER_ROLE}:wrong@{place}")


async def test_a_lock_that_is_not_given_ends_in_try_again(
    database_urls: DatabaseUrls, owner_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LIMITS", ("SET LOCAL lock_timeout = '20ms'",))
    async with owner_db.postgres.acquire() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {VERSION_TABLE} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="try again"):
            await migrate(database_urls.owner)
    assert await migrate(database_urls.owner) == head_revision()


async def test_row_level_security_does_not_hide_rows_from_a_backfill(owner_db: Database) -> None:
    organization = await owner_db.postgres.fetchval(
        "INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), 'Acme') RETURNING id"
    )
    changed = await owner_db.postgres.execute("UPDATE organizations SET name = 'Acme Ltd'")
    assert changed == "UPDATE 1"
    assert organization is not None


async def test_alembic_alone_is_sent_to_our_command() -> None:
    with pytest.raises(SystemExit, match="metacore migrate"):
        command.upgrade(migrations._configuration(), "head")


async def test_the_wheel_brings_the_migrations_along(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    await asyncio.to_thread(subprocess.run, build, cwd=ROOT, check=True, capture_output=True)
    installed = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    program = (
        "import asyncio, metacore.db.migrate as m; from metacore.db.database import Database\n"
        "async def main():\n"
        "    database = Database('sqlite://')\n"
        "    await m.create_all(database)\n"
        "    print(m.__file__, m.migrations_folder(), await m.current_revision(database), sep='\\n')\n"
        "    await database.close()\n"
        "asyncio.run(main())"
    )
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    module, folder, revision = run.stdout.split()
    assert Path(module).is_relative_to(installed)
    assert Path(folder) == installed / "metacore" / "_migrations"
    assert revision == head_revision()
