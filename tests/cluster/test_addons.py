"""An Addon on a real cluster, with the real image and chart: from `kubectl apply` to a served API, and back."""

from __future__ import annotations

import base64
import json

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


def test_a_key_that_is_taken_away_fences_within_seconds_and_coming_back_frees(world: AddonWorld) -> None:
    key = SigningKey.generate()

    def trust(text: str | None) -> None:
        """This test's entry of the trust Secret; None takes it away."""
        patch = json.dumps({"data": {world.key: text and base64.b64encode(text.encode()).decode()}})
        world.release.kubectl("patch", "secret", "metacore-trust", "--type=merge", "-p", patch)

    trust(bytes(key.verify_key).hex())
    world.bundle("one", signer=key)
    world.declare("one")
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "kept"})[0] == 201

    trust(None)
    world.until("condition=Verified=False", timeout="30s")
    assert world.condition("Verified")["reason"] == "KeyRevoked"
    status, answer = world.request("GET")
    assert (status, answer["code"]) == (403, "fenced")
    assert "KeyRevoked" in world.events()

    trust(bytes(key.verify_key).hex())
    world.until("condition=Ready")
    assert world.titles() == ["kept"]
    trust(None)


def test_an_upgrade_that_asks_for_more_waits_until_it_is_listed(world: AddonWorld) -> None:
    accepted = {"accept": "Listed", "list": [{"kind": "event:emit", "target": f"{world.key}.*"}]}
    emit = {"kind": "event:emit", "target": f"{world.key}.*", "reason": "tells others"}
    fetch = {"kind": "http:fetch", "target": "api.example.com", "reason": "asks for prices"}
    world.bundle("one", capabilities=[emit])
    world.declare("one", capabilities=accepted)
    world.until("condition=Ready")

    world.bundle("two", version="1.1.0", capabilities=[emit, fetch])
    world.declare("two", capabilities=accepted)
    world.until("condition=CapabilitiesAccepted=False")
    refused = world.condition("CapabilitiesAccepted")
    assert refused["reason"] == "CapabilitiesPending"
    assert "http:fetch api.example.com" in refused["message"]
    assert "event:emit" not in refused["message"]
    assert world.status()["version"] == "1.0.0"
    assert world.request("GET")[0] == 200, "the version before serves on"

    wider = [*accepted["list"], {"kind": "http:fetch", "target": "*.example.com"}]
    world.declare("two", capabilities={"accept": "Listed", "list": wider})
    world.until("jsonpath={.status.version}=1.1.0")
    world.until("condition=Ready")


def test_deleted_with_retain_the_rows_are_there_when_it_comes_back(world: AddonWorld) -> None:
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "kept"})[0] == 201
    world.delete()
    assert world.request("GET")[0] == 404
    world.declare("one")
    world.until("condition=Ready")
    assert world.titles() == ["kept"]


def test_deleted_with_drop_the_rows_are_gone(world: AddonWorld) -> None:
    world.bundle("one")
    world.declare("one", deletionPolicy="Drop")
    world.until("condition=Ready")
    assert world.request("POST", body={"title": "lost"})[0] == 201
    world.delete()
    assert world.request("GET")[0] == 404
    world.declare("one")
    world.until("condition=Ready")
    assert world.titles() == []
