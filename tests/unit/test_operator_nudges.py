"""Addons that wait for kopf too long are shown to it again, and only those."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kubernetes_objects import ObjectsInMemory
from tests.unit.test_operator_cluster_ledger import FINALIZER, document

from metacore.errors import PermissionDenied
from metacore_operator.cluster.board import NUDGED, Board
from metacore_operator.cluster.ledger import Ledger
from metacore_operator.cluster.nudges import NUDGE_SECONDS, Nudges

DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
PATH = "/apis/metacore.dev/v1alpha1/namespaces/team/addons/"


class World:
    def __init__(self, **addons: dict[str, Any]) -> None:
        self.api, self.ledger, self.now = ObjectsInMemory(), Ledger(FINALIZER), 0.0
        for name, metadata in addons.items():
            found = document(name=name, uid=name, **metadata)
            self.ledger.see(found)
            self.api.put(PATH + name, found)
        self.nudges = Nudges(self.ledger, Board(self.api, "one"), lambda: self.now)

    async def after(self, seconds: float) -> list[str]:
        """Whom the next turn nudges."""
        self.now += seconds
        self.api.calls.clear()
        await self.nudges.run()
        return sorted(path.removeprefix(PATH) for _, path in self.api.calls)


async def test_those_whose_finalizer_does_not_come_or_go_are_nudged_again_and_again() -> None:
    world = World(
        settled={},
        unheld={"finalizers": []},
        deleted=DELETED,
        others={"finalizers": ["somebody/else"], **DELETED},
    )
    assert await world.after(0) == []
    assert await world.after(NUDGE_SECONDS - 1) == []
    assert await world.after(1) == ["deleted", "unheld"]
    assert NUDGED in world.api.objects[PATH + "unheld"]["metadata"]["annotations"]
    assert await world.after(1) == []
    world.ledger.see(document(name="unheld", uid="unheld"))
    assert await world.after(NUDGE_SECONDS) == ["deleted"]


async def test_one_that_went_without_a_word_is_forgotten() -> None:
    world = World(deleted=DELETED, unheld={"finalizers": []})
    del world.api.objects[PATH + "deleted"]
    world.api.put(PATH + "unheld", document(name="unheld", uid="another of that name"))
    await world.after(0)
    assert await world.after(NUDGE_SECONDS) == ["deleted", "unheld"]
    assert world.ledger.names == ()


async def test_one_that_cannot_be_nudged_does_not_keep_the_others_from_it() -> None:
    world = World(first={"finalizers": []}, second={"finalizers": []})
    await world.after(0)
    world.api.failing = PermissionDenied("addons is forbidden")
    with pytest.raises(PermissionDenied):
        await world.after(NUDGE_SECONDS)
    world.api.failing = None
    assert await world.after(1) == ["second"]
    assert world.ledger.names == ("team/first", "team/second")
