"""What a guest's SQL gives back, with the real roles on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.guest_world import GuestWorld, guest_world

from metacore.db.database import Database


@pytest.fixture(params=["shared", "tenants"])
async def world(
    request: pytest.FixtureRequest, owner_db: Database, kernel_db: Database
) -> AsyncIterator[GuestWorld]:
    async with guest_world(owner_db, kernel_db, tenants=request.param == "tenants") as made:
        yield made


async def test_smoke(world: GuestWorld) -> None:
    print(await world.rows("SELECT title, rank FROM notes"))
    print(await world.query("SELECT title, rank, now() as t, 1.5::numeric n FROM notes where rank=$1", 1))
    print(await world.rows("SELECT * FROM addon_orders.invoices"))
    print(await world.rows("SELECT * FROM addon_cellar.barrels"))
    print(world.recorded.targets)
    print(await world.refused("SELECT * FROM addon_orders.safes"))
    print(await world.query("SELECT label FROM addon_orders.safes"))
    print(await world.refused("SELECT s FROM addon_orders.safes s"))
    print(await world.refused("SELECT email FROM users"))
    print(await world.refused("SELECT login, password FROM accounts"))
    print(await world.refused("SELECT x.c FROM accounts x(a,b,f,d,c,g,h)"))
    print(await world.changed("INSERT INTO notes (organization_id, title, meta) VALUES ($1,$2,$3) RETURNING id, title, meta", {"$uuid": str(world.acme)}, "x", '{"a":1}'))
    print(await world.changed("UPDATE notes SET rank = rank + 1"))
    world.enforce()
    print(await world.refused("SELECT * FROM addon_orders.invoices"))
    print(await world.rows("SELECT title, rank FROM notes"))
    await world.grant("read orders", "read addon_orders.invoices", "read users", "write addon_cellar.*")
    print(await world.rows("SELECT * FROM addon_orders.invoices"))
    print(await world.rows("SELECT email, name FROM users"))
    print(await world.refused("SELECT * FROM users"))
    print(await world.refused("SELECT password_hash FROM users"))
    print(await world.changed("UPDATE addon_cellar.barrels SET label='x' RETURNING *"))
