"""A small shop with the kernel inside: a model in code, its CRUD live, and a route of its own beside it.

Run it from a checkout:

    .venv/bin/python examples/embedding/shop.py                       # on a SQLite file in the current folder
    DATABASE_URL=postgresql://… .venv/bin/python examples/embedding/shop.py

then open http://127.0.0.1:3000/docs, register, and create products.
"""

import os
from decimal import Decimal
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from metacore import (
    App,
    AppConfig,
    ColumnDef,
    FieldDef,
    HookContext,
    ModalMetadata,
    Model,
    Principal,
    Refused,
    TableMetadata,
)


class Product(Model):
    """Id, organization, creator and times come from `Model`."""

    __tablename__ = "products"

    name: Mapped[str] = mapped_column(String(120))
    price: Mapped[Decimal] = mapped_column(default=Decimal(0))

    def define_table(self) -> TableMetadata:
        return TableMetadata(
            title="Products",
            columns=[
                ColumnDef(key="name", label="Name", type="text", sortable=True, filterable=True),
                ColumnDef(key="price", label="Price", type="number", sortable=True, filterable=True),
            ],
            search_columns=["name"],
        )

    def define_modal(self) -> ModalMetadata:
        return ModalMetadata(
            title="Product",
            fields=[
                FieldDef(key="name", label="Name", type="text", required=True),
                FieldDef(key="price", label="Price", type="number"),
            ],
        )


async def refuse_gifts(context: HookContext, values: dict[str, object]) -> dict[str, object]:
    """A before-hook: it may change what is stored, or refuse it."""
    if values.get("price") in (None, 0):
        raise Refused("a product needs a price", code="price_missing")
    return values


def create_app(database_url: str, jwt_secret: str) -> FastAPI:
    kernel = App(AppConfig(database=database_url, jwt_secret=jwt_secret))
    kernel.register_model("products", lambda: Product)
    kernel.hooks.register("before_create", "products", refuse_gifts)

    web = FastAPI(title="Shop", docs_url=None, redoc_url=None, openapi_url=None)
    api = kernel.mount(web, prefix="/api")

    @api.get("/cheapest")
    async def cheapest(caller: Annotated[Principal, Depends(kernel.principal)]) -> dict[str, object]:
        """A route of the shop's own: the router that `mount` returned has checked the token already."""
        rows, _ = await kernel.dynamic.list(
            caller, "products", [("sortBy", "price"), ("order", "asc"), ("per_page", "1")]
        )
        return {"success": True, "data": rows[0] if rows else None}

    return web


if __name__ == "__main__":
    uvicorn.run(
        create_app(
            os.environ.get("DATABASE_URL", "sqlite:///shop.db"),
            os.environ.get("JWT_SECRET", "only-for-this-example-change-me-now"),
        ),
        port=int(os.environ.get("PORT", "3000")),
    )
