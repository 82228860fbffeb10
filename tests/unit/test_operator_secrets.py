"""Secrets of installations are kept before anything is installed, and follow the database afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.kubernetes_objects import ObjectsInMemory
from tests.unit.test_operator_reconcile import ACME, GLOBEX, World, addon_of, after, text

from metacore.errors import PermissionDenied, Unavailable
from metacore_operator.cluster.secrets import ClusterSecrets
from metacore_operator.conditions import Summary
from metacore_operator.outcomes import Done, Reason
from metacore_operator.resources.addon import ROTATE_SECRETS, Addon
from metacore_operator.steps.context import KeptSecrets, SecretStore


class Store(SecretStore):
    """In memory. `away` fails what reads it; `forbidden` says that the operator has no right to keep any."""

    def __init__(self) -> None:
        self.kept = KeptSecrets()
        self.away = False
        self.forbidden = False
        self.writes = 0

    async def read(self, addon: Addon) -> KeptSecrets:
        if self.away:
            raise Unavailable("Secret 'tickets-installations' cannot be read")
        if self.forbidden:
            raise PermissionDenied("the operator may not read Secret 'tickets-installations'")
        return self.kept

    async def write(self, addon: Addon, kept: KeptSecrets) -> None:
        assert not self.forbidden
        self.writes += 1
        self.kept = kept

    @property
    def values(self) -> Mapping[uuid.UUID, bytes]:
        return self.kept.values


def a_world() -> tuple[World, Store]:
    world, store = World(), Store()
    world.ports = replace(world.ports, secrets=store)
    return world, store


async def test_what_is_kept_is_what_the_database_knows_and_nothing_is_written_twice() -> None:
    world, store = a_world()

    ready = await world.reconcile()

    assert store.values == world.secrets and set(store.values) == {ACME, GLOBEX}
    assert {len(value) for value in store.values.values()} == {32}
    assert store.writes == 1
    await world.reconcile(after(ready))
    assert store.writes == 1


async def test_a_kill_between_keeping_and_installing_loses_nothing() -> None:
    world, store = a_world()
    world.refusal = Unavailable("killed here")
    await world.reconcile()
    before = dict(store.values)
    assert set(before) == {ACME, GLOBEX} and world.secrets == {}

    world.refusal = None
    await world.reconcile()

    assert world.secrets == before


async def test_nothing_is_installed_while_they_cannot_be_kept() -> None:
    world, store = a_world()
    store.away = True

    summary = await world.reconcile()

    assert summary.decisive.reason is Reason.REFERENCE_UNAVAILABLE
    assert "'tickets-installations'" in text(summary)
    assert world.calls == []


def installed(summary: Summary) -> str:
    condition = summary.status.condition("Installed")
    assert condition is not None
    return condition.message


async def test_where_the_operator_may_keep_none_the_addon_is_installed_and_says_so_until_it_may() -> None:
    """As with an Addon outside of the namespaces for which the chart gives rights to Secrets."""
    world, store = a_world()
    store.forbidden = True

    ready = await world.reconcile()

    assert isinstance(ready.decisive, Done)
    assert world.calls[0][0] == "install" and set(world.secrets) == {ACME, GLOBEX}
    told = "its secrets are in the database only: the operator may not read Secret 'tickets-installations'"
    assert installed(ready).endswith(told)
    assert [event for event in ready.events if told in event.message]
    again = await world.reconcile(after(ready))
    assert again.status == ready.status and not again.events

    store.forbidden = False
    kept = await world.reconcile(after(again))

    assert store.values == world.secrets
    assert told not in installed(kept)


async def test_secrets_that_nobody_could_read_are_not_rotated_to() -> None:
    world, store = a_world()
    ready = await world.reconcile()
    before = dict(world.secrets)
    store.forbidden = True

    summary = await world.reconcile(after(ready, {ROTATE_SECRETS: "2026-01-01"}))

    assert summary.decisive.reason is Reason.REFERENCE_UNAVAILABLE
    assert "so none are rotated" in text(summary)
    assert world.secrets == before and summary.status.last_handled_rotate_secrets == ""


async def test_in_a_cluster_a_refused_read_is_no_place_and_a_refused_write_is_waited_for() -> None:
    api, addon = ObjectsInMemory(), addon_of()
    store, kept = ClusterSecrets(api), KeptSecrets({ACME: b"s" * 32})
    api.failing = PermissionDenied("secrets is forbidden")
    with pytest.raises(PermissionDenied, match="may not read Secret 'tickets-installations'"):
        await store.read(addon)
    with pytest.raises(Unavailable):
        await store.write(addon, kept)
    api.failing = Unavailable("the API server does not answer")
    with pytest.raises(Unavailable):
        await store.read(addon)

    api.failing = None
    await store.write(addon, kept)
    assert await store.read(addon) == kept


async def test_what_a_tenant_rotated_is_followed_where_the_master_key_opens_it() -> None:
    world, store = a_world()
    ready = await world.reconcile()
    world.secrets[ACME] = b"n" * 32

    again = await world.reconcile(after(ready))
    assert store.values[ACME] == b"n" * 32

    world.opens = False
    world.secrets[ACME] = b"m" * 32
    await world.reconcile(after(again))
    assert ACME not in store.values, "a wrong secret is worse than none"
    assert world.secrets[ACME] == b"m" * 32


async def test_a_request_rotates_every_secret_once_also_over_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    world, store = a_world()
    ready = await world.reconcile()
    first = dict(store.values)
    addon = after(ready, {ROTATE_SECRETS: "2026-01-01"})

    async def killed(*_arguments: Any) -> str:
        raise Unavailable("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(world, "rotate_secret", killed)
        await world.reconcile(addon)
    second = dict(store.values)
    assert all(second[item] != first[item] for item in first) and world.secrets == first

    done = await world.reconcile(addon)

    assert world.secrets == second == store.values, "the same new secrets, not a third pair"
    assert done.status.last_handled_rotate_secrets == "2026-01-01"
    assert isinstance(done.decisive, Done)
    await world.reconcile(after(done, {ROTATE_SECRETS: "2026-01-01"}))
    assert world.secrets == second


async def test_an_organization_that_leaves_takes_its_secret_along() -> None:
    world, store = a_world()
    ready: Summary = await world.reconcile()

    await world.reconcile(after(ready, organizations={"names": ["Acme"]}))

    assert set(store.values) == {ACME}


async def test_no_secret_is_shown_by_what_holds_it() -> None:
    world, store = a_world()
    summary = await world.reconcile()

    shown = repr(store.kept) + summary.status.model_dump_json() + repr(summary.events)
    assert not any(value.hex() in shown or repr(value) in shown for value in store.values.values())
