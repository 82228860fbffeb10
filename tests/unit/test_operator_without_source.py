"""What goes on while the source of an installed bundle gives nothing, and what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.test_operator_reconcile import (
    ACME,
    GLOBEX,
    KEY,
    OTHER,
    World,
    addon_of,
    after,
    bundle_of,
    other_addon,
    text,
)

from metacore.bundle.signature import TrustedKeys
from metacore.errors import InstallFailed
from metacore_operator.conditions import Summary
from metacore_operator.outcomes import Done, Reason, Stalled, Waiting
from metacore_operator.resources.addon import FORCE, REQUESTED_AT, Addon
from metacore_operator.resources.status import Phase
from metacore_operator.sources.source import AskLater, Look
from metacore_operator.steps.reconcile import remove
from metacore_operator.steps.sightings import Sightings
from metacore_operator.steps.state import Tenant


def condition(summary: Summary, kind: str) -> tuple[str, str]:
    found = summary.status.condition(kind)
    return (found.status, found.reason) if found is not None else ("", "")


def changed(addon: Addon) -> Addon:
    """With the next generation."""
    metadata = addon.metadata.model_copy(update={"generation": addon.metadata.generation + 1})
    return addon.model_copy(update={"metadata": metadata})


def restarted(world: World) -> None:
    """What a new process knows of sources: nothing."""
    world.ports = replace(world.ports, sightings=Sightings())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("new_process", [False, True])
async def test_an_installed_addon_stays_ready_and_says_that_its_source_is_away(new_process: bool) -> None:
    world = World()
    ready = await world.reconcile()
    assert condition(ready, "Fetched") == ("True", "SourceAvailable")
    world.away = True
    if new_process:
        restarted(world)

    away = await world.reconcile(after(ready))

    assert isinstance(away.decisive, Done) and away.status.phase is Phase.READY
    assert condition(away, "Ready") == ("True", "Succeeded")
    assert condition(away, "Fetched") == ("False", "SourceUnavailable")
    assert condition(away, "Reconciling") == condition(away, "Stalled") == ("", "")
    assert condition(away, "Verified") == ("True", "SignatureVerified")
    assert "the registry does not answer; the installed version 1.0.0 goes on" in text(away)
    assert [(event.type, event.reason) for event in away.events] == [("Warning", Reason.SOURCE_UNAVAILABLE)]
    again = await world.reconcile(after(away))
    assert again.events == () and again.status == away.status
    world.away = False
    back = await world.reconcile(after(again))
    assert [(event.type, event.reason) for event in back.events] == [("Normal", Reason.SOURCE_AVAILABLE)]
    assert back.status.condition("Ready") == ready.status.condition("Ready")


async def test_new_organizations_and_repairs_need_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def only_acme() -> Sequence[Tenant]:
        return [Tenant(ACME, "Acme", {})]

    with monkeypatch.context() as patch:
        patch.setattr(world, "tenants", only_acme)
        ready = await world.reconcile()
        world.away = True
        away = await world.reconcile(after(ready))
    assert world.row is not None and world.row.organizations == {ACME: True}
    world.did = ("table addon_tickets.a",)

    more = await world.reconcile(after(away))

    assert world.row.organizations == {ACME: True, GLOBEX: True}
    assert condition(more, "Ready") == ("True", "Succeeded")
    assert condition(more, "Drifted") == ("False", "DriftMended")


async def test_a_first_installation_and_a_changed_spec_wait() -> None:
    world = World()
    world.away = True
    first = await world.reconcile()
    assert isinstance(first.decisive, Waiting) and condition(first, "Ready") == ("False", "SourceUnavailable")
    assert condition(first, "Fetched") == ("False", "SourceUnavailable")
    assert [event.reason for event in first.events].count(Reason.SOURCE_UNAVAILABLE) == 1

    world.away = False
    ready = await world.reconcile(after(first))
    world.away = True
    for new_process in (False, True):
        if new_process:
            restarted(world)
        other = changed(after(ready, source={"path": "other.tar.gz"}))
        waits = await world.reconcile(other)
        assert isinstance(waits.decisive, Waiting) and waits.decisive.reason is Reason.SOURCE_UNAVAILABLE
        # The second look sees a status that speaks of the new generation; nothing was installed for it.
        status = await world.reconcile(other.model_copy(update={"status": waits.status}))
        assert condition(status, "Ready") == ("False", "SourceUnavailable")
    assert world.calls == [("install", "1.0.0", (ACME, GLOBEX))]


@pytest.mark.parametrize("new_process", [False, True])
async def test_an_upgrade_that_did_not_come_through_is_not_forgotten(new_process: bool) -> None:
    world = World()
    ready = await world.reconcile()
    world.content = bundle_of("1.1.0")
    world.sign(KEY)
    world.refusal = InstallFailed("no", step="table")
    failed = await world.reconcile(after(ready))
    assert failed.decisive.reason is Reason.INSTALL_FAILED
    world.away, world.refusal = True, None
    if new_process:
        restarted(world)

    away = await world.reconcile(after(failed))

    assert condition(away, "Ready") == ("False", "SourceUnavailable")


async def test_a_key_that_is_revoked_meanwhile_fences() -> None:
    world = World()
    ready = await world.reconcile()
    world.away = True
    away = await world.reconcile(after(ready))
    world.trusted = TrustedKeys((bytes(OTHER.verify_key),))

    revoked = await world.reconcile(after(away))

    assert isinstance(revoked.decisive, Stalled) and revoked.decisive.reason is Reason.KEY_REVOKED
    assert condition(revoked, "Verified") == ("False", "KeyRevoked")
    assert world.row is not None
    world.row = replace(world.row, fenced_reason="untrusted")
    world.calls.clear()
    fenced = await world.reconcile(after(revoked))
    assert fenced.decisive.reason is Reason.KEY_REVOKED and world.calls == []


async def test_an_unsigned_bundle_is_refused_without_its_source_as_with_it() -> None:
    world = World(signer=None)
    world.trusted = TrustedKeys((), allow_unsigned=True)
    ready = await world.reconcile()
    world.away = True
    assert isinstance((await world.reconcile(after(ready))).decisive, Done)
    world.trusted = TrustedKeys((bytes(KEY.verify_key),))
    assert (await world.reconcile(after(ready))).decisive.reason is Reason.SIGNATURE_REFUSED


async def test_what_is_somebody_elses_or_gone_is_not_gone_on_with() -> None:
    world = World()
    ready = await world.reconcile()
    world.away = True
    assert world.row is not None
    row = world.row
    changes: Sequence[dict[str, Any]] = ({"owner_uid": "somebody else"}, {"digest": ""}, {"digest": "0" * 64})
    for change in changes:
        world.row = replace(row, **change)
        assert (await world.reconcile(after(ready))).decisive.reason is Reason.SOURCE_UNAVAILABLE
    world.row = row
    world.stored.clear()
    assert (await world.reconcile(after(ready))).decisive.reason is Reason.SOURCE_UNAVAILABLE


async def test_a_wish_to_leave_nothing_out_stays_open_until_the_source_is_there() -> None:
    world = World()
    ready = await world.reconcile()
    world.away = True
    away = await world.reconcile(after(ready, {FORCE: "one"}))
    assert not world.how["force"] and away.status.last_handled_force == ""
    world.away = False
    done = await world.reconcile(after(away, {FORCE: "one"}))
    assert world.how["force"] and done.status.last_handled_force == "one"


async def test_a_source_is_not_asked_before_it_wants_to_be() -> None:
    world, clock = World(), Clock()
    world.ports = replace(world.ports, sightings=Sightings(clock))
    ready = await world.reconcile()
    world.away = AskLater("r.test answered 429, not to be asked before noon", 900)
    held = await world.reconcile(after(ready))
    assert condition(held, "Ready") == ("True", "Succeeded")
    world.away, world.asked = False, []
    clock.now += 899
    again = await world.reconcile(after(held))
    assert world.asked == [] and again.status == held.status and again.events == ()

    await world.reconcile(after(held, {REQUESTED_AT: "now"}))
    assert world.asked == [Look.ALL], "somebody asks"
    clock.now += 1
    back = await world.reconcile(after(held))
    assert world.asked == [Look.ALL, Look.CHEAP] and condition(back, "Fetched") == ("True", "SourceAvailable")


async def test_a_force_that_is_still_open_does_not_ask_such_a_source_again_and_again() -> None:
    world, clock = World(), Clock()
    world.ports = replace(world.ports, sightings=Sightings(clock))
    ready = await world.reconcile()
    world.away, world.asked = AskLater("r.test answered 429", 900), []
    forced = await world.reconcile(after(ready, {FORCE: "one"}))
    for _ in range(3):
        clock.now += 60
        forced = await world.reconcile(after(forced, {FORCE: "one"}))
    assert world.asked == [Look.ALL]
    assert forced.status.last_handled_force == ""

    world.away = False
    done = await world.reconcile(after(forced, {FORCE: "two"}))
    assert world.asked == [Look.ALL, Look.ALL]
    assert done.status.last_handled_force == "two"


async def test_a_first_installation_waits_as_long_as_the_source_wants() -> None:
    world, clock = World(), Clock()
    world.ports = replace(world.ports, sightings=Sightings(clock))
    world.away = AskLater("not now", 900)
    first = await world.reconcile()
    assert isinstance(first.decisive, Waiting) and first.decisive.retry_after == 900
    world.away = False
    clock.now += 600
    second = await world.reconcile(after(first))
    assert isinstance(second.decisive, Waiting) and second.decisive.retry_after == 300
    assert world.asked == [Look.CHEAP]
    assert isinstance((await world.reconcile(changed(after(second)))).decisive, Done), "another spec, another source"


@pytest.mark.parametrize(
    ("annotations", "fenced", "look"),
    [
        ({}, "", Look.CHEAP),
        ({FORCE: "1"}, "", Look.ALL),
        ({REQUESTED_AT: "1"}, "", Look.ALL),
        ({}, "untrusted", Look.SIGNATURE),
    ],
)
async def test_everything_is_asked_for_when_somebody_wants_it_or_a_signature_may_help(
    annotations: dict[str, str], fenced: str, look: Look
) -> None:
    world = World()
    ready = await world.reconcile()
    assert world.row is not None
    world.row, world.asked = replace(world.row, fenced_reason=fenced), []
    await world.reconcile(after(ready, annotations))
    assert world.asked == [look]


async def test_after_a_refused_signature_everything_is_asked_for() -> None:
    world = World()
    ready = await world.reconcile()
    world.sign(OTHER)
    refused = await world.reconcile(after(ready))
    world.sign(KEY)
    world.asked = []
    assert isinstance((await world.reconcile(after(refused))).decisive, Done)
    assert world.asked == [Look.SIGNATURE]


async def test_a_failure_while_the_source_is_away_is_tried_again_without_it() -> None:
    world = World()
    ready = await world.reconcile()
    world.away, world.refusal = True, InstallFailed("no", step="table")
    restarted(world)
    failed = await world.reconcile(after(ready))
    assert failed.decisive.reason is Reason.INSTALL_FAILED
    world.refusal = None
    assert isinstance((await world.reconcile(after(failed))).decisive, Done)


async def test_organizations_that_are_missing_are_waited_for_without_the_source_too() -> None:
    world = World()
    spec: dict[str, Any] = {"organizations": {"names": ["Acme", "Nobody"]}}
    missing = await world.reconcile(addon_of(**spec))
    assert missing.decisive.reason is Reason.ORGANIZATIONS_MISSING
    world.away = True
    restarted(world)
    away = await world.reconcile(after(missing, **spec))
    assert away.decisive.reason is Reason.ORGANIZATIONS_MISSING
    assert condition(away, "Fetched") == ("False", "SourceUnavailable")


async def test_what_was_known_of_a_removed_addon_is_forgotten() -> None:
    world = World()
    await world.reconcile()
    assert world.row is not None
    assert world.ports.sightings.gave(addon_of(), world.row)
    await remove(addon_of(), world.ports)
    assert not world.ports.sightings.gave(addon_of(), world.row or other_addon("tickets"))
