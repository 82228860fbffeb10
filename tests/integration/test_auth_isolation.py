"""Row-level security holds for accounts: without an organization the kernel's role sees nobody."""

from __future__ import annotations

import sqlalchemy as sa
from tests.accounts import CONFIG
from tests.factories import PASSWORD

from metacore.auth.service import AuthService
from metacore.db.database import Database
from metacore.orm.tables import AuthSession, Organization, RefreshToken, User

TABLES = (Organization, User, AuthSession, RefreshToken)


async def test_without_an_organization_no_account_is_visible(kernel_db: Database) -> None:
    auth = AuthService(kernel_db, CONFIG)
    try:
        await auth.register("Ada", "ada@example.com", PASSWORD)
    finally:
        auth.close()
    async with kernel_db.transaction(None) as connection:
        for table in TABLES:
            assert (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one() == 0


async def test_an_organization_sees_only_its_own_accounts(kernel_db: Database) -> None:
    auth = AuthService(kernel_db, CONFIG)
    try:
        ada = await auth.register("Ada", "ada@example.com", PASSWORD)
        await auth.register("Eve", "eve@example.com", PASSWORD)
    finally:
        auth.close()
    async with kernel_db.transaction(ada.organization.id) as connection:
        for table in TABLES:
            assert (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one() == 1
