"""Running an addon's code: what it is given, what comes back, and where it may not run at all."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import workshop
from tests.arrivals import Arrivals
from tests.conftest import DatabaseUrls
from tests.control_plane import Plane, control_plane
from tests.factories import principal
from tests.guests.build import guest
from tests.guests.script import GIANT, GRAB, RECURSE, TRAP, host, repeat, reply, script, step
from tests.tickets import signed

from metacore.addons.handlers.compiled import FunctionCall
from metacore.addons.invocation import Handler, Invocation, Result
from metacore.addons.runner import AddonRunner
from metacore.errors import Fenced, NotFound, NotWired, Refused, Unavailable
from metacore.events.bus import BusEvent


@pytest.fixture
async def plane(database_urls: DatabaseUrls) -> AsyncIterator[Plane]:
    async with control_plane(database_urls) as opened:
        yield opened


@pytest.fixture
async def served(plane: Plane) -> Plane:
    """Ada's organization has the addon, Eve's has not."""
    await workshop.install(plane, plane.ada)
    return plane


async def organization(plane: Plane, headers: dict[str, str]) -> uuid.UUID:
    reply = await plane.client.get("/api/auth/me", headers=headers)
    return uuid.UUID(reply.json()["data"]["user"]["organization_id"])


async def invocation(plane: Plane, payload: dict[str, Any], function: str = "run", **changes: Any) -> Invocation:
    values: dict[str, Any] = {
        "addon_key": "workshop",
        "organization_id": await organization(plane, plane.ada),
        "trigger": "schedule",
        "name": "nightly",
        "handler": Handler("wasm", function),
        "payload": payload,
        "caller": "schedule:nightly",
        **changes,
    }
    return Invocation(**values)


async def run(plane: Plane, *steps: bytes, **changes: Any) -> Result:
    return await plane.app.runner.run(await invocation(plane, script(*steps), **changes))


async def test_the_guest_gets_its_request_and_its_answer_comes_back_as_a_result(served: Plane) -> None:
    result = await served.app.runner.run(await invocation(served, {"a": [1, uuid.UUID(int=7)]}, "echo"))
    assert result == Result(success=True, data={"a": [1, str(uuid.UUID(int=7))]})
    declined = await run(served, reply({"success": False, "error": {"code": "closed", "message": "it is closed"}}))
    assert (declined.success, declined.code, declined.message) == (False, "closed", "it is closed")
    assert (await run(served, reply({"success": True, "data": 5, "meta": {"n": 1}}))).meta == {"n": 1}
    assert not (await run(served, reply({"success": "yes"}))).success


async def test_settings_reach_the_guest_with_defaults_and_secrets_in_clear(served: Plane) -> None:
    asked = [host("env_get", key) for key in ("greeting", "limit", "token", "absent")]
    assert (await run(served, *asked)).data == ["hi", "7", None, None]
    written = await served.client.put(
        "/api/metacore/installations/workshop/settings", json={"greeting": "ho", "token": "s3cret"}, headers=served.ada
    )
    assert written.status_code == 200, written.text
    assert (await run(served, *asked)).data == ["ho", "7", "s3cret", None]


async def test_events_of_a_guest_reach_the_bus_once_they_are_committed(served: Plane) -> None:
    heard = Arrivals[BusEvent]()
    served.app.bus.subscribe("kernel", "workshop.*", heard)
    result = await run(
        served, host("event_emit", "workshop.order.shipped", {"id": 4}), host("event_emit", "workshop.ping", [1])
    )
    assert [answer["data"]["event"] for answer in result.data] == ["workshop.order.shipped", "workshop.ping"]
    assert all(answer["data"]["subscribers"] >= 1 for answer in result.data)
    events = await heard.reach(2)
    assert [(event.name, event.payload, event.actor_id) for event in events] == [
        ("workshop.order.shipped", {"id": 4}, None),
        ("workshop.ping", {"value": [1]}, None),
    ]
    assert {event.organization_id for event in events} == {await organization(served, served.ada)}


async def test_an_event_that_was_not_granted_is_allowed_in_shadow_and_refused_in_enforce(
    database_urls: DatabaseUrls,
) -> None:
    async with control_plane(database_urls, enforce=True) as plane:
        await workshop.install(plane, plane.ada)
        result = await run(plane, host("event_emit", "other.thing", {}), host("event_emit", "workshop.thing", {}))
        assert result.data[0]["error"]["code"] == "forbidden"
        assert result.data[1]["success"]
        gave_up = await run(plane, host("event_emit", "other.thing", {}), step(TRAP))
        assert (gave_up.success, gave_up.code) == (False, "forbidden")


@pytest.mark.parametrize("name", ["", "no spaces", "a..b", "x" * 300])
async def test_what_is_no_name_of_an_event_is_not_emitted(served: Plane, name: str) -> None:
    result = await run(served, host("event_emit", name, {}))
    assert result.data[0]["error"]["code"] == "arg_decode"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([step(TRAP)], "runtime_error"),
        ([step(RECURSE)], "runtime_error"),
        ([step(GRAB)], "memory_exhausted"),
        ([step(GIANT)], "payload_too_large"),
    ],
)
async def test_a_guest_that_misbehaves_is_a_result_with_its_code(served: Plane, steps: list[bytes], code: str) -> None:
    result = await run(served, *steps)
    assert (result.success, result.code) == (False, code)
    assert (await run(served, host("env_get", "greeting"))).data == ["hi"]


async def test_ten_thousand_host_calls_are_answered(served: Plane) -> None:
    assert (await run(served, repeat(10_000, host("env_get", "greeting")))).data == ["hi"]


async def test_handlers_that_are_not_wired_say_so(served: Plane) -> None:
    nothing = await invocation(served, {}, handler=Handler("noop"), trigger="transition", name="nothing")
    assert (await served.app.runner.run(nothing)).success
    with pytest.raises(NotWired, match="noop"):
        await AddonRunner(served.app.registry, {}).run(nothing)


async def test_it_runs_only_where_it_is_installed_enabled_and_trusted(served: Plane) -> None:
    with pytest.raises(NotFound, match="not installed"):
        await run(served, organization_id=await organization(served, served.eve))
    with pytest.raises(NotFound, match="not installed"):
        await run(served, addon_key="nowhere")
    with pytest.raises(NotFound, match="exports no function"):
        await run(served, handler=Handler("wasm", "alloc"))
    async with served.working():
        disabled = await served.client.post("/api/metacore/installations/workshop/disable", headers=served.ada)
        assert disabled.is_success
    with pytest.raises(NotFound, match="not installed"):
        await run(served)
    # Its own farewell is the one thing that still runs.
    assert (await run(served, reply(1), trigger="lifecycle", name="disable")).data == 1
    await served.installer.fence("workshop", "key removed")
    await served.app.loader.load()
    with pytest.raises(Fenced):
        await run(served, trigger="lifecycle", name="disable")


async def test_the_farewell_of_an_addon_that_is_gone_runs_from_its_bundle(served: Plane) -> None:
    digest = served.app.registry.snapshot.addons["workshop"].digest
    await served.installer.remove("workshop", drop=True)
    await served.app.loader.load()
    assert (await run(served, reply("bye"), trigger="lifecycle", name="uninstall", digest=digest)).data == "bye"
    with pytest.raises(NotFound):
        await run(served, trigger="lifecycle", name="uninstall")
    with pytest.raises(NotFound):
        await run(served, trigger="lifecycle", name="uninstall", digest="0" * 64)
    with pytest.raises(NotFound):
        await run(served, trigger="lifecycle", name="uninstall", digest=digest, addon_key="tickets")


async def test_a_module_that_cannot_run_quarantines_the_addon_and_the_heartbeat_says_so(
    served: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, signature = signed(
        workshop.workshop_bundle(workshop.workshop_manifest(version="2.0.0"), guest("start_loops"))
    )
    # An installer that does not look: the kernel has to.
    monkeypatch.setattr("metacore.installer.execute.check_wasm", lambda _bundle: None)
    async with served.working():
        reply_ = await served.install(served.ada, content, signature, key="workshop")
    assert reply_.is_success, reply_.text
    await served.app.loader.load()
    status = served.app.loader.status()["workshop"]
    assert "exports no function" in status["error"]
    with pytest.raises(Unavailable, match="quarantined"):
        await run(served)


async def test_an_app_without_code_of_addons_opens_no_engine(plane: Plane) -> None:
    async with plane.working():
        assert (await plane.install(plane.ada)).status_code == 201
    assert "tickets" in plane.app.registry.snapshot.addons
    assert not plane.app._code.sandbox.opened


async def test_functions_of_the_host_run_as_compiled_handlers(served: Plane) -> None:
    caller = principal(await organization(served, served.ada))

    async def close(call: FunctionCall) -> Any:
        assert call.principal == caller
        return {"closed": call.payload["id"], "by": str(call.organization_id)}

    def declines(_call: FunctionCall) -> Any:
        raise Refused("not today", code="closed")

    def breaks(_call: FunctionCall) -> Any:
        raise ZeroDivisionError

    for name, function in (("close", close), ("declines", declines), ("breaks", breaks)):
        served.app.functions.register("workshop", name, function)

    async def call(name: str) -> Result:
        return await served.app.runner.run(
            await invocation(served, {"id": 3}, handler=Handler("compiled", name), principal=caller)
        )

    assert (await call("close")).data == {"closed": 3, "by": str(caller.organization_id)}
    declined = await call("declines")
    assert (declined.success, declined.code, declined.message) == (False, "closed", "not today")
    assert (await call("breaks")).code == "runtime_error"
    with pytest.raises(NotFound, match="no function"):
        await call("absent")


async def test_runs_are_counted_by_what_came_of_them(served: Plane) -> None:
    await run(served, reply(1))
    await run(served, reply({"success": False}))
    await run(served, step(TRAP))
    with pytest.raises(NotFound):
        await run(served, addon_key="made_up")
    text = served.app.metrics.render().decode()
    for addon, outcome in (("workshop", "ok"), ("workshop", "declined"), ("workshop", "failed"), ("kernel", "refused")):
        labels = f'addon="{addon}",kind="wasm",outcome="{outcome}",trigger="schedule"'
        assert f"metacore_addon_invocations_total{{{labels}}} 1.0" in text
    assert "made_up" not in text
