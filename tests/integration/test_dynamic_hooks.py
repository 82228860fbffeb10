"""Hooks around create, update and delete, on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from tests.factories import make_organization, principal
from tests.live_models import TICKET, Desk

from metacore.db.database import Database
from metacore.dynamic.hook_points import HookContext, HookRegistry
from metacore.dynamic.service import DynamicService
from metacore.errors import Conflict, NotFound, Refused
from metacore.identity import Principal


@pytest.fixture
async def desk(databases: tuple[Database, Database]) -> Desk:
    desk = Desk(*databases)
    await desk.add(TICKET)
    return desk


@pytest.fixture
async def ada(desk: Desk) -> Principal:
    who = principal(await make_organization(desk.owner))
    desk.install_for(who.organization_id)
    return who


@pytest.fixture
def service(desk: Desk) -> DynamicService:
    return DynamicService(desk.serving, desk.registry, hooks=HookRegistry())


async def test_a_before_hook_changes_the_input(service: DynamicService, ada: Principal) -> None:
    @service.hooks.before_create("tickets")
    async def shout(context: HookContext, values: dict[str, Any]) -> Mapping[str, Any]:
        assert context.before is None
        return {**values, "title": values["title"].upper(), "closed_at": "2026-01-01T00:00:00Z"}

    @service.hooks.before_create("*")
    async def in_place(_context: HookContext, values: dict[str, Any]) -> None:
        values["body"] = values["title"] + "!"

    made = await service.create(ada, "Ticket", {"title": "help", "nonsense": 1})
    assert (made["title"], made["body"]) == ("HELP", "HELP!")
    assert made["closed_at"] == "2026-01-01T00:00:00+00:00", "a host's code may set what a caller may not"


async def test_what_a_hook_sets_is_validated(service: DynamicService, ada: Principal) -> None:
    @service.hooks.before_create("Ticket")
    async def too_much(_context: HookContext, values: dict[str, Any]) -> Mapping[str, Any]:
        return {**values, "priority": 99}

    with pytest.raises(Refused):
        await service.create(ada, "Ticket", {"title": "x"})


async def test_a_before_hook_stops_the_save(desk: Desk, service: DynamicService, ada: Principal) -> None:
    made = await service.create(ada, "Ticket", {"title": "x"})

    async def no(_context: HookContext, _values: dict[str, Any]) -> None:
        raise Refused("not today", code="holiday")

    for point in ("before_create", "before_update", "before_delete"):
        service.hooks.register(point, "Ticket", no)
    row_id = uuid.UUID(made["id"])
    for attempt in (
        service.create(ada, "Ticket", {"title": "y"}),
        service.update(ada, "Ticket", row_id, {"title": "y"}),
        service.delete(ada, "Ticket", row_id),
    ):
        with pytest.raises(Refused, match="not today"):
            await attempt
    assert (await service.list(ada, "Ticket"))[0] == [made]
    assert len(await desk.events()) == 1


async def test_before_hooks_see_the_row_as_it_is(service: DynamicService, ada: Principal) -> None:
    seen: list[Any] = []

    async def look(context: HookContext, _values: dict[str, Any]) -> None:
        assert context.before is not None
        seen.append((context.before["title"], context.before["price"], "pin" in context.before))

    service.hooks.register("before_update", "Ticket", look)
    service.hooks.register("before_delete", "Ticket", look)
    made = await service.create(ada, "Ticket", {"title": "x", "price": 1.5, "pin": "1234"})
    row_id = uuid.UUID(made["id"])
    await service.update(ada, "Ticket", row_id, {"title": "y"})
    await service.delete(ada, "Ticket", row_id)
    assert seen == [("x", Decimal("1.5"), False), ("y", Decimal("1.5"), False)]
    with pytest.raises(NotFound):
        await service.update(ada, "Ticket", row_id, {"title": "z"})
    assert len(seen) == 2


async def test_after_hooks_see_the_committed_row_and_cannot_undo_it(
    service: DynamicService, ada: Principal, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str, str | None]] = []

    async def broken(_context: HookContext, _row: dict[str, Any]) -> None:
        raise RuntimeError("printer on fire")

    async def note(context: HookContext, row: dict[str, Any]) -> None:
        seen.append((str(context.row_id), row["title"], context.before["title"] if context.before else None))

    for point in ("after_create", "after_update", "after_delete"):
        service.hooks.register(point, "Ticket", broken)
        service.hooks.register(point, "Ticket", note)
    made = await service.create(ada, "Ticket", {"title": "x"})
    row_id = uuid.UUID(made["id"])
    await service.update(ada, "Ticket", row_id, {"title": "y"})
    await service.delete(ada, "Ticket", row_id)
    assert seen == [(made["id"], "x", None), (made["id"], "y", "x"), (made["id"], "y", "y")]
    assert len([record for record in caplog.records if record.exc_info]) == 3


async def test_hooks_of_other_models_do_not_run(service: DynamicService, ada: Principal) -> None:
    @service.hooks.before_create("invoices")
    async def never(_context: HookContext, _values: dict[str, Any]) -> None:
        raise AssertionError

    await service.create(ada, "Ticket", {"title": "x"})


async def test_a_change_in_between_makes_the_hook_look_again(service: DynamicService, ada: Principal) -> None:
    """A decision is never made on a row that others have replaced."""
    made = await service.create(ada, "Ticket", {"title": "x", "body": "first"})
    row_id = uuid.UUID(made["id"])
    seen: list[str] = []

    @service.hooks.before_update("Ticket")
    async def meddle(context: HookContext, values: dict[str, Any]) -> None:
        assert context.before is not None
        if "body" in values:
            return
        seen.append(context.before["body"])
        if len(seen) == 1:
            await service.update(ada, "Ticket", row_id, {"body": "second"})

    changed = await service.update(ada, "Ticket", row_id, {"title": "y"})
    assert seen == ["first", "second"]
    assert (changed["title"], changed["body"]) == ("y", "second")


async def test_a_row_that_never_rests_is_a_conflict_in_the_end(service: DynamicService, ada: Principal) -> None:
    made = await service.create(ada, "Ticket", {"title": "x"})
    row_id = uuid.UUID(made["id"])
    rounds = 0

    @service.hooks.before_update("Ticket")
    async def meddle(_context: HookContext, values: dict[str, Any]) -> None:
        nonlocal rounds
        if "body" not in values:
            rounds += 1
            await service.update(ada, "Ticket", row_id, {"body": str(rounds)})

    with pytest.raises(Conflict):
        await service.update(ada, "Ticket", row_id, {"title": "y"})
    assert (await service.get(ada, "Ticket", row_id))["title"] == "x"


def test_an_unknown_point_is_refused() -> None:
    async def hook(_context: HookContext, _values: dict[str, Any]) -> None: ...

    with pytest.raises(ValueError, match="during_create"):
        HookRegistry().register("during_create", "Ticket", hook)
