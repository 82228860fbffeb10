"""A PostgreSQL of its own with an installed addon, rows of two organizations, and an owner in each."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from tests.bench import addons
from tests.bench.processes import Child, running
from tests.conftest import QUICK_SETTINGS, ended_with_this_process

from metacore.addons.loader import Loader
from metacore.auth.config import AuthConfig
from metacore.auth.service import AuthService
from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import migrate
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, prepare_database
from metacore.ids import OrganizationId, UserId
from metacore.installer.execute import Installer
from metacore.registry import LiveModel, Registry

DATABASE = "bench"
PASSWORD = "a password for the bench"
POOL_SIZE = 10
"""The default of a kernel process; every yardstick gets as many connections."""

FILL = f"""
INSERT INTO {addons.SCHEMA}.{addons.TABLE} (id, organization_id, title, description, status, priority, amount, active,
  due, seen_at, owner_ref, meta, created_by_id, created_at, updated_at)
SELECT uuidv7(), $1, 'Item ' || n, repeat('what there is to say about it ', 1 + n % 4),
  (ARRAY['open', 'waiting', 'closed'])[1 + n % 3], n % 10, n % 1000 + 0.25, n % 2 = 0, date '2026-01-01' + n % 365,
  now() - n * interval '1 minute', gen_random_uuid(), jsonb_build_object('source', 'import', 'number', n), $2,
  now() - n * interval '1 second', now() - n * interval '1 second'
FROM generate_series($3::int, 1, -1) AS n
"""

OLD_EVENTS = f"""
INSERT INTO metacore_events (organization_id, addon_key, event_type, tags, data, actor_id)
SELECT organization_id, '{addons.KEY}', '{addons.KEY}.benchitem.created', '[]',
  jsonb_build_object('id', id, 'after', row_to_json(t)), created_by_id
FROM {addons.SCHEMA}.{addons.TABLE} AS t WHERE organization_id = $1 LIMIT 1000
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The owner of one organization, and some of the rows there."""

    organization_id: OrganizationId
    user_id: UserId
    email: str
    row_ids: tuple[uuid.UUID, ...]


@dataclass(frozen=True)
class World:
    """`reader` is who lists and reads, `writer` who creates and updates, so that writes do not touch what is listed.

    `environment` is what a process needs to serve the database as the kernel's role.
    """

    server: EmbeddedServer
    folder: Path
    kernel_url: str
    superuser_url: str
    environment: dict[str, str]
    model: LiveModel
    addons: int
    reader: Account
    writer: Account
    rows: int

    @asynccontextmanager
    async def kernel(self, name: str, *, workers: int = 1, **settings: str) -> AsyncIterator[Child]:
        """A running `metacore serve`."""
        command = [sys.executable, "-m", "metacore.cli", "serve", "--with-parent", "--workers", str(workers)]
        environment = {**self.environment, **settings}
        async with running(name, command, environment=environment, folder=self.folder, ready="/readyz") as child:
            yield child


@asynccontextmanager
async def prepared(*, rows: int, carried: int, fast: bool, say: Callable[[str], None]) -> AsyncIterator[World]:
    """Everything up to the first kernel. With `fast` PostgreSQL does not wait for the disk."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="metacore-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        say("starting PostgreSQL" + (" without durability" if fast else ""))
        settings = {**QUICK_SETTINGS, "autovacuum": "on"} if fast else {}
        server = await stack.enter_async_context(EmbeddedServer(folder / "postgresql", extra_settings=settings))
        stack.enter_context(ended_with_this_process(server, folder))
        owner_password, kernel_password = secrets.token_hex(16), secrets.token_hex(16)
        await prepare_database(
            server.superuser_url, database=DATABASE, owner_password=owner_password, kernel_password=kernel_password
        )
        owner_url = server.url(OWNER_ROLE, owner_password, DATABASE)
        await migrate(owner_url)
        owner = await Database.connect(owner_url, pool_size=4)
        stack.push_async_callback(owner.close)
        jwt_secret = secrets.token_hex(32)
        auth = AuthService(owner, AuthConfig(jwt_secrets=(jwt_secret,)))
        stack.callback(auth.close)
        owners = [await _owner(auth, name) for name in ("reader", "writer")]
        say(f"installing {1 + carried} addon{'s' if carried else ''}")
        await _install(owner, carried, [organization for organization, _, _ in owners])
        say(f"filling two organizations with {rows:,} rows each")
        superuser_url = server.superuser_url.rpartition("/")[0] + "/" + DATABASE
        accounts = await _fill(superuser_url, owners, rows)
        kernel_url = server.url(KERNEL_ROLE, kernel_password, DATABASE)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("METACORE_")}
        yield World(
            server=server,
            folder=folder,
            kernel_url=kernel_url,
            superuser_url=superuser_url,
            environment={
                **clean,
                "METACORE_DATABASE_URL": kernel_url,
                "METACORE_JWT_SECRETS": jwt_secret,
                "METACORE_POOL_SIZE": str(POOL_SIZE),
            },
            model=await _live_model(kernel_url, accounts[0].organization_id),
            addons=1 + carried,
            reader=accounts[0],
            writer=accounts[1],
            rows=rows,
        )


async def _owner(auth: AuthService, name: str) -> tuple[OrganizationId, UserId, str]:
    email = f"{name}@example.com"
    organization = await auth.create_organization(name.title())
    user = await auth.create_user(organization.id, name.title(), email, PASSWORD, role="owner")
    return organization.id, user.id, email


async def _install(owner: Database, carried: int, organizations: list[OrganizationId]) -> None:
    installer = Installer(owner)
    for content, signature in [addons.driven(), *(addons.carried(number) for number in range(1, carried + 1))]:
        await installer.install(content, signature, trusted=addons.TRUSTED, organizations=organizations)


async def _fill(superuser_url: str, owners: list[tuple[OrganizationId, UserId, str]], rows: int) -> list[Account]:
    table = f"{addons.SCHEMA}.{addons.TABLE}"
    connection = await asyncpg.connect(superuser_url)
    try:
        for organization, user, _ in owners:
            await connection.execute(FILL, organization, user, rows)
            await connection.execute(OLD_EVENTS, organization)
        await connection.execute("SET enable_seqscan = off")
        await connection.execute("SELECT count(*) FROM metacore_number_events(10000)")
        await connection.execute("RESET enable_seqscan")
        # What autovacuum would do a minute later, in the middle of a measurement. Rows become visible to all only when
        # their commits are on disk, and that decides whether a list is counted by its index alone.
        await connection.execute("CHECKPOINT")
        await connection.execute(f"VACUUM (ANALYZE, FREEZE) {table}, metacore_events")
        some = f"SELECT id FROM {table} WHERE organization_id = $1 ORDER BY random() LIMIT 2000"
        return [
            Account(organization, user, email, tuple(row["id"] for row in await connection.fetch(some, organization)))
            for organization, user, email in owners
        ]
    finally:
        await connection.close()


async def _live_model(kernel_url: str, organization_id: OrganizationId) -> LiveModel:
    """The model as a kernel process sees it."""
    registry = Registry()
    database = await Database.connect(kernel_url, pool_size=2)
    try:
        await Loader(database, registry).load()
    finally:
        await database.close()
    return registry.model_for(addons.MODEL, organization_id)
