"""What an operator does for Addons of a real API server beyond installing them: waiting, mending, refusing, telling."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from nacl.signing import SigningKey
from tests.cluster.node import Node
from tests.cluster.operator_world import OperatorWorld, operator_world
from tests.conftest import DatabaseUrls
from tests.tickets import TICKETS

MASTER_KEY = "ab" * 32


@pytest.fixture
async def world(node: Node, database_urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[OperatorWorld]:
    async with operator_world(node, database_urls, tmp_path) as made:
        yield made


@pytest.fixture
async def database(database_urls: DatabaseUrls) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_urls.owner)
    yield connection
    await connection.close()


async def annotate(world: OperatorWorld, annotation: str, value: str, name: str = "tickets") -> None:
    await world.kubectl("annotate", "--overwrite", "addon", name, f"metacore.dev/{annotation}={value}")


async def test_addons_wait_for_what_they_require_and_hold_it(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        await world.register()
        needs = {"requires": [{"key": "tickets", "version": ">=1.1.0"}]}
        await world.small_bundle("notes", compatibility=needs)
        await world.declare("notes", "notes")
        message = await world.until_reason("DependencyPending", name="notes")
        assert message == "version 1.0.0 requires addon 'tickets' >=1.1.0, which is not installed"

        await world.bundle("one", version="1.0.0")
        await world.declare("one")
        await world.until("condition=Ready")
        message = await world.until_reason("DependencyPending", name="notes")
        await world.bundle("two", version="1.1.0")
        await world.declare("two")
        await world.until("condition=Ready", "notes")

        await world.kubectl("delete", "addon", "tickets", "--wait=false")
        assert "'notes' requires 'tickets'" in await world.until_reason("NeededByOthers")
        assert (await world.told()).count("NeededByOthers") == 1
        assert (await world.status())["phase"] == "Deleting"
        await world.kubectl("delete", "addon", "notes", "--timeout=60s")
        await world.kubectl("wait", "--for=delete", "addon/tickets", "--timeout=60s")


async def test_settings_come_from_secrets_and_installation_secrets_stand_in_one(
    world: OperatorWorld, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with world.kernel(), world.operator(MASTER_KEY=MASTER_KEY):
        await world.register()
        await world.bundle("one")
        given: dict[str, Any] = {
            "settingsFrom": [{"secretRef": {"name": "credentials"}}],
            "settings": {"greeting": "hello"},
        }
        await world.declare("one", **given)
        assert "there is no Secret 'credentials'" in await world.until_reason("ReferenceUnavailable")
        await world.apply("Secret", "credentials", stringData={"token": "s3cret", "colour": "red"})
        await annotate(world, "requested-at", "now")
        await world.until("jsonpath={.status.lastHandledRequestedAt}=now")
        assert "lacks the label metacore.dev/allow: tickets" in await world.message()
        await world.kubectl("label", "secret", "credentials", "metacore.dev/allow=tickets")
        assert "setting 'colour' is not a setting" in await world.until_reason("SettingsRefused")
        await world.kubectl("patch", "secret", "credentials", "-p", '{"data":{"colour":null}}')
        await world.until("condition=Ready")

        settings = json.loads(await database.fetchval("SELECT settings FROM metacore_installations"))
        assert settings["greeting"] == "hello" and "s3cret" not in json.dumps(settings) and settings["token"]
        kept = await installation_secrets(world)
        assert await hashes(database) == kept
        await annotate(world, "rotate-secrets", "one")
        await world.until("jsonpath={.status.lastHandledRotateSecrets}=one")
        rotated = await installation_secrets(world)
        assert rotated.keys() == kept.keys() and rotated != kept
        assert await hashes(database) == rotated

        await world.kubectl("delete", "addon", "tickets", "--timeout=60s")
        await world.kubectl("wait", "--for=delete", "secret/tickets-installations", "--timeout=60s")


async def installation_secrets(world: OperatorWorld) -> dict[str, str]:
    """By organization, the hash of the secret that people find."""
    found = json.loads(await world.kubectl("get", "secret", "tickets-installations", "-o", "json"))
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Addon", "tickets", True)
    secrets = {name: bytes.fromhex(base64.b64decode(value).decode()) for name, value in found["data"].items()}
    return {name: f"sha256:{hashlib.sha256(value).hexdigest()}" for name, value in secrets.items()}


async def hashes(database: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    rows = await database.fetch("SELECT organization_id, secret_hash FROM metacore_installations")
    return {str(row["organization_id"]): row["secret_hash"] for row in rows}


async def test_a_secret_of_that_name_that_is_not_ours_is_not_touched(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        await world.register()
        await world.apply("Secret", "tickets-installations", stringData={"mine": "precious"})
        await world.bundle("one")
        await world.declare("one")
        assert "is not this Addon's" in await world.until_reason("ReferenceUnavailable")
        found = json.loads(await world.kubectl("get", "secret", "tickets-installations", "-o", "json"))
        assert list(found["data"]) == ["mine"]
        await world.kubectl("delete", "secret", "tickets-installations")
        await world.until("condition=Ready")


async def test_a_revoked_key_fences_and_one_that_returns_frees(world: OperatorWorld) -> None:
    other = SigningKey.generate()
    async with world.kernel(), world.operator():
        token = await world.register()
        await world.trust(other)
        await world.bundle("one", signer=other)
        await world.declare("one")
        await world.until("condition=Ready")

        await world.trust(SigningKey.generate())
        assert "was revoked" in await world.until_reason("KeyRevoked", "Verified")
        status, answer = await world.request("GET", "/dynamic/tickets", token=token)
        assert (status, answer["error"]["code"]) == (403, "fenced") if "error" in answer else status == 403
        assert (await world.told()).count("KeyRevoked") == 1

        await world.trust(other)
        await world.until("condition=Ready")
        assert (await world.request("GET", "/dynamic/tickets", token=token))[0] == 200


async def test_drift_is_mended_and_told(world: OperatorWorld, database: asyncpg.Connection[asyncpg.Record]) -> None:
    async with world.kernel(), world.operator(OPERATOR_RESYNC="1"):
        await world.register()
        await world.bundle("one")
        await world.declare("one")
        await world.until("condition=Ready")
        await database.execute("ALTER TABLE addon_tickets.tickets DROP COLUMN amount")
        await database.execute("DROP POLICY metacore_tenant ON addon_tickets.ticket_comments")

        message = await world.until_reason("DriftMended", "Drifted")

        assert "table addon_tickets.tickets" in message or "protect addon_tickets.ticket_comments" in message
        await world.until("condition=Ready")
        names = "SELECT attname FROM pg_attribute WHERE attrelid = 'addon_tickets.tickets'::regclass AND attnum > 0"
        assert "amount" in {row["attname"] for row in await database.fetch(names)}
        policies = "SELECT count(*) FROM pg_policy WHERE polrelid = 'addon_tickets.ticket_comments'::regclass"
        assert await database.fetchval(policies) == 2


async def test_a_migration_is_tried_first_and_what_it_would_do_is_told(
    world: OperatorWorld, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = {"0001_a.sql": "CREATE TABLE extra (id uuid, organization_id uuid NOT NULL, n int);"}
    bad = {**first, "0002_b.sql": "ALTER TABLE extra ADD COLUMN must int NOT NULL;"}
    good = {**first, "0002_b.sql": "ALTER TABLE extra ALTER COLUMN n TYPE bigint;"}
    async with world.kernel(), world.operator():
        await world.register()
        await world.bundle("one", migrations=first)
        await world.declare("one")
        await world.until("condition=Ready")
        await database.execute("INSERT INTO addon_tickets.extra (organization_id) SELECT id FROM organizations")

        await world.bundle("two", version="1.1.0", migrations=bad)
        await world.declare("two")
        assert "0002_b.sql:1" in await world.until_reason("RehearsalFailed", "PreflightPassed")
        assert (await world.status())["version"] == "1.0.0"
        await world.bundle("three", version="1.1.0", migrations=good)
        await world.declare("three")
        assert "extra.n" in await world.until_reason("DataAtRisk", "PreflightPassed")
        await world.declare("three", preflight={"waivers": ["data_loss@1.1.0"]})
        await world.until("jsonpath={.status.version}=1.1.0")
        assert await database.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'scratch%'") == 0
        with pytest.raises(subprocess.CalledProcessError) as refused:
            await world.declare("three", preflight={"waivers": ["whatever"]})
        assert "spec.preflight.waivers[0]" in refused.value.stderr


async def test_an_upgrade_that_asks_for_more_waits_for_approval(world: OperatorWorld) -> None:
    listed = [{"kind": "event:emit", "target": "tickets.*"}]
    more = [*TICKETS["capabilities"], {"kind": "http:fetch", "target": "api.example.com", "reason": "rates"}]
    async with world.kernel(), world.operator():
        await world.register()
        await world.bundle("one")
        await world.declare("one", capabilities={"accept": "Listed", "list": listed})
        await world.until("condition=Ready")
        await world.bundle("two", version="1.1.0", capabilities=more)
        await world.declare("two", capabilities={"accept": "Listed", "list": listed})

        message = await world.until_reason("CapabilitiesPending", "CapabilitiesAccepted")

        assert "http:fetch api.example.com" in message and "version 1.0.0 serves on" in message
        wider = [*listed, {"kind": "http:fetch", "target": "api.example.com"}]
        await world.declare("two", capabilities={"accept": "Listed", "list": wider})
        await world.until("jsonpath={.status.version}=1.1.0")


async def test_a_rollback_pins_an_older_digest_and_a_pause_holds_everything(world: OperatorWorld) -> None:
    async with world.kernel(), world.operator():
        await world.register()
        for number, version in ((1, "1.0.0"), (2, "1.1.0")):
            await world.bundle(f"bundle-{number}", version=version)
            await world.declare(f"bundle-{number}")
            await world.until(f"jsonpath={{.status.version}}={version}")
        old = (await world.status())["history"][1]["digest"]
        await world.bundle("bundle-1", version="1.0.0")
        await world.declare("bundle-1")
        assert old in await world.until_reason("DowngradeRefused")
        await world.declare("bundle-2", digest=old)
        await world.until("jsonpath={.status.version}=1.0.0")
        await world.until("condition=Ready")

        await annotate(world, "pause", "true")
        await world.until("jsonpath={.status.phase}=Suspended")
        await world.declare("bundle-2")
        await annotate(world, "requested-at", "later")
        await world.until("jsonpath={.status.lastHandledRequestedAt}=later")
        assert (await world.status())["version"] == "1.0.0"
        await world.kubectl("annotate", "addon", "tickets", "metacore.dev/pause-")
        await world.until("jsonpath={.status.version}=1.1.0")


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unreachable": ({"source": {"oci": {"ref": "127.0.0.1:9/a/b:1"}}}, "SourceUnavailable", "127.0.0.1:9"),
    "forbidden-host": ({"source": {"http": {"url": "http://10.0.0.1/b"}}}, "SourceRefused", "10.0.0.1"),
    "no-reference": ({"source": {"oci": {"ref": "nonsense"}}}, "SourceRefused", "nonsense"),
    "pull-secret-missing": (
        {"source": {"oci": {"ref": "127.0.0.1:9/a/b:1", "pullSecretRef": {"name": "gone"}}}},
        "SourceUnavailable",
        "there is no Secret 'gone'",
    ),
    "signature-secret-missing": ({"signature": {"secretRef": {"name": "gone"}}}, "SourceUnavailable", "'gone'"),
    "config-map-missing": ({"source": {"configMap": {"name": "gone", "key": "b"}}}, "SourceUnavailable", "'gone'"),
    "wrong-digest": ({"digest": "0" * 64}, "DigestMismatch", "0" * 64),
    "unknown-organization": ({"organizations": {"names": ["Nobody"]}}, "OrganizationsMissing", "'Nobody'"),
    "no-folder": ({"source": {"path": "a.tar.gz"}}, "SourceUnsupported", "'path'"),
    "unknown-setting": ({"settings": {"colour": 1}}, "SettingsRefused", "'colour'"),
    "wrong-setting": ({"settings": {"greeting": 7}}, "SettingsRefused", "'greeting' must be a string"),
    "wrong-version": ({"version": ">=9.0.0"}, "VersionMismatch", ">=9.0.0"),
    "bad-range": ({"version": "newest"}, "SpecInvalid", "spec.version"),
}


async def test_each_bad_addon_says_what_is_wrong_and_harms_no_other(world: OperatorWorld) -> None:
    settings = [{"key": "greeting", "type": "string"}]
    async with (
        world.kernel(),
        world.operator(OPERATOR_PLAIN_REGISTRIES="127.0.0.1:9", OPERATOR_SOURCE_HOSTS="127.0.0.1") as operator,
    ):
        await world.register()
        for name, (spec, _, _) in BAD.items():
            key = name.replace("-", "_")
            await world.bundle(name, allow=name, key=key, models=[], settings=settings, capabilities=[])
            await world.declare(name, name, **spec)
        await world.bundle("one")
        await world.declare("one")
        await world.until("condition=Ready")

        for name, (_, reason, words) in BAD.items():
            message = await world.until_reason(reason, name=name)
            assert words in message, (name, message)
            assert (await world.told(name)).count(reason) == 1, name

        assert operator.returncode is None
        await world.kubectl("delete", "addons", "--all", "--timeout=60s")
