"""Addons declared in a folder, end to end: real bundles, PostgreSQL, installer, and what kernels load."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nacl.signing import SigningKey
from tests.conftest import DatabaseUrls
from tests.factories import make_organization, make_user, principal
from tests.folder_world import PATIENCE, QUICK, FolderWorld
from tests.kubernetes_objects import ObjectsInMemory
from tests.tickets import SIGNING_KEY, TICKETS, make_bundle, signed, tickets_manifest
from tests.unit.test_operator_oci import Registry as OciRegistry
from tests.unit.test_operator_oci import digest_of

from metacore.bundle.signature import sign
from metacore.capabilities.access import Access
from metacore.capabilities.enforcer import Enforcer
from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.writer import ViolationWriter
from metacore.cli.main import main
from metacore.db.database import Database
from metacore.db.roles import KERNEL_ROLE
from metacore.ids import OrganizationId
from metacore.installer import requests
from metacore_operator.outcomes import Reason
from metacore_operator.resources.spec import SourceKind
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.oci import OciSource
from metacore_operator.sources.references import References

COLUMN = {"name": "escalated", "type": "bool", "default": False}
MORE_COLUMNS = [
    {**model, "columns": [*model["columns"], COLUMN]} if model["key"] == "Ticket" else model
    for model in TICKETS["models"]
]
ASKS_MORE = [*TICKETS["capabilities"], {"kind": "http:fetch", "target": "api.example.com", "reason": "rates"}]


@pytest.fixture
async def world(tmp_path: Path, owner_db: Database, kernel_db: Database) -> AsyncIterator[FolderWorld]:
    made = FolderWorld(tmp_path, owner_db, kernel_db)
    async with made.kernel():
        yield made


@pytest.fixture
async def acme(owner_db: Database) -> OrganizationId:
    return await make_organization(owner_db, "Acme")


async def test_a_declared_addon_is_installed_and_served(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare(settings={"greeting": "hello"})

    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)

        assert world.served(acme) == "1.0.0"
        status = world.status()
        assert (status.phase, status.version, status.observed_generation) == ("Ready", "1.0.0", 1)
        assert (status.organizations.installed, status.kernels.acknowledged) == (1, 1)
        assert status.observed_mode == "shadow"
    stored = await world.owner.postgres.fetchval("SELECT settings FROM metacore_installations")
    assert json.loads(stored) == {"greeting": "hello"}
    kept = json.loads((world.data / "addons" / "tickets.status.json").read_text())
    assert kept["status"]["digest"] == status.digest


async def test_the_mode_of_an_addon_reaches_the_kernel_and_its_violations_the_status(
    world: FolderWorld, acme: OrganizationId, kernel_db: Database
) -> None:
    recorder = ViolationRecorder()
    enforcer = Enforcer(world.registry, recorder)
    foreign = Access("tickets", "db:read", "addon_crm.deals", acme)
    assert enforcer.decide(foreign).allowed
    world.bundle("tickets.tar.gz")
    world.declare(mode="enforce")
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        assert world.registry.snapshot.addons["tickets"].mode == "enforce"
        assert not enforcer.decide(foreign).allowed
        assert world.status().observed_mode == "enforce"
        assert world.status().violations.day == 0
        assert await ViolationWriter(kernel_db, recorder).flush()
        world.declare(mode="inherit")
        async with asyncio.timeout(PATIENCE):
            while True:
                if world.status().observed_mode == "shadow":
                    break
                await asyncio.sleep(0.02)
        assert enforcer.decide(foreign).allowed
        assert (world.status().violations.day, world.status().violations.total) == (2, 2)


async def test_an_upgrade_keeps_rows_and_needs_no_restart(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        await world.add_ticket(acme, "old")

        world.bundle("v2.tar.gz", version="1.1.0", models=MORE_COLUMNS)
        world.declare(source={"path": "v2.tar.gz"})
        await world.until(Reason.INSTALLED, words="replaced 1.0.0")
        while world.condition("Ready") != ("True", "Succeeded"):
            await world.until(Reason.SUCCEEDED)

        assert world.served(acme) == "1.1.0"
        assert await world.titles(acme) == ["old"]
        assert "escalated" in await world.columns("tickets")
        assert [entry.version for entry in world.status().history] == ["1.1.0", "1.0.0"]
        assert world.status().observed_generation == 2


async def test_a_bundle_replaced_in_place_is_noticed(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.bundle("tickets.tar.gz", version="1.0.1")
        await world.until(Reason.INSTALLED, words="version 1.0.1")


async def test_a_flipped_byte_is_refused_while_the_old_version_serves_on(
    world: FolderWorld, acme: OrganizationId
) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.bundle("v2.tar.gz", version="1.1.0", models=MORE_COLUMNS)
        world.flip_a_byte("v2.tar.gz")
        world.declare(source={"path": "v2.tar.gz"})

        message = await world.until(Reason.SIGNATURE_REFUSED)

        assert "v2.tar.gz: the signature is for digest" in message
        assert world.condition("Stalled") == ("True", "SignatureRefused")
        assert world.condition("Served")[0] == "True"
        assert world.served(acme) == "1.0.0"
        assert "escalated" not in await world.columns("tickets")

        world.bundle("v2.tar.gz", version="1.1.0", models=MORE_COLUMNS)
        await world.until(Reason.INSTALLED, words="replaced 1.0.0")


async def test_one_bad_addon_leaves_the_others_serving(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    world.bundle("notes.tar.gz", key="notes", models=[], settings=[], capabilities=[])
    world.flip_a_byte("notes.tar.gz")
    world.declare("notes")
    (world.root / "broken.yaml").write_text("metadata: [")
    world.declare("gone")

    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        assert world.served(acme) == "1.0.0"
        assert world.status("gone").conditions[0].reason in ("SourceUnavailable", "Progressing")
        problems = json.loads((world.data / "addons" / "problems.json").read_text())
        assert [problem["place"] for problem in problems] == ["broken.yaml"]
    assert world.condition("Stalled", "notes")[1] in ("SignatureRefused", "BundleInvalid")


async def test_yaml_that_breaks_is_told_and_what_it_declared_stays(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)

        world.declare(enabledd=False)
        message = await world.until(Reason.SPEC_INVALID)
        assert message == "tickets.yaml, document 1: spec.enabledd: unknown key"
        assert world.condition("Stalled") == ("True", "SpecInvalid")
        assert world.served(acme) == "1.0.0"

        world.declare()
        await world.until(Reason.SUCCEEDED)


@pytest.mark.parametrize(("policy", "left"), [("Retain", {"title", "status"}), ("Drop", set())])
async def test_removing_the_yaml_applies_its_deletion_policy(
    world: FolderWorld, acme: OrganizationId, policy: str, left: set[str]
) -> None:
    world.bundle("tickets.tar.gz")
    world.declare(deletionPolicy=policy)
    async with world.reconciling() as runner:
        await world.until(Reason.SUCCEEDED)
        await world.add_ticket(acme, "kept?")

        (world.root / "tickets.yaml").unlink()
        await world.until(Reason.REMOVED)

        assert runner.status("default/tickets") is None
        assert not (world.data / "addons" / "tickets.status.json").exists()
        assert await world.columns("tickets") & {"title", "status"} == left
        assert await world.owner.postgres.fetchval("SELECT count(*) FROM metacore_installations") == 0

        world.declare()
        await world.until(Reason.SUCCEEDED)
        assert await world.titles(acme) == (["kept?"] if left else [])


async def test_a_yaml_removed_while_nothing_ran_is_removed_at_the_next_start(
    world: FolderWorld, acme: OrganizationId
) -> None:
    world.bundle("tickets.tar.gz")
    world.declare(deletionPolicy="Drop")
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
    (world.root / "tickets.yaml").unlink()

    async with world.reconciling():
        await world.until(Reason.REMOVED)

    assert await world.columns("tickets") == set()


async def test_a_file_renamed_by_an_editor_deletes_nothing(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare(deletionPolicy="Drop")
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        await world.add_ticket(acme, "precious")

        (world.root / "tickets.yaml").rename(world.root / "support.yaml")
        world.declare(file="support.yaml", deletionPolicy="Drop", mode="enforce")
        (world.root / "tickets.yaml").unlink(missing_ok=True)
        world.bundle("tickets.tar.gz", version="1.0.1")
        await world.until(Reason.INSTALLED, words="version 1.0.1")

        assert await world.titles(acme) == ["precious"]


async def test_an_upgrade_that_asks_for_more_waits_until_it_is_listed(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)

        world.bundle("tickets.tar.gz", version="1.1.0", capabilities=ASKS_MORE)
        message = await world.until(Reason.CAPABILITIES_PENDING)

        assert "http:fetch api.example.com" in message and "version 1.0.0 serves on" in message
        assert world.condition("CapabilitiesAccepted") == ("False", "CapabilitiesPending")
        assert world.served(acme) == "1.0.0"

        world.declare(capabilities={"list": [{"kind": "http:fetch", "target": "*.example.com"}]})
        await world.until(Reason.INSTALLED, words="version 1.1.0")
    grants = json.loads(await world.owner.postgres.fetchval("SELECT grants FROM metacore_addons"))
    assert [grant["target"] for grant in grants] == ["tickets.*", "api.example.com"]


async def test_a_new_organization_gets_it_and_one_that_is_not_meant_does_not(
    world: FolderWorld, acme: OrganizationId
) -> None:
    selector = {"matchExpressions": [{"key": "name", "operator": "NotIn", "values": ["Initech"]}]}
    world.bundle("tickets.tar.gz")
    world.declare(organizations={"selector": selector})
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        loaded = world.registry.snapshot.revision

        globex = await make_organization(world.owner, "Globex")
        initech = await make_organization(world.owner, "Initech")
        await rises(world, loaded)

        assert world.served(globex) == "1.0.0"
        assert world.served(initech) == ""


async def test_a_bundle_that_is_gone_from_its_source_goes_on_from_the_database(
    world: FolderWorld, acme: OrganizationId
) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        (world.root / "tickets.tar.gz").unlink()
        message = await world.until(Reason.SOURCE_UNAVAILABLE)
        assert "the installed version 1.0.0 goes on" in message
        loaded = world.registry.snapshot.revision

        globex = await make_organization(world.owner, "Globex")
        await rises(world, loaded)
        assert world.served(globex) == "1.0.0"
        await world.owner.postgres.execute("ALTER TABLE addon_tickets.tickets DROP COLUMN amount")
    async with world.reconciling():
        await world.until(Reason.DRIFT_MENDED)
        assert world.condition("Ready") == ("True", "Succeeded")
        assert world.condition("Fetched") == ("False", "SourceUnavailable")

        world.keys.write_text("")
        await world.until(Reason.KEY_REVOKED)
        await world.until_fenced("no_trusted_keys")
        world.keys.write_text(bytes(SIGNING_KEY.verify_key).hex())
        await world.until(Reason.SUCCEEDED)
        world.declare(version=">=1.0.0")
        await world.until(Reason.SOURCE_UNAVAILABLE)
        assert world.condition("Ready") == ("False", "SourceUnavailable")
        world.bundle("tickets.tar.gz")
        await world.until(Reason.SUCCEEDED)
        assert world.condition("Fetched") == ("True", "SourceAvailable")


@pytest.mark.parametrize("by_digest", [False, True])
async def test_a_registry_is_asked_for_a_bundle_once(world: FolderWorld, acme: OrganizationId, by_digest: bool) -> None:
    content = make_bundle(tickets_manifest())
    signature = json.dumps(sign(content, SIGNING_KEY).as_json()).encode()
    registry = OciRegistry()
    registry.hold(content, signature)
    async with registry.running():
        tag = f"{registry.host}/addons/tickets"
        ask_registry(world, registry)
        ref = f"{tag}@{digest_of(registry.manifest_bytes)}" if by_digest else f"{tag}:1.0.0"
        world.declare(source={"oci": {"ref": ref}})
        async with world.reconciling(settings=dataclasses.replace(QUICK, resync=0.2)):
            await world.until(Reason.SUCCEEDED)
            # Whatever else the first minute asked for, it was with a bundle that was not installed yet.
            await asked_again(world, "one")
            registry.requests.clear()
            for number in range(3):
                await make_organization(world.owner, f"Another {number}")
                await settled(world, 2 + number)
            assert Reason.DRIFT_MENDED not in {event.reason for _, event in world.events}
            assert set(registry.requests) == (set() if by_digest else {"HEAD manifests"})

            await asked_again(world, "two")
            assert "GET manifests" in registry.requests
    # The registry is gone, and a new process has not asked it yet.
    ask_registry(world, registry)
    async with world.reconciling(settings=dataclasses.replace(QUICK, resync=0.2)):
        await world.until(Reason.SOURCE_UNAVAILABLE)
        assert world.condition("Ready") == ("True", "Succeeded")


def ask_registry(world: FolderWorld, registry: OciRegistry) -> None:
    source = OciSource(Downloader(["127.0.0.1"]), References(ObjectsInMemory()), [registry.host])
    world.sources[SourceKind.OCI] = source


async def asked_again(world: FolderWorld, word: str) -> None:
    """Ask for a reconcile by an annotation, and wait until it was done."""
    document = json.loads((world.root / "tickets.yaml").read_text())
    document["metadata"]["annotations"] = {"metacore.dev/requested-at": word}
    (world.root / "tickets.yaml").write_text(json.dumps(document))
    async with asyncio.timeout(PATIENCE):
        while True:
            if world.status().last_handled_requested_at == word:
                return
            await asyncio.sleep(0.02)


async def settled(world: FolderWorld, organizations: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if world.status().organizations.installed == organizations:
                return
            await asyncio.sleep(0.02)


async def rises(world: FolderWorld, revision: int) -> None:
    """Wait until a kernel serves a later revision; it says so itself."""
    changed = asyncio.Event()
    world.registry.on_change(lambda snapshot: changed.set() if snapshot.revision > revision else None)
    if world.registry.snapshot.revision <= revision:
        async with asyncio.timeout(60):
            await changed.wait()


async def test_without_kernels_nothing_is_ready_until_one_comes(
    tmp_path: Path, owner_db: Database, kernel_db: Database, acme: OrganizationId
) -> None:
    world = FolderWorld(tmp_path, owner_db, kernel_db)
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.NO_KERNELS)
        assert world.condition("Installed")[0] == "True"
        assert world.condition("Ready") == ("False", "NoKernels")
        async with world.kernel():
            await world.until(Reason.SUCCEEDED)


async def test_switching_off_and_on_by_the_spec(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.declare(enabled=False)
        await world.until(Reason.DISABLED)
        statuses = await world.owner.postgres.fetch("SELECT status FROM metacore_installations")
        assert [row["status"] for row in statuses] == ["disabled"]
        world.declare(enabled=True)
        await world.until(Reason.INSTALLED)
        statuses = await world.owner.postgres.fetch("SELECT status FROM metacore_installations")
        assert [row["status"] for row in statuses] == ["enabled"]


async def test_a_column_dropped_by_hand_is_put_back(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        loaded = world.registry.snapshot.revision
        await world.owner.postgres.execute("ALTER TABLE addon_tickets.tickets DROP COLUMN amount")
        world.declare(mode="enforce")
        await rises(world, loaded)

        assert "amount" in await world.columns("tickets")


async def test_trust_that_is_withdrawn_fences_what_is_installed(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    trusted = world.keys.read_text()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)

        world.keys.write_text("# nobody\n")
        await world.until(Reason.KEY_REVOKED)
        await world.until_condition("Verified", "False", "KeyRevoked")
        await world.until_fenced("no_trusted_keys")

        world.keys.write_text(trusted)
        await world.until(Reason.SUCCEEDED)
        assert await world.owner.postgres.fetchval("SELECT fenced_reason FROM metacore_addons") == ""


async def test_a_migration_that_takes_data_away_needs_a_waiver(world: FolderWorld, acme: OrganizationId) -> None:
    first = {"0001_extra.sql": "CREATE TABLE extra (id uuid, organization_id uuid NOT NULL, note text);"}
    second = {**first, "0002_less.sql": "ALTER TABLE extra DROP COLUMN note;"}
    world.bundle("tickets.tar.gz", migrations=first)
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.bundle("tickets.tar.gz", version="1.1.0", migrations=second)
        message = await world.until(Reason.DATA_AT_RISK)
        assert "drops column extra.note" in message
        assert "note" in await world.columns("extra")

        world.declare(preflight={"waivers": ["data_loss@1.1.0"]})
        await world.until(Reason.INSTALLED, words="version 1.1.0")
        assert "note" not in await world.columns("extra")


async def test_going_back_needs_a_waiver(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz", version="1.1.0")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.bundle("tickets.tar.gz", version="1.0.0")
        assert "downgrade@1.0.0" in await world.until(Reason.DOWNGRADE_REFUSED)
        world.declare(preflight={"waivers": ["downgrade@1.0.0"]})
        await world.until(Reason.INSTALLED, words="version 1.0.0")


async def test_two_addons_with_one_key_the_first_keeps_it(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.declare("usurper", key="tickets", source={"path": "tickets.tar.gz"}, deletionPolicy="Drop")
        await world.until(Reason.KEY_OWNED, "usurper")

        (world.root / "usurper.yaml").unlink()
        await world.until(Reason.REMOVED, "usurper")
        assert world.served(acme) == "1.0.0"


async def test_a_key_is_replaced_without_a_fence(world: FolderWorld, acme: OrganizationId) -> None:
    new_key = SigningKey.generate()
    new, old = bytes(new_key.verify_key).hex(), bytes(SIGNING_KEY.verify_key).hex()
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        world.keys.write_text(f"{old}\n{new}\n")
        world.bundle("tickets.tar.gz", signer=new_key)
        async with asyncio.timeout(PATIENCE):
            while await world.owner.postgres.fetchval("SELECT signer FROM metacore_addons") != new:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    world.keys.write_text(f"{new}\n")
    # The next operator verifies everything that is installed before it does anything else, with the new key alone.
    async with world.reconciling():
        world.declare("another", key="tickets", source={"path": "tickets.tar.gz"})
        await world.until(Reason.KEY_OWNED, "another")
        assert world.served(acme) == "1.0.0"
    assert await world.owner.postgres.fetchval("SELECT fenced_reason FROM metacore_addons") == ""
    assert Reason.DRIFT_MENDED not in {event.reason for _name, event in world.events}


async def test_an_addon_of_a_cluster_that_is_gone_is_taken_over(
    world: FolderWorld,
    acme: OrganizationId,
    database_urls: DatabaseUrls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("METACORE_OWNER_DATABASE_URL", database_urls.owner)

    async def metacore(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, ["addons", *words])
        told = capsys.readouterr()
        return code, told.out + told.err

    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
    await world.owner.postgres.execute("UPDATE metacore_addons SET owner_uid = 'of-the-old-cluster'")
    async with world.reconciling():
        message = await world.until(Reason.KEY_OWNED)
        uid = message.partition("--uid ")[2].split()[0]
        code, listed = await metacore("list", "--json")
        assert code == 0
        assert [(row["key"], row["organizations"]) for row in json.loads(listed)["addons"]] == [("tickets", 1)]
        assert "of-the-old-cluster" in (await metacore("list"))[1]
        code, refused = await metacore("adopt", "tickets", "--uid", uid, "--from", "somebody")
        assert (code, "not by 'somebody'" in refused) == (1, True)
        code, unknown = await metacore("adopt", "nothing", "--uid", uid)
        assert (code, "there is no addon 'nothing'" in unknown) == (1, True)

        code, done = await metacore("adopt", "tickets", "--uid", uid, "--from", "of-the-old-cluster")

        assert code == 0 and "before it was of-the-old-cluster" in done
        await world.until(Reason.SUCCEEDED)
        assert world.served(acme) == "1.0.0"


async def test_wishes_of_tenants_are_executed_beside_the_declared_addons(
    world: FolderWorld, acme: OrganizationId, kernel_db: Database
) -> None:
    caller = principal(acme, await make_user(world.owner, acme))
    content, signature = signed(make_bundle(tickets_manifest()))
    async with world.reconciling():
        request = await requests.submit(kernel_db, caller, "install", "tickets", bundle=content, signature=signature)
        outcome = await requests.wait(kernel_db, acme, request, 60)
        await rises(world, 0)

    assert outcome.status == "done", outcome
    assert world.served(acme) == "1.0.0"


async def test_a_stop_in_the_middle_of_it_all_is_clean(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        pass
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
    assert world.served(acme) == "1.0.0"


async def test_addons_wait_for_what_they_require_and_hold_it(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    needs = {"requires": [{"key": "tickets", "version": ">=1.0.0"}]}
    world.bundle("notes.tar.gz", key="notes", models=[], settings=[], capabilities=[], compatibility=needs)
    world.declare("notes")
    async with world.reconciling():
        message = await world.until(Reason.DEPENDENCY_PENDING, "notes")
        assert "requires addon 'tickets' >=1.0.0, which is not installed" in message
        world.declare()
        await world.until(Reason.SUCCEEDED, "notes")

        (world.root / "tickets.yaml").unlink()
        message = await world.until(Reason.NEEDED_BY_OTHERS)
        assert "addon 'notes' requires 'tickets'" in message
        assert world.status().phase == "Deleting" and world.served(acme) == "1.0.0"

        (world.root / "notes.yaml").unlink()
        await world.until(Reason.REMOVED)


async def test_two_addons_that_require_each_other_are_told_so(world: FolderWorld, acme: OrganizationId) -> None:
    for key, other in (("notes", "files"), ("files", "notes")):
        needs = {"requires": [{"key": other}]}
        world.bundle(f"{key}.tar.gz", key=key, models=[], settings=[], capabilities=[], compatibility=needs)
        world.declare(key)
    async with world.reconciling():
        told = {await world.until(Reason.DEPENDENCY_CYCLE, name) for name in ("notes", "files")}
    assert told == {
        "addons require each other in a circle: notes → files → notes",
        "addons require each other in a circle: files → notes → files",
    }


@pytest.mark.parametrize(
    ("damage", "mended"),
    [
        ("DROP TABLE addon_tickets.ticket_comments", "table addon_tickets.ticket_comments"),
        ("ALTER TABLE addon_tickets.tickets DROP COLUMN amount", "table addon_tickets.tickets"),
        ("DROP POLICY metacore_tenant ON addon_tickets.tickets", "protect addon_tickets.tickets"),
        ("ALTER TABLE addon_tickets.tickets NO FORCE ROW LEVEL SECURITY", "protect addon_tickets.tickets"),
        ("REVOKE ALL ON addon_tickets.tickets FROM PUBLIC, metacore_kernel", "protect addon_tickets.tickets"),
        ("DELETE FROM metacore_installations", "installation of "),
        ("UPDATE metacore_installations SET settings = '{}'", "settings of "),
        ("UPDATE metacore_addons SET grants = '[]'", "record of tickets"),
    ],
)
async def test_what_is_changed_from_outside_is_put_back_and_told(
    world: FolderWorld, acme: OrganizationId, damage: str, mended: str
) -> None:
    world.bundle("tickets.tar.gz")
    world.declare(settings={"greeting": "hello"})
    async with world.reconciling(settings=dataclasses.replace(QUICK, resync=0.3)):
        await world.until(Reason.SUCCEEDED)
        kernel = await world.owner.postgres.fetchval("SELECT rolname FROM pg_roles WHERE rolname = $1", KERNEL_ROLE)
        await world.owner.postgres.execute(damage.replace("metacore_kernel", kernel))
        assert mended in await world.until(Reason.DRIFT_MENDED)
        assert world.condition("Drifted") == ("False", "DriftMended")
        world.declare(settings={"greeting": "hello"}, mode="enforce")
        await world.until(Reason.NO_DRIFT)
        assert [event.reason for _, event in world.events if event.reason is Reason.DRIFT_MENDED] == []


async def test_an_index_dropped_by_hand_is_built_again(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling(settings=dataclasses.replace(QUICK, resync=0.3)):
        await world.until(Reason.SUCCEEDED)
        name = await world.owner.postgres.fetchval(
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'addon_tickets' AND indexname LIKE 'mx\\_%' LIMIT 1"
        )
        await world.owner.postgres.execute(f'DROP INDEX addon_tickets."{name}"')
        assert f"index addon_tickets.{name}" in await world.until(Reason.DRIFT_MENDED)


async def test_a_rollback_pins_an_older_digest(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        old = world.status().digest
        world.bundle("tickets.tar.gz", version="1.1.0", models=MORE_COLUMNS)
        await world.until(Reason.INSTALLED, words="replaced 1.0.0")

        world.declare(digest=old)
        await world.until(Reason.INSTALLED, words="version 1.0.0")

        assert world.status().digest == old and world.status().history[0].digest == old


async def test_annotations_pause_request_and_force(world: FolderWorld, acme: OrganizationId) -> None:
    world.bundle("tickets.tar.gz")
    world.declare(annotations={"metacore.dev/pause": "true", "metacore.dev/requested-at": "one"})
    async with world.reconciling():
        await world.until(Reason.SUSPENDED)
        assert world.status().last_handled_requested_at == "one"
        world.declare()
        await world.until(Reason.SUCCEEDED)
        loaded = world.registry.snapshot.revision
        world.declare(annotations={"metacore.dev/force": "two"})
        await rises(world, loaded)
        world.declare(annotations={"metacore.dev/force": "two"}, enabled=False)
        await world.until(Reason.DISABLED)
        assert world.status().last_handled_force == "two"


async def test_the_secret_of_an_installation_is_kept_beside_the_status(
    world: FolderWorld, acme: OrganizationId
) -> None:
    world.bundle("tickets.tar.gz")
    world.declare()
    file = world.data / "addons" / "tickets.secrets.json"
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        kept = json.loads(file.read_text())["secrets"]
        assert file.stat().st_mode & 0o777 == 0o600
        assert await stored_hashes(world) == {organization: hash_of(secret) for organization, secret in kept.items()}

        world.declare(annotations={"metacore.dev/rotate-secrets": "one"}, enabled=False)
        await world.until(Reason.DISABLED)

        rotated = json.loads(file.read_text())["secrets"]
        assert set(rotated) == {str(acme)} and rotated != kept
        assert await stored_hashes(world) == {str(acme): hash_of(rotated[str(acme)])}
        (world.root / "tickets.yaml").unlink()
        await world.until(Reason.REMOVED)
        assert not file.exists()


async def stored_hashes(world: FolderWorld) -> dict[str, str]:
    rows = await world.owner.postgres.fetch("SELECT organization_id, secret_hash FROM metacore_installations")
    return {str(row["organization_id"]): row["secret_hash"] for row in rows}


def hash_of(secret: str) -> str:
    return f"sha256:{hashlib.sha256(bytes.fromhex(secret)).hexdigest()}"


async def test_a_migration_that_would_fail_with_the_rows_is_found_before_anything_changes(
    world: FolderWorld, acme: OrganizationId
) -> None:
    first = {"0001_extra.sql": "CREATE TABLE extra (id uuid, organization_id uuid NOT NULL, note text);"}
    second = {**first, "0002_one.sql": "ALTER TABLE extra ADD COLUMN n int; CREATE UNIQUE INDEX one ON extra (note);"}
    world.bundle("tickets.tar.gz", migrations=first)
    world.declare()
    async with world.reconciling():
        await world.until(Reason.SUCCEEDED)
        await world.owner.postgres.execute(
            "INSERT INTO addon_tickets.extra (organization_id, note) SELECT $1, 'same' FROM generate_series(1, 2)", acme
        )
        world.bundle("tickets.tar.gz", version="1.1.0", migrations=second)
        message = await world.until(Reason.REHEARSAL_FAILED)
        assert "0002_one.sql:1: could not create unique index" in message
        assert world.condition("PreflightPassed") == ("False", "RehearsalFailed")
        assert "n" not in await world.columns("extra") and world.served(acme) == "1.0.0"

        await world.owner.postgres.execute("DELETE FROM addon_tickets.extra")
        world.declare(annotations={"metacore.dev/force": "I mended the rows"})
        await world.until(Reason.INSTALLED, words="version 1.1.0")
        preflight = world.status().condition("PreflightPassed")
        assert preflight is not None
        assert "n" in await world.columns("extra")
