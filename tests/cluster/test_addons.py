"""An Addon on a real cluster, with the real image and chart: from `kubectl apply` to a served API, and back."""

from __future__ import annotations

import pytest
from nacl.signing import SigningKey
from tests.cluster.addon_world import AddonWorld


def test_applied_ready_and_served_through_the_service(world: AddonWorld) -> None:
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    status = world.status()
    assert status["observedGeneration"] == 1
    assert status["kernels"]["live"] == status["kernels"]["acknowledged"] >= 2

    made, answer = world.request("POST", body={"title": "first"})
    assert (made, answer["data"]["title"]) == (201, "first")
    row = answer["data"]["id"]
    assert world.request("GET", f"/{row}")[1]["data"]["title"] == "first"
    assert world.request("PUT", f"/{row}", {"title": "second"})[0] == 200
    assert world.titles() == ["second"]
    assert world.request("DELETE", f"/{row}")[0] == 200
    assert world.titles() == []


def test_an_upgrade_brings_a_column_and_keeps_the_rows(world: AddonWorld) -> None:
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "old"})[0] == 201

    world.bundle("two", version="1.1.0", models=world.with_column("colour"))
    world.declare("two")
    world.until("jsonpath={.status.version}=1.1.0")
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "new", "colour": "red"})[0] == 201
    status, answer = world.request("GET", "?sortBy=title&order=asc")
    assert status == 200
    assert [(row["title"], row["colour"]) for row in answer["data"]] == [("new", "red"), ("old", None)]
    assert [entry["version"] for entry in world.status()["history"]] == ["1.1.0", "1.0.0"]


@pytest.mark.parametrize(
    ("signer", "reason"),
    [(SigningKey.generate(), "SignatureRefused"), (None, "SignatureRefused")],
    ids=["other", "none"],
)
def test_a_bundle_that_nobody_trusted_signed_is_refused(
    world: AddonWorld, signer: SigningKey | None, reason: str
) -> None:
    world.bundle("one", signer=signer)
    world.declare("one")
    world.until("condition=Verified=False")
    assert world.condition("Verified")["reason"] == reason
    assert world.condition("Ready")["status"] == "False"
    assert world.request("GET")[0] == 404
