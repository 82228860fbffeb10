"""One suite for both databases: what a caller of the service sees must not depend on which one is below."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from tests.factories import make_organization, principal
from tests.live_models import TICKET, Desk

from metacore.db.database import Database
from metacore.dynamic.service import DynamicService
from metacore.errors import Conflict, InvalidInput, MetacoreError, NotFound, PermissionDenied, Refused
from metacore.identity import Principal
from metacore.ids import new_uuid
from metacore.manifest.model import Column, ColumnType, ForeignKey, ModelDefinition
from metacore.orm.accounts import Organization
from metacore.permissions.service import PermissionService
from metacore.permissions.store import MemoryPermissionStore

CLOCK = "time without time zone"


@dataclass
class Office:
    """A desk with two organizations, and the service over it."""

    desk: Desk
    service: DynamicService
    ada: Principal
    eve: Principal
    commits: list[int] = field(default_factory=list)

    async def create(self, who: Principal | None = None, **values: Any) -> dict[str, Any]:
        return await self.service.create(who or self.ada, "Ticket", {"title": "Printer", **values})

    async def titles(self, *params: tuple[str, str], who: Principal | None = None) -> list[str]:
        rows, _ = await self.service.list(who or self.ada, "Ticket", params)
        return [row["title"] for row in rows]


@pytest.fixture
async def organizations(databases: tuple[Database, Database]) -> tuple[Principal, Principal]:
    _, owner = databases
    return principal(await make_organization(owner, "Acme")), principal(await make_organization(owner, "Evil"))


@pytest.fixture
async def office(databases: tuple[Database, Database], organizations: tuple[Principal, Principal]) -> Office:
    serving, owner = databases
    desk = Desk(serving, owner)
    await desk.add(TICKET, unique=["code"])
    ada, eve = organizations
    desk.install_for(ada.organization_id, eve.organization_id)
    commits: list[int] = []
    service = DynamicService(serving, desk.registry, on_commit=lambda: commits.append(1), max_per_page=50)
    return Office(desk, service, ada, eve, commits)


def fields_of(error: MetacoreError) -> dict[str, str]:
    return {problem.field: problem.code for problem in error.problems}


async def test_a_created_row_comes_back_as_it_is_stored(office: Office) -> None:
    made = await office.create(
        body="It smokes",
        priority=3,
        visits=2**40,
        price=12.5,
        urgent=True,
        due="2026-02-28",
        seen_at="2026-01-31T14:30:00.25+02:00",
        meta={"a": [1, None, "ü"]},
        owner_ref="6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10",
    )
    assert uuid.UUID(made.pop("id")).version == 4
    created_at = datetime.datetime.fromisoformat(made.pop("created_at"))
    assert created_at.utcoffset() == datetime.timedelta(0)
    assert datetime.datetime.fromisoformat(made.pop("updated_at")) == created_at
    assert made == {
        "organization_id": str(office.ada.organization_id),
        "created_by_id": str(office.ada.user_id),
        "title": "Printer",
        "body": "It smokes",
        "code": None,
        "status": "open",
        "kind": None,
        "priority": 3,
        "visits": 2**40,
        "price": 12.5,
        "quantity": 1,
        "total": 12.5,
        "urgent": True,
        "due": "2026-02-28",
        "closed_at": None,
        "seen_at": "2026-01-31T12:30:00.25+00:00",
        "meta": {"a": [1, None, "ü"]},
        "owner_ref": "6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10",
        "taxcode": None,
        "deleted_at": None,
    }


async def test_get_gives_what_create_gave(office: Office) -> None:
    made = await office.create(meta=[1.5, False], due="2026-02-28")
    assert await office.service.get(office.ada, "tickets", uuid.UUID(made["id"])) == made


async def test_kernel_columns_of_the_caller_are_ignored(office: Office) -> None:
    other = str(new_uuid())
    made = await office.create(
        id=other, organization_id=other, created_by_id=other, created_at="2001-01-01", updated_at="2001-01-01"
    )
    assert made["id"] != other
    assert made["organization_id"] == str(office.ada.organization_id)
    assert made["created_by_id"] == str(office.ada.user_id)
    assert not made["created_at"].startswith("2001")
    changed = await office.service.update(
        office.ada, "Ticket", uuid.UUID(made["id"]), {"id": other, "organization_id": other, "deleted_at": "2001-01-01"}
    )
    assert changed == made


async def test_unknown_and_readonly_columns_of_the_caller_are_ignored(office: Office) -> None:
    made = await office.create(nonsense=1, closed_at="2001-01-01T00:00:00Z")
    assert made["closed_at"] is None


async def test_update_changes_only_the_keys_present(office: Office) -> None:
    made = await office.create(body="old", priority=4)
    changed = await office.service.update(office.ada, "Ticket", uuid.UUID(made["id"]), {"body": None, "title": "New"})
    assert changed["updated_at"] >= made["updated_at"]
    assert changed | {"updated_at": 0} == made | {"body": None, "title": "New", "updated_at": 0}


async def test_soft_deleted_rows_are_invisible_and_stay(office: Office) -> None:
    made = await office.create()
    row_id = uuid.UUID(made["id"])
    await office.service.delete(office.ada, "Ticket", row_id)
    for attempt in (
        office.service.get(office.ada, "Ticket", row_id),
        office.service.update(office.ada, "Ticket", row_id, {"title": "x"}),
        office.service.delete(office.ada, "Ticket", row_id),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await office.titles() == []
    async with office.desk.owner.engine.connect() as connection:
        table = "addon_desk.tickets" if office.desk.owner.dialect == "postgresql" else "tickets"
        assert await connection.scalar(sa.text(f"SELECT count(*) FROM {table} WHERE deleted_at IS NOT NULL")) == 1


async def test_hard_deleted_rows_are_gone(office: Office) -> None:
    note = ModelDefinition(key="Note", table="notes", columns=(Column(name="text", type=ColumnType.TEXT),))
    await office.desk.add(note)
    made = await office.service.create(office.ada, "Note", {"text": "x"})
    await office.service.delete(office.ada, "Note", uuid.UUID(made["id"]))
    async with office.desk.owner.engine.connect() as connection:
        table = "addon_desk.notes" if office.desk.owner.dialect == "postgresql" else "notes"
        assert await connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) == 0


async def test_rows_of_another_organization_do_not_exist(office: Office) -> None:
    made = await office.create(title="Secret plan")
    row_id = uuid.UUID(made["id"])
    assert await office.titles(who=office.eve) == []
    for attempt in (
        office.service.get(office.eve, "Ticket", row_id),
        office.service.update(office.eve, "Ticket", row_id, {"title": "mine"}),
        office.service.update(office.eve, "Ticket", row_id, {"status": "closed"}),
        office.service.delete(office.eve, "Ticket", row_id),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await office.service.get(office.ada, "Ticket", row_id) == made


async def test_every_change_writes_its_event_without_secrets(office: Office) -> None:
    made = await office.create(pin="1234", price=2)
    row_id = uuid.UUID(made["id"])
    changed = await office.service.update(office.ada, "Ticket", row_id, {"pin": "9999", "price": 3})
    await office.service.delete(office.ada, "Ticket", row_id)
    created, updated, deleted = await office.desk.events()
    assert [event["event_type"] for event in (created, updated, deleted)] == [
        "desk.Ticket.created",
        "desk.Ticket.updated",
        "desk.Ticket.deleted",
    ]
    for event in (created, updated, deleted):
        assert event["addon_key"] == "desk"
        assert uuid.UUID(str(event["organization_id"])) == office.ada.organization_id
        assert uuid.UUID(str(event["actor_id"])) == office.ada.user_id
        assert "1234" not in str(event["data"])
        assert "9999" not in str(event["data"])
    assert as_json(created["data"]) == {"id": made["id"], "after": made}
    assert as_json(updated["data"]) == {"id": made["id"], "before": made, "after": changed}
    assert as_json(deleted["data"]) == {"id": made["id"], "before": changed}
    assert len(office.commits) == 3


def as_json(data: Any) -> Any:
    return orjson.loads(data) if isinstance(data, str | bytes) else data


async def test_what_is_refused_leaves_no_row_and_no_event(office: Office) -> None:
    await office.create(code="AB-1")
    with pytest.raises(Conflict):
        await office.create(code="AB-1")
    with pytest.raises(Refused):
        await office.create(priority=10)
    assert len(await office.titles()) == 1
    assert len(await office.desk.events()) == 1


async def test_secret_columns_are_written_and_never_read(office: Office) -> None:
    made = await office.create(pin="1234")
    assert "pin" not in made
    rows, _ = await office.service.list(office.ada, "Ticket", [("f_pin", "9999"), ("sortBy", "pin")])
    assert len(rows) == 1, "a filter on a secret column would tell its value"
    async with office.desk.owner.engine.connect() as connection:
        table = "addon_desk.tickets" if office.desk.owner.dialect == "postgresql" else "tickets"
        assert await connection.scalar(sa.text(f"SELECT pin FROM {table}")) == "1234"


async def test_a_taken_unique_value_is_a_conflict_on_its_column(office: Office) -> None:
    await office.create(code="AB-1")
    with pytest.raises(Conflict) as refused:
        await office.create(code="AB-1")
    assert fields_of(refused.value) == {"code": "unique"}
    assert (await office.create(who=office.eve, code="AB-1"))["code"] == "AB-1"
    second = await office.create(code="AB-2")
    with pytest.raises(Conflict) as refused:
        await office.service.update(office.ada, "Ticket", uuid.UUID(second["id"]), {"code": "AB-1"})
    assert fields_of(refused.value) == {"code": "unique"}


async def test_a_reference_to_nothing_is_refused(office: Office) -> None:
    note = ModelDefinition(
        key="Note",
        table="notes",
        columns=(Column(name="ticket_id", type=ColumnType.UUID, ref="tickets"),),
        foreign_keys=(ForeignKey(column="ticket_id", references_table="tickets"),),
    )
    target = "addon_desk.tickets" if office.desk.owner.dialect == "postgresql" else "tickets"
    await office.desk.add(note, constraints=[f"CONSTRAINT fk_ticket FOREIGN KEY (ticket_id) REFERENCES {target} (id)"])
    with pytest.raises(Refused):
        await office.service.create(office.ada, "Note", {"ticket_id": str(new_uuid())})
    assert (await office.service.list(office.ada, "Note"))[0] == []


async def test_the_tables_own_rules_are_refused_with_a_reason(office: Office) -> None:
    note = ModelDefinition(key="Note", table="notes", columns=(Column(name="stars", type=ColumnType.INT),))
    await office.desk.add(note, constraints=["CONSTRAINT few_stars CHECK (stars < 6)"])
    with pytest.raises(Refused) as refused:
        await office.service.create(office.ada, "Note", {"stars": 6})
    assert refused.value.code == "validation"


async def test_every_wrong_field_is_named_at_once(office: Office) -> None:
    with pytest.raises(InvalidInput) as refused:
        await office.service.create(
            office.ada,
            "Ticket",
            {"title": 5, "priority": True, "due": "tomorrow", "code": "abc", "price": float("nan"), "kind": "fault"},
        )
    assert fields_of(refused.value) == {
        "title": "type",
        "priority": "type",
        "due": "type",
        "code": "regex",
        "price": "type",
        "kind": "option",
    }


async def test_a_transition_outside_the_machine_is_refused(office: Office) -> None:
    made = await office.create(status="open")
    row_id = uuid.UUID(made["id"])
    closed = await office.service.update(office.ada, "Ticket", row_id, {"status": "closed"})
    assert closed["closed_at"] is not None
    with pytest.raises(Refused) as refused:
        await office.service.update(office.ada, "Ticket", row_id, {"status": "open", "title": "again"})
    assert refused.value.code == "transition"
    assert fields_of(refused.value) == {"status": "transition"}
    assert await office.service.get(office.ada, "Ticket", row_id) == closed


async def test_of_two_conflicting_transitions_one_wins(office: Office) -> None:
    made = await office.create(status="waiting")
    row_id = uuid.UUID(made["id"])
    outcomes = await asyncio.gather(
        *(office.service.update(office.ada, "Ticket", row_id, {"status": stage}) for stage in ("closed", "open") * 4),
        return_exceptions=True,
    )
    assert not [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, Refused | Conflict)]
    moves = [
        (event["before"]["status"], event["after"]["status"])
        for event in (as_json(event["data"]) for event in await office.desk.events())
        if "before" in event
    ]
    allowed = {(step.source, step.target) for step in TICKET.transitions}
    assert moves
    assert all(move in allowed or move[0] == move[1] for move in moves)


async def test_formulas_follow_the_row_that_is_there(office: Office) -> None:
    made = await office.create(price=2.5, quantity=4, total=1)
    assert made["total"] == 10
    changed = await office.service.update(office.ada, "Ticket", uuid.UUID(made["id"]), {"quantity": 3})
    assert changed["total"] == 7.5


async def test_constraints_hold_on_update(office: Office) -> None:
    made = await office.create(price=2)
    with pytest.raises(Refused) as refused:
        await office.service.update(office.ada, "Ticket", uuid.UUID(made["id"]), {"price": -1})
    assert fields_of(refused.value) == {"price": "price"}


async def test_the_organizations_own_validator_is_asked(office: Office) -> None:
    async with office.desk.owner.session(office.ada.organization_id) as session:
        await session.execute(
            sa.update(Organization)
            .where(Organization.id == office.ada.organization_id)
            .values(validators={"taxcode": {"regex": "^[0-9]{11}$", "message": "eleven digits"}})
        )
    with pytest.raises(Refused) as refused:
        await office.create(taxcode="abc")
    assert "eleven digits" in refused.value.message
    assert (await office.create(who=office.eve, taxcode="abc"))["taxcode"] == "abc"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([("f_priority", "3")], ["c"]),
        ([("f_priority", "gte:3")], ["d", "c"]),
        ([("f_priority", "range:2|3")], ["c", "b"]),
        ([("f_priority", "range:|2")], ["b", "a"]),
        ([("f_priority", "range:|")], ["d", "c", "b", "a"]),
        ([("f_priority", "in:1,4,9")], ["d", "a"]),
        ([("f_priority", "gte:2"), ("f_priority", "lte:3")], ["c", "b"]),
        ([("f_title", "ilike:B")], ["b"]),
        ([("f_body", "ilike:%")], ["d"]),
        ([("f_body", "ilike:_")], ["c"]),
        ([("f_body", "eq:50% off")], ["d"]),
        ([("f_body", "time: now")], ["b"]),
        ([("f_urgent", "true")], ["b"]),
        ([("f_due", "lte:2026-01-02")], ["b", "a"]),
        ([("f_seen_at", "2026-01-02")], ["b"]),
        ([("f_seen_at", "range:2026-01-02|2026-01-03")], ["c", "b"]),
        ([("f_price", "gte:2.5")], ["d", "c"]),
        ([("f_owner_ref", "6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10")], ["a"]),
        ([("f_nonsense", "1"), ("f_title", "")], ["d", "c", "b", "a"]),
        ([("search", "50%")], ["d"]),
        ([("search", "TIME")], ["b"]),
        ([("sortBy", "price"), ("order", "asc")], ["b", "c", "d", "a"]),
        ([("sortBy", "price"), ("order", "desc")], ["a", "d", "c", "b"]),
        ([("sortBy", "nonsense")], ["d", "c", "b", "a"]),
        ([("per_page", "2"), ("page", "2")], ["b", "a"]),
        ([("per_page", "2"), ("page", "9")], []),
    ],
)
async def test_lists_filter_search_and_sort(office: Office, params: list[tuple[str, str]], expected: list[str]) -> None:
    reference = "6f1c1a52-5d0c-4d8e-9c51-1e8a3c5f2a10"
    await office.create(title="a", priority=1, due="2026-01-01", owner_ref=reference)
    await office.create(
        title="b", priority=2, due="2026-01-02", price=1, urgent=True, body="time: now", seen_at="2026-01-02T10:00:00Z"
    )
    await office.create(
        title="c", priority=3, due="2026-01-03", price=2.5, body="a_b", seen_at="2026-01-03T23:59:59.5Z"
    )
    await office.create(
        title="d", priority=4, due="2026-01-04", price=10, body="50% off", seen_at="2026-01-04T00:00:00Z"
    )
    assert await office.titles(*params) == expected


@pytest.mark.parametrize(
    "field", ["f_priority", "f_price", "f_urgent", "f_due", "f_seen_at", "f_owner_ref", "f_meta", "f_visits"]
)
async def test_a_filter_value_of_the_wrong_type_is_named(office: Office, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await office.service.list(office.ada, "Ticket", [(field, "eq:nonsense")])
    assert list(fields_of(refused.value)) == [field]


async def test_meta_counts_and_pages(office: Office) -> None:
    for number in range(5):
        await office.create(title=str(number))
    _, meta = await office.service.list(office.ada, "Ticket", [("per_page", "2"), ("page", "2")])
    assert meta == {"total": 5, "page": 2, "per_page": 2, "last_page": 3}
    _, meta = await office.service.list(office.eve, "Ticket", [("per_page", "1000")])
    assert meta == {"total": 0, "page": 1, "per_page": 50, "last_page": 1}
    for count in ("exact", "capped", "estimated"):
        _, meta = await office.service.list(office.ada, "Ticket", [("count", count)])
        assert meta == {"total": 5, "page": 1, "per_page": 20, "last_page": 1, "count": "exact"}
    _, meta = await office.service.list(office.ada, "Ticket", [("count", "none")])
    assert meta == {"total": None, "page": 1, "per_page": 20, "last_page": None, "count": "none"}


@pytest.mark.parametrize("sort", ["", "title", "price", "priority", "due", "seen_at", "urgent", "id"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_cursor_walks_every_row_once_in_the_order_of_pages(office: Office, sort: str, order: str) -> None:
    for number in range(7):
        await office.create(
            title=f"t{number % 3}",
            price=None if number % 3 == 0 else number / 4,
            priority=number % 2,
            due=None if number % 2 else f"2026-01-0{number + 1}",
            seen_at=None if number == 3 else f"2026-01-0{number + 1}T00:00:00.{number}Z",
            urgent=number % 2 == 0,
        )
    order_params = [("sortBy", sort), ("order", order)]
    whole, _ = await office.service.list(office.ada, "Ticket", order_params)
    walked: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        rows, meta = await office.service.list(
            office.ada, "Ticket", [*order_params, ("per_page", "3"), ("cursor", cursor)]
        )
        walked += rows
        cursor = meta["next_cursor"]
        assert meta["total"] == 7
        assert len(walked) <= 7
    assert [row["id"] for row in walked] == [row["id"] for row in whole]


async def test_permission_is_asked_for_every_verb(office: Office) -> None:
    store = MemoryPermissionStore()
    made = await office.create()
    row_id = uuid.UUID(made["id"])
    guarded = DynamicService(
        office.desk.serving, office.desk.registry, permissions=PermissionService(store, super_roles=())
    )
    agent = Principal(
        **{name: getattr(office.ada, name) for name in Principal.__slots__ if name != "role"}, role="agent"
    )
    for capability, attempt in (
        ("ticket.read", lambda: guarded.list(agent, "Ticket")),
        ("ticket.read", lambda: guarded.get(agent, "Ticket", row_id)),
        ("ticket.create", lambda: guarded.create(agent, "tickets", {"title": "x"})),
        ("ticket.update", lambda: guarded.update(agent, "Ticket", row_id, {"title": "x"})),
        ("ticket.delete", lambda: guarded.delete(agent, "Ticket", row_id)),
    ):
        with pytest.raises(PermissionDenied, match=capability):
            await attempt()


async def test_a_model_that_is_not_installed_does_not_exist(office: Office) -> None:
    stranger = principal(new_uuid())
    with pytest.raises(NotFound):
        await office.service.list(stranger, "Ticket")


async def test_tables_of_a_migration_are_served_with_their_own_types(office: Office) -> None:
    """Timestamps without time zone, integers of other widths, numbers without scale, columns that nobody declared."""
    note = ModelDefinition(
        key="Note",
        table="notes",
        columns=(
            Column(name="ratio", type=ColumnType.DECIMAL),
            Column(name="small", type=ColumnType.INT),
            Column(name="at", type=ColumnType.TIMESTAMP),
            Column(name="r", type=ColumnType.TEXT),
        ),
    )
    types = {"ratio": "double precision", "small": "smallint", "at": "timestamp without time zone"}
    await office.desk.add(note, overrides=types)
    made = await office.service.create(
        office.ada, "Note", {"ratio": 0.1, "small": 7, "at": "2026-06-01T00:00:00+02:00", "r": "x"}
    )
    assert (made["ratio"], made["small"], made["at"], made["r"]) == (0.1, 7, "2026-05-31T22:00:00+00:00", "x")
    with pytest.raises(InvalidInput):
        await office.service.create(office.ada, "Note", {"small": 40_000})


async def test_what_does_not_fit_a_type_of_the_addons_own_is_named(kernel_db: Database, owner_db: Database) -> None:
    """Types that only PostgreSQL can read: it tells the type, or the key, or neither."""
    host = ModelDefinition(
        key="Host",
        table="hosts",
        columns=tuple(Column(name=name, type=ColumnType.TEXT) for name in ("address", "names", "opens", "closes")),
    )
    desk = Desk(kernel_db, owner_db)
    await desk.add(host, overrides={"address": "inet", "names": "text[]", "opens": CLOCK, "closes": CLOCK})
    ada = principal(await make_organization(owner_db, "Acme"))
    desk.install_for(ada.organization_id)
    service = DynamicService(kernel_db, desk.registry)
    made = await service.create(ada, "Host", {"address": "10.0.0.1", "names": ["a"], "opens": "09:00"})
    assert (made["address"], made["names"], made["opens"]) == ("10.0.0.1", ["a"], "09:00:00")
    for values, told, fields in (
        ({"address": "nowhere"}, "address (inet): the value does not fit", ["address"]),
        ({"names": "a"}, "names (text[]): the value does not fit", ["names"]),
        ({"opens": "x"}, f"opens ({CLOCK}) or closes ({CLOCK}): the value does not fit", []),
        ({"opens": "25:99"}, f"address (inet) or names (text[]) or opens ({CLOCK}) or closes ({CLOCK}): the", []),
    ):
        with pytest.raises(InvalidInput) as refused:
            await service.create(ada, "Host", values)
        assert refused.value.message.startswith(told)
        assert list(fields_of(refused.value)) == fields
