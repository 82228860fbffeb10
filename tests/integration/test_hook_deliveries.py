"""Deliveries by their ids, on both databases: taken once, begun again after a failure, known afterwards."""

from __future__ import annotations

import uuid

import pytest

from metacore.addons.inbound.deliveries import DONE, FAILED, Deliveries, DeliveryKey
from metacore.db.database import Database
from metacore.errors import Conflict
from metacore.ids import OrganizationId, new_uuid
from metacore.orm.tables import Installation, Organization


@pytest.fixture(params=["postgresql", "sqlite"])
def owner(request: pytest.FixtureRequest) -> Database:
    name = "owner_db" if request.param == "postgresql" else "sqlite_db"
    database: Database = request.getfixturevalue(name)
    return database


async def key_in(owner: Database, delivery: str = "d1") -> DeliveryKey:
    organization = OrganizationId(new_uuid())
    async with owner.session(organization) as session:
        session.add(Organization(id=organization, name="Acme"))
        await session.flush()
        session.add(Installation(organization_id=organization, addon_key="shop", version="1.0.0"))
    return DeliveryKey(organization, "shop", "paid", delivery)


async def test_a_delivery_is_taken_once_and_its_answer_is_known(owner: Database) -> None:
    deliveries, key = Deliveries(owner), await key_in(owner)
    begun = await deliveries.begin(key)
    with pytest.raises(Conflict):
        await deliveries.begin(key)
    await deliveries.end(key, begun, DONE, {"data": {"n": 1}})
    again = await deliveries.begin(key)
    assert (again.id, again.done, again.reply) == (begun.id, True, {"data": {"n": 1}})


async def test_after_a_failure_it_begins_again_under_the_same_id(owner: Database) -> None:
    deliveries, key = Deliveries(owner), await key_in(owner)
    begun = await deliveries.begin(key)
    await deliveries.end(key, begun, FAILED)
    again = await deliveries.begin(key)
    assert (again.id, again.done) == (begun.id, False)
    with pytest.raises(Conflict):
        await deliveries.begin(key)


async def test_the_same_id_of_another_tenant_or_webhook_is_another_delivery(owner: Database) -> None:
    deliveries, key, other = Deliveries(owner), await key_in(owner), await key_in(owner)
    ids: set[uuid.UUID] = set()
    for each in (key, other, DeliveryKey(key.organization_id, "shop", "refunded", "d1")):
        ids.add((await deliveries.begin(each)).id)
    assert len(ids) == 3


async def test_an_answer_that_is_too_large_is_not_kept(owner: Database) -> None:
    deliveries, key = Deliveries(owner), await key_in(owner)
    begun = await deliveries.begin(key)
    await deliveries.end(key, begun, DONE, {"data": "x" * 10_000})
    assert (await deliveries.begin(key)).reply is None
