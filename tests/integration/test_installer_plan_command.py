"""`metacore plan`: what people and scripts read before they install."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.cli import main
from metacore.db.database import Database
from metacore.installer.execute import Installer

KEY = TRUSTED.keys[0].hex()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("METACORE_OWNER_DATABASE_URL", "MARKETPLACE_PUBKEYS", "MARKETPLACE_PUBKEY", "ALLOW_UNSIGNED_BUNDLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))


def write(folder: Path, manifest: Mapping[str, Any] | None = None, migrations: Mapping[str, str] | None = None) -> Path:
    """A signed bundle as files."""
    content, signature = signed(make_bundle(manifest or tickets_manifest(), migrations))
    file = folder / "tickets.tar.gz"
    file.write_bytes(content)
    (folder / "tickets.tar.gz.sig.json").write_text(json.dumps(signature.as_json()))
    return file


async def run(*arguments: str) -> int:
    """The command runs an event loop of its own, so it gets a thread."""
    return await asyncio.to_thread(main, ["plan", *arguments])


async def test_without_a_database_an_empty_one_is_planned_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, migrations={"0001_x.sql": "CREATE TABLE x (id int, organization_id uuid);\nDELETE FROM x;"})
    assert await run(str(file), "--key", KEY) == 0
    shown = capsys.readouterr().out
    for expected in (
        f"signature: by {KEY}",
        "database: an empty one is assumed",
        "event:emit tickets.* (new): tells others",
        "migrations/0001_x.sql:2 deletes rows of x",
        "CREATE TABLE x (id int, organization_id uuid);",
        "CREATE TABLE addon_tickets.tickets (",
        "CREATE POLICY metacore_tenant",
        "code='bug', label='Bug'",
    ):
        assert expected in shown, expected
    assert "\x1b" not in shown


async def test_what_is_written_over_is_shown_beside_the_data_at_risk(
    tmp_path: Path, owner_db: Database, database_urls: DatabaseUrls, capsys: pytest.CaptureFixture[str]
) -> None:
    acme = await make_organization(owner_db, "Acme")
    notes = {"0001_x.sql": "CREATE TABLE notes (organization_id uuid NOT NULL, body text);"}
    content, signature = signed(make_bundle(tickets_manifest(), notes))
    await Installer(owner_db).install(content, signature, trusted=TRUSTED, organizations=[acme])
    notes["0002_y.sql"] = "ALTER TABLE notes ADD COLUMN short text;\nUPDATE notes SET short = body, body = '';"
    file = write(tmp_path, tickets_manifest(version="1.1.0"), migrations=notes)
    options = ("--key", KEY, "--database-url", database_urls.owner)
    assert await run(str(file), *options) == 0
    shown = capsys.readouterr().out
    assert "written over:\n  addon_tickets: migrations/0002_y.sql:2 writes over notes.body\n" in shown
    assert "data at risk" not in shown
    assert await run(str(file), *options, "--json") == 0
    assert [risk["kind"] for risk in json.loads(capsys.readouterr().out)["risks"]] == ["data_rewrite"]


async def test_the_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(str(write(tmp_path)), "--key", KEY, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["signature"] == {"verified": True, "signer": KEY}
    assert plan["changed"] is True
    assert [step["kind"] for step in plan["steps"]][:2] == ["claim", "schema"]
    assert plan["capabilities"] == [
        {"kind": "event:emit", "target": "tickets.*", "reason": "tells others", "new": True}
    ]


async def test_a_bundle_that_would_be_refused_is_shown_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path)
    assert await run(str(file), "--key", "ab" * 32) == 1
    assert "signature: refused: no trusted key made this signature" in capsys.readouterr().out
    (tmp_path / "tickets.tar.gz.sig.json").unlink()
    assert await run(str(file), "--key", KEY, "--json") == 1
    assert json.loads(capsys.readouterr().out)["signature"]["code"] == "unsigned"


async def test_hostile_sql_is_refused_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, migrations={"0001_x.sql": "SELECT 1;\nRESET ROLE;"})
    assert await run(str(file), "--key", KEY) == 1
    assert "migrations/0001_x.sql:2: SET: settings of the session and the role belong to the kernel" in (
        capsys.readouterr().err
    )


async def test_with_a_database_only_what_is_missing_is_planned(
    tmp_path: Path, owner_db: Database, database_urls: DatabaseUrls, capsys: pytest.CaptureFixture[str]
) -> None:
    acme = await make_organization(owner_db, "Acme")
    await make_organization(owner_db, "Globex")
    content, signature = signed(make_bundle(tickets_manifest()))
    await Installer(owner_db).install(content, signature, trusted=TRUSTED, organizations=[acme])
    file = write(tmp_path)
    options = ("--key", KEY, "--database-url", database_urls.owner)
    assert await run(str(file), *options, "--organization", "Acme") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert await run(str(file), *options, "--organization", "Globex", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [step["kind"] for step in plan["steps"]] == ["claim", "seed", "install"]
    assert plan["upgraded"] == [str(acme)]
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"].append({"name": "color", "type": "string"})
    assert await run(str(write(tmp_path, newer)), *options) == 0
    shown = capsys.readouterr().out
    assert 'ALTER TABLE "addon_tickets"."tickets" ADD COLUMN color VARCHAR(255);' in shown
    assert "event:emit tickets.*: tells others" in shown
    assert await run(str(file), *options, "--organization", "Nobody") == 1
    assert "no organization is called 'Nobody'" in capsys.readouterr().err


async def test_planning_changes_nothing(
    tmp_path: Path, owner_db: Database, database_urls: DatabaseUrls, capsys: pytest.CaptureFixture[str]
) -> None:
    acme = await make_organization(owner_db)
    file = write(tmp_path, migrations={"0001_x.sql": "CREATE TABLE x (id int, organization_id uuid);"})
    options = ("--key", KEY, "--database-url", database_urls.owner, "--organization", str(acme))
    assert await run(str(file), *options) == 0
    assert "steps (" in capsys.readouterr().out
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_addons") == 0
    assert await owner_db.postgres.fetch("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'addon%'") == []
