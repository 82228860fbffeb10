"""One model with every type of column, as an addon's and as a class of a host."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column
from tests.tickets import make_bundle, tickets_manifest

from metacore import Model

MODEL = "Creature"
COLUMNS = (
    *(
        "name",
        "story",
        "ref",
        "legs",
        "atoms",
        "weight",
        "tame",
        "seen_at",
        "born",
        "facts",
        "kind",
        "parent_id",
        "pin",
    ),
    *("id", "organization_id", "created_by_id", "created_at", "updated_at", "deleted_at"),
)
SETTINGS = {"text": "string", "number": "number", "flag": "boolean", "document": "json", "secret": "string"}


class Creature(Model):
    __tablename__ = "creatures"

    name: Mapped[str] = mapped_column(String(40))
    story: Mapped[str | None] = mapped_column(Text)
    ref: Mapped[uuid.UUID | None]
    legs: Mapped[int | None]
    atoms: Mapped[int | None] = mapped_column(BigInteger)
    weight: Mapped[Decimal | None]
    tame: Mapped[bool | None]
    seen_at: Mapped[datetime.datetime | None]
    born: Mapped[datetime.date | None]
    facts: Mapped[dict[str, Any] | None]
    kind: Mapped[str | None] = mapped_column(String(10))
    parent_id: Mapped[uuid.UUID | None]
    pin: Mapped[str | None] = mapped_column(String(20), info={"widget": "password"})
    deleted_at: Mapped[datetime.datetime | None]


def zoo_bundle() -> bytes:
    """The same as an addon `zoo`, with a setting of every kind."""
    cat = {"value": "cat", "label": "Cat"}
    columns = [
        {"name": "name", "type": "string", "size": 40, "not_null": True},
        {"name": "story", "type": "text"},
        {"name": "ref", "type": "uuid"},
        {"name": "legs", "type": "int"},
        {"name": "atoms", "type": "bigint"},
        {"name": "weight", "type": "decimal"},
        {"name": "tame", "type": "bool"},
        {"name": "seen_at", "type": "timestamp"},
        {"name": "born", "type": "date"},
        {"name": "facts", "type": "jsonb"},
        {"name": "kind", "type": "string", "widget": "select", "options": [cat]},
        {"name": "parent_id", "type": "uuid", "ref": MODEL},
        {"name": "pin", "type": "string", "widget": "password"},
    ]
    settings = [{"key": key, "label": key, "type": kind, "secret": key == "secret"} for key, kind in SETTINGS.items()]
    model = {"key": MODEL, "table": "creatures", "soft_delete": True, "columns": columns}
    return make_bundle(
        tickets_manifest(key="zoo", models=[model], settings=settings, capabilities=[]), frontend={"x.js": b"1"}
    )
