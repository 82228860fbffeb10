"""Customers with orders with lines, each counting what is below it, and who works with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from tests.factories import make_organization, principal
from tests.live_models import Desk

from metacore.db.database import Database
from metacore.dynamic.service import DynamicService
from metacore.identity import Principal
from metacore.manifest.model import Column, ColumnType, Constraint, Formula, ModelDefinition, Relation, Rollup

CUSTOMER = ModelDefinition(
    key="Customer",
    table="customers",
    columns=(
        Column(name="name", type=ColumnType.STRING, size=40),
        Column(name="owed", type=ColumnType.DECIMAL),
        Column(name="orders", type=ColumnType.INT),
    ),
    relations=(
        Relation(
            name="orders",
            kind="one_to_many",
            through="desk.Order",
            foreign_key="customer_id",
            rollups=(Rollup(target="owed", fn="sum", source="total"), Rollup(target="orders", fn="count")),
        ),
    ),
)
ORDER = ModelDefinition(
    key="Order",
    table="orders",
    columns=(
        Column(name="customer_id", type=ColumnType.UUID),
        Column(name="limit", type=ColumnType.INT, default="1000"),
        Column(name="net", type=ColumnType.DECIMAL, constraints=(Constraint(expr="net <= limit", error_key="limit"),)),
        Column(name="total", type=ColumnType.DECIMAL),
        Column(name="lines", type=ColumnType.INT),
        Column(name="dearest", type=ColumnType.DECIMAL),
        Column(name="mean", type=ColumnType.DECIMAL),
        Column(name="whole_mean", type=ColumnType.INT),
        Column(name="last_day", type=ColumnType.DATE),
        Column(name="gifts", type=ColumnType.INT, required=True, default="0"),
    ),
    formulas=(Formula(target="total", expr="net * 1.5"),),
    relations=(
        Relation(
            name="lines",
            kind="one_to_many",
            through="Line",
            foreign_key="order_id",
            rollups=(
                Rollup(target="net", fn="sum", expr="quantity * price"),
                Rollup(target="lines", fn="count"),
                Rollup(target="dearest", fn="max", source="price"),
                Rollup(target="mean", fn="avg", source="price"),
                Rollup(target="whole_mean", fn="avg", source="price"),
                Rollup(target="last_day", fn="max", source="day"),
            ),
        ),
        Relation(
            name="gifts",
            kind="one_to_many",
            through="lines",
            foreign_key="order_id",
            scope={"gift": True},
            rollups=(Rollup(target="gifts", fn="count"),),
        ),
    ),
)
LINE = ModelDefinition(
    key="Line",
    table="lines",
    soft_delete=True,
    columns=(
        Column(name="order_id", type=ColumnType.UUID),
        Column(name="quantity", type=ColumnType.INT, default="1"),
        Column(name="price", type=ColumnType.DECIMAL),
        Column(name="day", type=ColumnType.DATE),
        Column(name="gift", type=ColumnType.BOOL),
        Column(name="note", type=ColumnType.TEXT),
    ),
)


NODE = ModelDefinition(
    key="Node",
    table="nodes",
    columns=(
        Column(name="above_id", type=ColumnType.UUID),
        Column(name="own", type=ColumnType.INT, default="0"),
        Column(name="kids", type=ColumnType.INT),
        Column(name="below", type=ColumnType.DECIMAL),
        Column(name="weight", type=ColumnType.DECIMAL),
    ),
    formulas=(Formula(target="weight", expr="own + below"),),
    relations=(
        Relation(
            name="children",
            kind="one_to_many",
            through="Node",
            foreign_key="above_id",
            rollups=(Rollup(target="below", fn="sum", source="weight"),),
        ),
    ),
)
"""A tree: rows of one table above each other."""


@dataclass
class Shop:
    desk: Desk
    service: DynamicService
    ada: Principal
    eve: Principal

    async def make(self, model: str, who: Principal | None = None, **values: Any) -> str:
        return str((await self.service.create(who or self.ada, model, values))["id"])

    async def line(self, order: str, **values: Any) -> Any:
        return (await self.service.create(self.ada, "Line", {"order_id": order, **values}))["id"]

    async def row(self, model: str, row_id: str, *names: str) -> dict[str, Any]:
        row = await self.service.get(self.ada, model, UUID(row_id))
        return {name: row[name] for name in names}

    async def told(self, ending: str) -> list[Mapping[str, Any]]:
        told = [event["data"] for event in await self.desk.events() if event["event_type"].endswith(ending)]
        return [orjson.loads(data) if isinstance(data, str) else data for data in told]

    async def change(self, model: str, row_id: str, **values: Any) -> dict[str, Any]:
        return await self.service.update(self.ada, model, UUID(row_id), values)


async def open_shop(serving: Database, owner: Database, *definitions: ModelDefinition) -> Shop:
    """Served from `serving`; `owner` may do DDL."""
    desk = Desk(serving, owner)
    for definition in definitions or (CUSTOMER, ORDER, LINE):
        await desk.add(definition)
    ada, eve = await both(owner)
    desk.install_for(ada.organization_id, eve.organization_id)
    return Shop(desk, DynamicService(serving, desk.registry), ada, eve)


async def both(owner: Database) -> tuple[Principal, Principal]:
    return principal(await make_organization(owner, "Acme")), principal(await make_organization(owner, "Evil"))
