"""An Addon of a real API server ends as a served API, and its deletion waits for what it installed."""

from __future__ import annotations

import asyncio
import datetime
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey
from tests.cluster.node import Node
from tests.cluster.operator_world import OperatorWorld, operator_world
from tests.conftest import DatabaseUrls
from tests.tickets import SIGNING_KEY

from metacore_operator.__main__ import EXIT_LEASE_LOST


@pytest.fixture
async def world(node: Node, database_urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[OperatorWorld]:
    async with operator_world(node, database_urls, tmp_path) as made:
        yield made


async def test_applied_upgraded_and_deleted(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        token = await world.register()
        await world.bundle("one", version="1.0.0")
        await world.bundle("two", version="1.1.0")
        await world.declare("one")
        await world.until("condition=Ready")
        status, answer = await world.request("POST", "/dynamic/tickets", {"title": "first"}, token)
        assert (status, answer["data"]["title"]) == (201, "first")

        await world.declare("two")
        await world.until("jsonpath={.status.version}=1.1.0")
        await world.until("condition=Ready")
        history = await world.kubectl("get", "addon", "tickets", "-o", "jsonpath={.status.history[*].version}")
        assert history == "1.1.0 1.0.0"

        await world.kubectl("delete", "addon", "tickets", "--timeout=60s")
        assert (await world.request("GET", "/dynamic/tickets", token=token))[0] == 404


async def test_events_tell_each_transition_once(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        await world.register()
        await world.bundle("one")
        await world.declare("one")
        await world.until("condition=Ready")
        path = "jsonpath={.items[*].reason}"
        told = (await world.kubectl("get", "events", "--field-selector=involvedObject.kind=Addon", "-o", path)).split()
        assert {"SignatureVerified", "PlanAccepted", "Installed", "Acknowledged", "Succeeded"} <= set(told)
        assert len(told) == len(set(told))


async def test_a_config_map_that_is_not_meant_for_the_addon_is_not_read(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        await world.register()
        await world.bundle("one", allow="")
        await world.declare("one")
        await world.until("condition=Ready=False")
        assert await world.reason() == "SourceUnavailable"
        await world.kubectl("label", "configmap", "one", "metacore.dev/allow=tickets")
        await world.until("condition=Ready")


async def test_a_bundle_of_an_unknown_signer_is_refused_and_others_are_unharmed(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        await world.register()
        await world.bundle("bad", allow="other", signer=SigningKey.generate(), key="other")
        await world.bundle("one")
        await world.declare("bad", "other")
        await world.declare("one")
        await world.until("condition=Stalled", "other")
        assert await world.reason("Verified", "other") == "SignatureRefused"
        await world.until("condition=Ready")


async def test_a_key_that_is_taken_away_fences_and_coming_back_frees(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        token = await world.register()
        await world.bundle("one")
        await world.declare("one")
        await world.until("condition=Ready")
        await world.trust(SigningKey.generate())
        await world.until("condition=Verified=False")
        status, answer = await world.request("GET", "/dynamic/tickets", token=token)
        assert (status, answer["code"]) == (403, "fenced")
        await world.trust(SIGNING_KEY)
        await world.until("condition=Ready")


async def test_a_deletion_while_no_operator_runs_is_done_by_the_next(world: OperatorWorld) -> None:
    async with world.kernel():
        token = await world.register()
        await world.bundle("one")
        await world.declare("one")
        async with world.operator():
            await world.until("condition=Ready")
        # It ended in order, so nobody need wait for the Lease.
        assert not await world.kubectl("get", "lease", "metacore-operator", "-o", "jsonpath={.spec.holderIdentity}")
        await world.kubectl("delete", "addon", "tickets", "--wait=false")
        assert (await world.request("GET", "/dynamic/tickets", token=token))[0] == 200
        async with world.operator():
            await world.kubectl("wait", "--for=delete", "addon/tickets", "--timeout=60s")
        assert (await world.request("GET", "/dynamic/tickets", token=token))[0] == 404


async def test_another_operator_takes_over_from_one_that_was_killed(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator() as first:
        await world.register()
        lease = ("lease/metacore-operator", "--timeout=60s")
        await world.kubectl("wait", "--for=create", *lease)
        path = "jsonpath={.spec.holderIdentity}"
        before = await world.kubectl("get", "lease", "metacore-operator", "-o", path)
        async with world.operator():
            first.kill()
            await world.bundle("one")
            await world.declare("one")
            await world.until("condition=Ready")
            assert await world.kubectl("get", "lease", "metacore-operator", "-o", path) != before


async def test_one_that_finds_another_holding_the_lease_ends_at_once_and_not_in_order(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator(ends_with=EXIT_LEASE_LOST) as first:
        await world.register()
        await world.bundle("one")
        await world.declare("one")
        await world.until("condition=Ready")
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = {"spec": {"holderIdentity": "another", "renewTime": now, "leaseTransitions": 9}}
        await world.kubectl("patch", "lease", "metacore-operator", "--type=merge", "--patch", json.dumps(taken))
        assert await asyncio.wait_for(first.wait(), 30) == EXIT_LEASE_LOST
        # It left the Lease alone, and what it was told afterwards is the other's.
        path = "jsonpath={.spec.holderIdentity}"
        assert await world.kubectl("get", "lease", "metacore-operator", "-o", path) == "another"
        await world.kubectl("delete", "addon", "tickets", "--wait=false")
        # Nobody renews it for the other, so it can be taken when its time is over.
        async with world.operator():
            await world.kubectl("wait", "--for=delete", "addon/tickets", "--timeout=60s")


async def test_a_range_that_only_the_operator_understands_is_told_in_the_status(world: OperatorWorld) -> None:
    async with world.operator():
        await world.declare("one", version="a few")
        await world.until("condition=Stalled")
        assert await world.reason() == "SpecInvalid"
        await world.kubectl("delete", "addon", "tickets", "--timeout=60s")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"digest": "ABC"}, "spec.digest: Invalid value: must be a SHA-256 as 64 lower-case hex digits"),
        ({"source": {"path": "a", "oci": {"ref": "r/a"}}}, "exactly one of oci, http, configMap, path is needed"),
        ({"organizations": {"all": False}}, "may only be true; leave it out instead of false"),
        ({"organizations": {"selector": {}}}, "an empty selector selects nothing"),
        (
            {"capabilities": {"accept": "Always", "list": [{"kind": "db:read", "target": "x"}]}},
            "list has no meaning with accept: Always",
        ),
        ({"source": {"path": "/etc/passwd"}}, "path must be relative to the addons folder"),
    ],
)
async def test_the_api_server_refuses_nonsense_and_says_why(
    world: OperatorWorld, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        await world.declare("one", **spec)
    assert message.rsplit("Invalid value: ", 1)[-1] in refused.value.stderr


async def test_the_key_of_an_addon_never_changes(world: OperatorWorld) -> None:
    await world.declare("one")
    await world.declare("one", key="tickets")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        await world.declare("one", key="other")
    assert "the addon key cannot change" in refused.value.stderr
