"""`metacore enforce` on a real database: what an operator reads, and the manifest that it writes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import OWNER_PASSWORD, DatabaseUrls
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.capabilities.access import Access, Mode
from metacore.capabilities.enforcer import Violation
from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.writer import ViolationWriter
from metacore.cli import main
from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore.manifest.model import Capability

DONE, REFUSED, USAGE, UNAVAILABLE = range(4)


@pytest.fixture(autouse=True)
def _owner_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_urls: DatabaseUrls) -> None:
    monkeypatch.setenv("METACORE_OWNER_DATABASE_URL", database_urls.owner)
    monkeypatch.setenv("METACORE_HOME", str(tmp_path / "nowhere"))


@pytest.fixture
async def organization(owner_db: Database) -> uuid.UUID:
    """An organization that has the addon `tickets`, whose capability is `event:emit tickets.*`."""
    found = await make_organization(owner_db)
    await install(owner_db, found)
    return found


async def install(
    owner_db: Database, organization: uuid.UUID, grants: list[Capability] | None = None, **manifest: Any
) -> None:
    content, signature = signed(make_bundle(tickets_manifest(**manifest)))
    await Installer(owner_db).install(content, signature, trusted=TRUSTED, organizations=[organization], grants=grants)


async def misbehave(
    kernel_db: Database,
    organization: uuid.UUID,
    *seen: tuple[str, str],
    mode: Mode = Mode.SHADOW,
    forbidden: bool = False,
) -> None:
    recorder = ViolationRecorder()
    for kind, target in seen:
        recorder.record(Violation(Access("tickets", kind, target, organization, "ada"), mode, time.time(), forbidden))
    assert await ViolationWriter(kernel_db, recorder).flush()


async def beat(owner_db: Database, **modes: str) -> None:
    for pod, mode in modes.items():
        await owner_db.postgres.execute(
            "INSERT INTO metacore_heartbeats (pod, mode, build, revision, seen_at) VALUES ($1, $2, '0.1.0', 7, now())",
            pod,
            mode,
        )


async def run(*arguments: str) -> int:
    """The command runs an event loop of its own, so it gets a thread."""
    return await asyncio.to_thread(main, ["enforce", *arguments])


async def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert await run(*arguments, "--json") == DONE
    return json.loads(capsys.readouterr().out)


async def test_status_tells_the_wish_the_live_kernels_and_every_addon(
    owner_db: Database, kernel_db: Database, organization: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    await beat(owner_db, one="shadow", two="enforce")
    await owner_db.postgres.execute(
        "INSERT INTO metacore_heartbeats (pod, mode, build, revision, seen_at)"
        " VALUES ('gone', 'enforce', '0.1.0', 7, now() - interval '1 minute')"
    )
    await owner_db.postgres.execute(
        "UPDATE metacore_mode SET mode = 'enforce', changed_by = 'ada@example.com', changed_at = now()"
    )
    await misbehave(kernel_db, organization, ("db:read", "addon_crm.deals"), ("db:read", "addon_crm.deals"))
    await misbehave(kernel_db, organization, ("db:read", "users.password_hash"), forbidden=True)
    found = await ask(capsys, "status")
    assert (found["mode"], found["asked"]["mode"], found["asked"]["by"]) == ("mixed", "enforce", "ada@example.com")
    assert [(kernel["pod"], kernel["mode"]) for kernel in found["kernels"]] == [("one", "shadow"), ("two", "enforce")]
    assert found["addons"] == [
        {
            "key": "tickets",
            "version": "1.0.0",
            "mode": "inherit",
            "effective": "mixed",
            "fenced": False,
            "violations_24h": {"allowed": 2, "refused": 1},
        }
    ]
    assert await run("status") == DONE
    shown = capsys.readouterr().out
    for expected in ("mode: mixed in 2 live kernels", "asked for by API: enforce, by ada@example.com", "tickets"):
        assert expected in shown
    assert "gone" not in shown and "\x1b" not in shown


async def test_status_of_an_empty_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("status") == DONE
    shown = capsys.readouterr().out
    assert "no kernel is live" in shown and "no addon is installed" in shown


async def test_an_addon_of_its_own_mode_is_held_in_it(
    owner_db: Database, organization: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    await beat(owner_db, one="shadow")
    await owner_db.postgres.execute("UPDATE metacore_addons SET mode = 'enforce'")
    (held,) = (await ask(capsys, "status"))["addons"]
    assert (held["mode"], held["effective"]) == ("enforce", "enforce")


async def test_report_tells_what_enforce_would_refuse_and_what_was_granted_since(
    owner_db: Database, kernel_db: Database, organization: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("report", "--check") == DONE
    assert "no addon did what it was not granted" in capsys.readouterr().out
    await misbehave(kernel_db, organization, ("db:read", "addon_crm.deals"), ("event:emit", "tickets.closed"))
    await misbehave(kernel_db, organization, ("db:read", "addon_crm.deals"), mode=Mode.ENFORCE)
    await misbehave(kernel_db, organization, ("db:read", "users.password_hash"), forbidden=True)
    found = await ask(capsys, "report", "--since", "1h")
    assert [
        (item["kind"], item["target"], item["allowed"], item["refused"], item["forbidden"], item["granted_now"])
        for item in found["violations"]
    ] == [
        ("db:read", "addon_crm.deals", 1, 1, False, False),
        ("db:read", "users.password_hash", 0, 1, True, False),
        ("event:emit", "tickets.closed", 1, 0, False, True),
    ]
    assert await run("report", "--check") == REFUSED
    shown = capsys.readouterr().out
    for expected in ("refused 1 of 2", "refused in both modes", "granted since", "metacore enforce suggest tickets"):
        assert expected in shown
    assert await run("report", "nobody") == REFUSED
    assert "not installed here (installed: tickets)" in capsys.readouterr().err


async def test_what_was_blocked_is_told_once_and_not_as_passed(
    kernel_db: Database, organization: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    host = ("http:fetch", "inside.example.com")
    await misbehave(kernel_db, organization, host, host, ("http:fetch", "api.example.com"))
    await misbehave(kernel_db, organization, host, host, forbidden=True)
    await misbehave(kernel_db, organization, host, mode=Mode.ENFORCE)
    found = await ask(capsys, "report")
    assert [
        (item["target"], item["count"], item["allowed"], item["refused"], item["forbidden"])
        for item in found["violations"]
    ] == [("inside.example.com", 3, 0, 3, True), ("api.example.com", 1, 1, 0, False)]
    (addon,) = (await ask(capsys, "status"))["addons"]
    assert addon["violations_24h"] == {"allowed": 1, "refused": 3}


async def test_suggest_writes_the_manifest_and_leaves_the_rest_of_it_alone(
    kernel_db: Database, organization: uuid.UUID, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await misbehave(kernel_db, organization, ("http:fetch", "api.example.com"), ("http:fetch", "10.0.0.1"))
    file = tmp_path / "manifest.json"
    before = tickets_manifest(capabilities=[{"kind": "event:emit", "target": "tickets.*", "reason": "wer hört? Ü"}])
    file.write_text(json.dumps(before, indent="\t", ensure_ascii=False))
    found = await ask(capsys, "suggest", "tickets")
    assert file.read_text() == json.dumps(before, indent="\t", ensure_ascii=False)
    assert [item["target"] for item in found["add"]] == ["api.example.com"]
    assert [item["target"] for item in found["left_out"]] == ["10.0.0.1"]
    assert [item["target"] for item in found["patch"]["capabilities"]] == ["tickets.*", "api.example.com"]
    assert await run("suggest", "tickets", "--write", str(tmp_path)) == DONE
    shown = capsys.readouterr().out
    assert f"added to {file}" in shown and "spec.capabilities.list" in shown and "10.0.0.1" in shown
    written = json.loads(file.read_text())
    assert written.pop("capabilities") == [*before.pop("capabilities"), *found["add"]]
    assert list(written.items()) == list(before.items())
    assert '\n\t"' in file.read_text() and "Ü" in file.read_text()
    # The second time it only remains to be installed.
    assert await run("suggest", "tickets", "--write", str(file)) == DONE
    assert "already and not granted" in capsys.readouterr().out
    assert len(json.loads(file.read_text())["capabilities"]) == 2


async def test_what_the_suggestion_asks_for_makes_the_addon_clean_once_it_is_installed(
    owner_db: Database, kernel_db: Database, organization: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    await misbehave(kernel_db, organization, ("db:read", "addon_crm.deals"), ("event:emit", "billing.paid"))
    patch = (await ask(capsys, "suggest", "tickets"))["patch"]
    await install(owner_db, organization, version="1.1.0", **patch)
    assert await ask(capsys, "suggest", "tickets") == {
        "addon": "tickets",
        "clean": True,
        "add": [],
        "accept": [],
        "left_out": [],
        "patch": {},
        "written": "",
    }
    assert await run("report", "--check") == DONE
    assert "enforce would refuse none of it today" in capsys.readouterr().out


async def test_what_was_declared_and_not_accepted_only_has_to_be_accepted(
    owner_db: Database, kernel_db: Database, organization: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = [{"kind": "db:read", "target": "addon_crm.*", "reason": "names"}]
    await install(owner_db, organization, grants=[], version="1.1.0", capabilities=declared)
    await misbehave(kernel_db, organization, ("db:read", "addon_crm.deals"))
    found = await ask(capsys, "suggest", "tickets")
    assert (found["add"], [item["target"] for item in found["accept"]]) == ([], ["addon_crm.*"])


async def test_a_manifest_that_is_wrong_or_another_addons_is_not_touched(
    kernel_db: Database, organization: uuid.UUID, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await misbehave(kernel_db, organization, ("db:read", "addon_crm.deals"))
    file = tmp_path / "manifest.json"
    for content, says in (
        (json.dumps(tickets_manifest(key="other")), "the manifest of 'other'"),
        ("{", "not a valid manifest"),
        (json.dumps(tickets_manifest(models="none")), "models"),
    ):
        file.write_text(content)
        assert await run("suggest", "tickets", "--write", str(file)) == REFUSED
        assert says in capsys.readouterr().err
        assert file.read_text() == content


async def test_the_database_of_a_dev_folder_is_found_by_the_folder(
    database_urls: DatabaseUrls,
    owner_db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("METACORE_OWNER_DATABASE_URL")
    monkeypatch.setattr("metacore.cli.owner_database.DATABASE", database_urls.name)
    assert await run("status") == USAGE
    assert "METACORE_OWNER_DATABASE_URL" in capsys.readouterr().err
    data = tmp_path / "nowhere"
    (data / "postgres").mkdir(parents=True)
    words = {"owner_password": OWNER_PASSWORD, "kernel_password": "k", "jwt_secret": "j", "master_key": "m"}
    (data / "secrets.json").write_text(json.dumps(words))
    port = database_urls.owner.rpartition(":")[2].partition("/")[0]
    (data / "postgres" / "port").write_text(f"{port}\n")
    assert await run("status") == DONE
    assert await run("status", "--data", str(data)) == DONE
    (data / "postgres" / "port").write_text("1\n")
    capsys.readouterr()
    assert await run("status", "--data", str(data)) == UNAVAILABLE
    said = capsys.readouterr().err
    assert f"no `metacore dev` runs on {data}" in said and OWNER_PASSWORD not in said
    assert await run("status", "--data", str(tmp_path / "empty")) == USAGE
    (data / "secrets.json").write_text("{}")
    assert await run("status", "--data", str(data)) == USAGE


async def test_a_window_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("report", "--since", "yesterday") == REFUSED
    assert "write a span such as 24h" in capsys.readouterr().err
