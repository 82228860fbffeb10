"""Validators that organizations configured, read in their own scope and kept for a while."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import update
from tests.factories import make_organization

from metacore.db.database import Database
from metacore.metadata.validators import OrganizationValidators
from metacore.orm.accounts import Organization


async def configure(owner_db: Database, organization_id: uuid.UUID, rules: dict[str, Any]) -> None:
    async with owner_db.transaction(organization_id) as connection:
        await connection.execute(
            update(Organization).where(Organization.id == organization_id).values(validators=rules)
        )


async def test_each_organization_has_its_own_rules(kernel_db: Database, owner_db: Database) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await configure(owner_db, acme, {"tax": {"regex": "^A"}})
    validators = OrganizationValidators(kernel_db)
    assert await validators(acme) == {"tax": {"regex": "^A"}}
    assert await validators(globex) == {}
    assert await validators(uuid.uuid4()) == {}


async def test_rules_are_kept_until_their_time_is_over_or_they_are_invalidated(
    kernel_db: Database, owner_db: Database
) -> None:
    acme = await make_organization(owner_db)
    kept, forgetful = OrganizationValidators(kernel_db, ttl=3600), OrganizationValidators(kernel_db, ttl=0)
    for validators in (kept, forgetful):
        assert await validators(acme) == {}
    await configure(owner_db, acme, {"tax": "mx.rfc"})
    assert await forgetful(acme) == {"tax": "mx.rfc"}
    assert await kept(acme) == {}
    kept.invalidate(acme)
    assert await kept(acme) == {"tax": "mx.rfc"}


async def test_rules_are_read_from_sqlite_too(sqlite_db: Database) -> None:
    acme = await make_organization(sqlite_db)
    await configure(sqlite_db, acme, {"tax": {"max": 3}})
    assert await OrganizationValidators(sqlite_db)(acme) == {"tax": {"max": 3}}
