"""The same service as it is usually written: FastAPI with the ORM and pydantic, or with SQLAlchemy Core.

Run as a process of its own with the server, the loop, the pool and the database role of the kernel. Tokens are checked
by signature, tenants are held by the same row-level security, and writes put their event into the same transaction.
"""

import argparse
import datetime
import decimal
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import jwt
import orjson
import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.responses import Response

from metacore.cli.listening import adopt
from metacore.orm.events import Event

DATABASE = sa.make_url(os.environ.get("METACORE_DATABASE_URL", "postgresql://nobody@localhost/none"))
SECRET = os.environ.get("METACORE_JWT_SECRETS", "")
POOL_SIZE = int(os.environ.get("METACORE_POOL_SIZE", "10"))
SET_ORGANIZATION = sa.text("SELECT set_config('app.current_org', :organization, true)")
ENGINE = create_async_engine(
    DATABASE.set(drivername="postgresql+asyncpg"),
    pool_size=POOL_SIZE,
    max_overflow=0,
    json_serializer=lambda value: orjson.dumps(value).decode(),
    json_deserializer=orjson.loads,
)


class Base(DeclarativeBase):
    type_annotation_map = {datetime.datetime: sa.DateTime(timezone=True)}  # noqa: RUF012


class Item(Base):
    __tablename__ = "bench_items"
    __table_args__ = {"schema": "addon_bench"}  # noqa: RUF012

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID]
    title: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str]
    priority: Mapped[int]
    amount: Mapped[decimal.Decimal | None]
    active: Mapped[bool]
    due: Mapped[datetime.date | None]
    seen_at: Mapped[datetime.datetime | None]
    owner_ref: Mapped[uuid.UUID | None]
    meta: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_by_id: Mapped[uuid.UUID | None]
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=sa.func.now())
    updated_at: Mapped[datetime.datetime] = mapped_column(server_default=sa.func.now())
    deleted_at: Mapped[datetime.datetime | None]


ITEMS = cast(sa.Table, Item.__table__)
EVENTS = cast(sa.Table, Event.__table__)


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    organization_id: uuid.UUID
    title: str
    description: str | None
    status: str
    priority: int
    amount: float | None
    active: bool
    due: datetime.date | None
    seen_at: datetime.datetime | None
    owner_ref: uuid.UUID | None
    meta: dict[str, Any] | None
    created_by_id: uuid.UUID | None
    created_at: datetime.datetime
    updated_at: datetime.datetime
    deleted_at: datetime.datetime | None


class Meta(BaseModel):
    total: int | None
    page: int
    per_page: int


class Page(BaseModel):
    success: bool = True
    data: list[ItemOut]
    meta: Meta


class NewItem(BaseModel):
    title: str
    description: str | None = None
    status: str = "open"
    priority: int = 3
    amount: decimal.Decimal = decimal.Decimal(0)
    active: bool = True
    due: datetime.date | None = None
    seen_at: datetime.datetime | None = None
    owner_ref: uuid.UUID | None = None
    meta: dict[str, Any] = {}


class ChangedItem(BaseModel):
    title: str | None = None
    priority: int | None = None


@dataclass(frozen=True)
class Caller:
    user_id: uuid.UUID
    organization_id: uuid.UUID


async def authenticated(authorization: Annotated[str, Header()]) -> Caller:
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), SECRET, algorithms=["HS256"], issuer="metacore")
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    return Caller(uuid.UUID(claims["sub"]), uuid.UUID(claims["org"]))


CurrentCaller = Annotated[Caller, Depends(authenticated)]


async def open_connection(caller: CurrentCaller) -> AsyncIterator[AsyncConnection]:
    """A transaction that sees the caller's organization."""
    async with ENGINE.begin() as connection:
        await connection.execute(SET_ORGANIZATION, {"organization": str(caller.organization_id)})
        yield connection


async def open_session(caller: CurrentCaller) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(ENGINE) as session, session.begin():
        await session.execute(SET_ORGANIZATION, {"organization": str(caller.organization_id)})
        yield session


OpenConnection = Annotated[AsyncConnection, Depends(open_connection, scope="function")]
OpenSession = Annotated[AsyncSession, Depends(open_session, scope="function")]
application = FastAPI()


@application.get("/orm/items")
async def list_items(
    caller: CurrentCaller, session: OpenSession, page: int = 1, per_page: int = 20, count: str = "exact"
) -> Page:
    mine = (Item.organization_id == caller.organization_id, Item.deleted_at.is_(None))
    total = None
    if count != "none":
        total = await session.scalar(sa.select(sa.func.count()).select_from(Item).where(*mine))
    order = (Item.created_at.desc(), Item.id.desc())
    found = sa.select(Item).where(*mine).order_by(*order).limit(per_page).offset((page - 1) * per_page)
    items = (await session.scalars(found)).all()
    return Page(
        data=[ItemOut.model_validate(item) for item in items],
        meta=Meta(total=total, page=page, per_page=per_page),
    )


@application.get("/core/items/{item_id}")
async def get_item(caller: CurrentCaller, connection: OpenConnection, item_id: uuid.UUID) -> Response:
    row = (await connection.execute(sa.select(ITEMS).where(*_this(caller, item_id)))).mappings().first()
    if row is None:
        raise HTTPException(404)
    return _reply(row)


@application.post("/core/items", status_code=201)
async def create_item(caller: CurrentCaller, connection: OpenConnection, item: NewItem) -> Response:
    values = {
        **item.model_dump(),
        "id": uuid.uuid4(),
        "organization_id": caller.organization_id,
        "created_by_id": caller.user_id,
    }
    made = (await connection.execute(sa.insert(ITEMS).values(values).returning(ITEMS))).mappings().one()
    await _record(connection, caller, "created", {"id": made["id"], "after": dict(made)})
    return _reply(made, 201)


@application.put("/core/items/{item_id}")
async def update_item(
    caller: CurrentCaller, connection: OpenConnection, item_id: uuid.UUID, change: ChangedItem
) -> Response:
    locked = sa.select(ITEMS).where(*_this(caller, item_id)).with_for_update()
    before = (await connection.execute(locked)).mappings().first()
    if before is None:
        raise HTTPException(404)
    values = {**change.model_dump(exclude_unset=True), "updated_at": sa.func.now()}
    changed = sa.update(ITEMS).where(*_this(caller, item_id)).values(values).returning(ITEMS)
    after = (await connection.execute(changed)).mappings().one()
    await _record(connection, caller, "updated", {"id": item_id, "before": dict(before), "after": dict(after)})
    return _reply(after)


def _this(caller: Caller, item_id: uuid.UUID) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        ITEMS.c.id == item_id,
        ITEMS.c.organization_id == caller.organization_id,
        ITEMS.c.deleted_at.is_(None),
    )


async def _record(connection: AsyncConnection, caller: Caller, verb: str, data: dict[str, Any]) -> None:
    event = {
        "organization_id": caller.organization_id,
        "addon_key": "bench",
        "event_type": f"bench.benchitem.{verb}",
        "data": orjson.loads(orjson.dumps(data, default=_plain)),
        "actor_id": caller.user_id,
    }
    await connection.execute(sa.insert(EVENTS).values(event))


def _reply(row: Mapping[Any, Any], status: int = 200) -> Response:
    body = orjson.dumps({"success": True, "data": dict(row)}, default=_plain)
    return Response(body, status, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, uuid.UUID):  # The driver's own subclass.
        return str(value)
    raise TypeError


def serve() -> None:
    """Serve the socket that the parent handed over until it goes away or says so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    listener = adopt(parser.parse_args().fd)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    config = uvicorn.Config(application, loop="uvloop", http="httptools", log_config=None, access_log=False)
    uvicorn.Server(config).run([listener])


def _stop_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    serve()
