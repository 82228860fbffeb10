"""What one tenant's bundle may change for the others: not the mode, not the grants, unless it administers them all."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest
from tests.factories import make_organization, principal
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.db.database import Database
from metacore.errors import Conflict, Problem, Refused
from metacore.identity import Principal
from metacore.installer import requests
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.installer.requests import RequestOutcome
from metacore.installer.standing import Asker
from metacore.manifest.model import Capability

NARROW = Capability(kind="event:emit", target="tickets.made", reason="")
WIDE = {"kind": "event:emit", "target": "tickets.*", "reason": "tells others"}
MORE = {"kind": "event:subscribe", "target": "orders.*", "reason": "hears"}


NOTES = {"0001_notes.sql": "CREATE TABLE notes (organization_id uuid NOT NULL, body text, old text);"}
LOSSES = {
    "0002_column.sql": ("ALTER TABLE notes DROP COLUMN old;", "drops column notes.old and its values"),
    "0002_rows.sql": ("CREATE TABLE b (organization_id uuid);\nDELETE FROM notes;", "deletes rows of notes"),
    "0002_table.sql": ("DROP TABLE notes;", "drops table notes and its rows"),
    "0002_empty.sql": ("TRUNCATE notes;", "empties table notes"),
    "0002_hidden.sql": (
        "WITH gone AS (DELETE FROM notes RETURNING body) SELECT body FROM gone;",
        "deletes rows of notes",
    ),
}


class World:
    """An addon that its host installed for Acme, enforced and with less than it declares; Globex comes along."""

    def __init__(self, owner: Database, kernel: Database, acme: uuid.UUID, globex: uuid.UUID) -> None:
        self.owner, self.kernel = owner, kernel
        self.acme, self.globex = principal(acme), principal(globex)
        self.installer = Installer(owner)

    async def host_installs(
        self, grants: list[Capability], *, migrations: dict[str, str] | None = None, **manifest: Any
    ) -> None:
        content, signature = signed(make_bundle(tickets_manifest(**manifest), migrations))
        organizations = [self.acme.organization_id]
        await self.installer.install(
            content, signature, trusted=TRUSTED, organizations=organizations, mode="enforce", grants=grants
        )

    async def asks(
        self,
        caller: Principal,
        *,
        administrators: tuple[str, ...] = (),
        migrations: dict[str, str] | None = None,
        **manifest: Any,
    ) -> RequestOutcome:
        content, signature = signed(make_bundle(tickets_manifest(**manifest), migrations))
        made = await requests.submit(self.kernel, caller, "install", "tickets", bundle=content, signature=signature)
        worker = RequestWorker(self.owner, self.installer, lambda: TRUSTED, None, administrators=administrators)
        assert await worker.run_pending() == 1
        return await requests.outcome(self.kernel, caller.organization_id, made)

    async def stands(self) -> tuple[str, str, list[str]]:
        row = await self.owner.postgres.fetchrow("SELECT version, mode, grants FROM metacore_addons")
        assert row is not None
        return row["version"], row["mode"], [f"{one['kind']} {one['target']}" for one in orjson.loads(row["grants"])]

    async def versions(self) -> dict[uuid.UUID, str]:
        rows = await self.owner.postgres.fetch("SELECT organization_id, version FROM metacore_installations")
        return {row["organization_id"]: row["version"] for row in rows}


@pytest.fixture
async def world(owner_db: Database, kernel_db: Database) -> World:
    return World(owner_db, kernel_db, await make_organization(owner_db), await make_organization(owner_db, "Globex"))


async def test_the_same_bundle_joins_and_leaves_mode_and_grants_alone(world: World) -> None:
    await world.host_installs([NARROW])
    for administrators in ((), ("*",)):
        for caller in (world.globex, world.acme):
            assert (await world.asks(caller, administrators=administrators)).status == "done"
            assert await world.stands() == ("1.0.0", "enforce", ["event:emit tickets.made"])
    assert set(await world.versions()) == {world.acme.organization_id, world.globex.organization_id}


async def test_an_upgrade_that_asks_for_more_is_refused_and_names_what(world: World) -> None:
    await world.host_installs([NARROW])
    outcome = await world.asks(world.globex, version="1.1.0", capabilities=[WIDE, MORE])
    assert isinstance(outcome.error, Refused)
    assert outcome.error.code == "capabilities"
    assert "event:emit tickets.*, event:subscribe orders.*" in outcome.error.message
    assert [problem.message for problem in outcome.error.problems] == [
        "event:emit tickets.* was not granted",
        "event:subscribe orders.* was not granted",
    ]
    assert await world.stands() == ("1.0.0", "enforce", ["event:emit tickets.made"])
    assert await world.versions() == {world.acme.organization_id: "1.0.0"}
    # Nothing was begun: no claim, no bundle, no step.
    assert await world.owner.postgres.fetchval("SELECT array_agg(version) FROM metacore_bundles") == ["1.0.0"]


async def test_what_the_host_did_not_grant_does_not_come_with_a_new_version(world: World) -> None:
    """The version before declared it, too, and did not get it."""
    await world.host_installs([])
    outcome = await world.asks(world.acme, version="1.0.1")
    assert isinstance(outcome.error, Refused)
    assert await world.stands() == ("1.0.0", "enforce", [])


async def test_an_upgrade_within_the_grants_keeps_the_mode_and_what_it_still_declares(world: World) -> None:
    await world.host_installs([Capability(**WIDE), Capability(**MORE)], capabilities=[WIDE, MORE])
    less = {"kind": "event:emit", "target": "tickets.made", "reason": "one is enough"}
    assert (await world.asks(world.globex, version="1.1.0", capabilities=[less])).status == "done"
    assert await world.stands() == ("1.1.0", "enforce", ["event:emit tickets.made"])
    assert set((await world.versions()).values()) == {"1.1.0"}


async def test_the_word_of_an_organization_that_administers_counts_for_everybody(world: World) -> None:
    await world.host_installs([NARROW])
    globex = str(world.globex.organization_id)
    wish: dict[str, Any] = {"version": "1.1.0", "capabilities": [WIDE, MORE]}
    assert (await world.asks(world.acme, administrators=(globex,), **wish)).status == "failed"
    assert (await world.asks(world.globex, administrators=(globex,), **wish)).status == "done"
    assert await world.stands() == ("1.1.0", "enforce", ["event:emit tickets.*", "event:subscribe orders.*"])
    assert set((await world.versions()).values()) == {"1.1.0"}


async def test_a_first_installation_is_granted_what_it_declares(world: World) -> None:
    assert (await world.asks(world.globex)).status == "done"
    assert await world.stands() == ("1.0.0", "inherit", ["event:emit tickets.*"])


async def test_leaving_and_coming_back_is_no_first_installation(world: World) -> None:
    await world.host_installs([NARROW])
    await world.installer.uninstall("tickets", world.acme.organization_id, drop=True)
    assert (await world.asks(world.acme)).status == "done"
    assert await world.stands() == ("1.0.0", "enforce", ["event:emit tickets.made"])
    assert (await world.asks(world.acme, version="1.1.0")).status == "failed"


async def test_the_fenced_bundle_stays_fenced_when_a_tenant_sends_it_again(world: World) -> None:
    await world.host_installs([NARROW])
    await world.installer.fence("tickets", "recalled")
    assert (await world.asks(world.globex)).status == "done"
    assert await world.owner.postgres.fetchval("SELECT fenced_reason FROM metacore_addons") == "recalled"


async def test_a_request_gives_way_to_the_owner_who_decides_meanwhile(world: World) -> None:
    """Between looking and claiming the host takes everything back; the older look must not win."""
    content, signature = signed(make_bundle(tickets_manifest()))
    await world.installer.install(content, signature, trusted=TRUSTED, organizations=[world.acme.organization_id])

    class Meanwhile(Installer):
        async def _claim(self, *args: Any, **options: Any) -> int:
            await world.host_installs([])
            return await super()._claim(*args, **options)

    with pytest.raises(Conflict) as caught:
        await Meanwhile(world.owner).install(
            content, signature, trusted=TRUSTED, organizations=[world.globex.organization_id], asker=Asker.TENANT
        )
    assert caught.value.code == "superseded"
    assert await world.stands() == ("1.0.0", "enforce", [])


REWRITES = {
    "0002_update.sql": ("UPDATE notes SET body = NULL;", "writes over notes.body"),
    "0002_merge.sql": (
        "MERGE INTO notes USING (SELECT 'x' AS body) AS n ON notes.body = n.body"
        " WHEN MATCHED THEN UPDATE SET body = 'gone', old = n.body;",
        "writes over notes.body, notes.old",
    ),
    "0002_cte.sql": (
        "ALTER TABLE notes ADD COLUMN new text;\n"
        "WITH done AS (UPDATE notes SET new = body, body = '' RETURNING new) SELECT new FROM done;",
        "writes over notes.body",
    ),
    "0002_conflict.sql": (
        "CREATE UNIQUE INDEX one_body ON notes (body);\n"
        "INSERT INTO notes (organization_id, body) SELECT organization_id, body FROM notes"
        " ON CONFLICT (body) DO UPDATE SET old = 'gone';",
        "writes over notes.old",
    ),
    "0002_function.sql": (
        "CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql BEGIN ATOMIC"
        " UPDATE notes SET body = NULL; SELECT count(*) FROM notes; END; SELECT wipe();",
        "writes over notes.body",
    ),
}


@pytest.mark.parametrize("isolation", ["shared", "schema"])
@pytest.mark.parametrize("name", REWRITES)
async def test_no_tenant_writes_over_what_others_have_stored(world: World, name: str, isolation: str) -> None:
    wish: dict[str, Any] = {"capabilities": [], "tenancy": {"isolation": isolation}}
    await world.host_installs([], migrations=NOTES, **wish)
    assert (await world.asks(world.globex, migrations=NOTES, **wish)).status == "done"
    schema = await world.owner.postgres.fetchval("SELECT name FROM metacore_schemas ORDER BY created_at LIMIT 1")
    value = f"SELECT body FROM {schema}.notes WHERE organization_id = $1"
    acme = world.acme.organization_id
    await world.owner.postgres.execute(
        f"INSERT INTO {schema}.notes (organization_id, body) VALUES ($1, 'x')",
        acme,
    )
    sql, told = REWRITES[name]
    wish.update(version="1.1.0", migrations={**NOTES, name: sql})
    outcome = await world.asks(world.globex, **wish)
    assert isinstance(outcome.error, Refused)
    place = f"migrations/{name}:{sql.count(chr(10)) + 1} {told}"
    assert f"writes over what is stored (data_rewrite): {place}; 1 more organization has" in outcome.error.message
    assert outcome.error.problems == (Problem(place.partition(" ")[0], "data_rewrite", place),)
    assert await world.owner.postgres.fetchval(value, acme) == "x"
    assert set((await world.versions()).values()) == {"1.0.0"}
    # Who administers them all means it.
    assert (await world.asks(world.globex, administrators=("*",), **wish)).status == "done"
    assert set((await world.versions()).values()) == {"1.1.0"}


WIPING = {
    "0001_notes.sql": (
        "CREATE TABLE notes (organization_id uuid NOT NULL, body text, old text);"
        "CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql BEGIN ATOMIC"
        " UPDATE notes SET body = NULL; SELECT count(*) FROM notes; END;"
        "CREATE FUNCTION twice() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT wipe() + wipe(); END;"
        "CREATE VIEW wiped WITH (security_invoker = true) AS SELECT twice() AS count;"
        "CREATE TABLE logs (organization_id uuid, wiped bigint DEFAULT wipe());"
        "CREATE DOMAIN number AS bigint CHECK (VALUE < wipe());"
        "CREATE FUNCTION harmless() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM notes; END;"
    )
}


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT wipe();", "uses wipe"),
        ("SELECT twice() + twice();", "uses twice"),
        ("SELECT count FROM wiped;", "uses wiped"),
        ("INSERT INTO logs (organization_id) VALUES (NULL);", "uses logs"),
        ("SELECT 1::bigint::number;", "uses number"),
        ("ALTER VIEW wiped RENAME TO shown; SELECT count FROM shown;", "uses wiped"),
    ],
)
async def test_nor_by_a_function_that_was_there_before(world: World, sql: str, told: str) -> None:
    wish: dict[str, Any] = {"capabilities": [], "models": []}
    assert (await world.asks(world.globex, migrations=WIPING, **wish)).status == "done"
    assert (await world.asks(world.acme, migrations=WIPING, **wish)).status == "done"
    await world.owner.postgres.execute(
        "INSERT INTO addon_tickets.notes (organization_id, body) VALUES ($1, 'x')", world.acme.organization_id
    )
    outcome = await world.asks(world.globex, version="1.1.0", migrations={**WIPING, "0002_x.sql": sql}, **wish)
    assert isinstance(outcome.error, Refused)
    assert outcome.error.code == "data_at_risk"
    place = f"migrations/0002_x.sql:1 {told}, which changes rows by a function that was there before"
    assert outcome.error.problems == (Problem("migrations/0002_x.sql:1", "data_rewrite", place),)
    assert await world.owner.postgres.fetchval("SELECT body FROM addon_tickets.notes") == "x"
    reads = {
        **WIPING,
        "0002_y.sql": "SELECT harmless();\nALTER TABLE notes ADD more text;\nUPDATE notes SET more = old;",
    }
    asked = await world.asks(world.globex, version="1.1.0", migrations=reads, **wish)
    assert (asked.status, asked.error) == ("done", None)


async def test_both_kinds_of_harm_are_named_together(world: World) -> None:
    await world.host_installs([], migrations=NOTES, capabilities=[])
    both = {**NOTES, "0002_x.sql": "UPDATE notes SET body = NULL;\nTRUNCATE notes;"}
    outcome = await world.asks(world.globex, version="1.1.0", migrations=both, capabilities=[])
    assert isinstance(outcome.error, Refused)
    assert "takes away and writes over what is stored (data_loss, data_rewrite): " in outcome.error.message
    assert {(problem.field, problem.code) for problem in outcome.error.problems} == {
        ("migrations/0002_x.sql:1", "data_rewrite"),
        ("migrations/0002_x.sql:2", "data_loss"),
    }


async def test_a_tenant_may_fill_what_its_upgrade_adds(world: World) -> None:
    await world.host_installs([], migrations=NOTES, capabilities=[])
    assert (await world.asks(world.globex, migrations=NOTES, capabilities=[])).status == "done"
    await world.owner.postgres.execute(
        "INSERT INTO addon_tickets.notes (organization_id, body) VALUES ($1, 'long')", world.acme.organization_id
    )
    fill = {
        "0002_add.sql": "ALTER TABLE notes ADD COLUMN IF NOT EXISTS short text;",
        "0003_fill.sql": "UPDATE notes SET short = left(body, 2);\n"
        "CREATE TABLE heads (organization_id uuid NOT NULL, head text);\n"
        "INSERT INTO heads SELECT organization_id, short FROM notes;\nUPDATE heads SET head = upper(head);",
    }
    asked = await world.asks(world.globex, version="1.1.0", migrations={**NOTES, **fill}, capabilities=[])
    assert (asked.status, asked.error) == ("done", None)
    assert await world.owner.postgres.fetchval("SELECT short FROM addon_tickets.notes") == "lo"
    assert await world.owner.postgres.fetchval("SELECT head FROM addon_tickets.heads") == "LO"


@pytest.mark.parametrize("isolation", ["shared", "schema"])
@pytest.mark.parametrize("name", LOSSES)
async def test_no_tenant_takes_away_what_others_have_stored(world: World, name: str, isolation: str) -> None:
    tenancy = {"isolation": isolation}
    await world.host_installs([], migrations=NOTES, capabilities=[], tenancy=tenancy)
    assert (await world.asks(world.globex, migrations=NOTES, capabilities=[], tenancy=tenancy)).status == "done"
    sql, loss = LOSSES[name]
    wish: dict[str, Any] = {
        "version": "1.1.0",
        "migrations": {**NOTES, name: sql},
        "capabilities": [],
        "tenancy": tenancy,
    }
    outcome = await world.asks(world.globex, **wish)
    assert isinstance(outcome.error, Refused)
    assert outcome.error.code == "data_at_risk"
    place = f"migrations/{name}:{sql.count(chr(10)) + 1} {loss}"
    assert f"(data_loss): {place}; 1 more organization has the addon" in outcome.error.message
    assert outcome.error.problems == (Problem(place.partition(" ")[0], "data_loss", place),)
    assert set((await world.versions()).values()) == {"1.0.0"}
    # Who administers them all accepts the loss by bringing the bundle.
    assert (await world.asks(world.globex, administrators=("*",), **wish)).status == "done"
    assert set((await world.versions()).values()) == {"1.1.0"}


async def test_whoever_has_an_addon_alone_may_lose_data(world: World) -> None:
    await world.host_installs([], migrations=NOTES, capabilities=[])
    less = {**NOTES, "0002_less.sql": "ALTER TABLE notes DROP COLUMN old;"}
    assert (await world.asks(world.acme, version="1.1.0", migrations=less, capabilities=[])).status == "done"
    assert await world.versions() == {world.acme.organization_id: "1.1.0"}


async def test_what_an_organization_kept_when_it_left_is_spared_too(world: World) -> None:
    tables = {"0001_notes.sql": "CREATE TABLE notes (organization_id uuid NOT NULL, body text, old text);"}
    await world.host_installs([], migrations=tables, capabilities=[], models=[])
    assert (await world.asks(world.globex, migrations=tables, capabilities=[], models=[])).status == "done"
    for caller in (world.acme, world.globex):
        await world.owner.postgres.execute(
            "INSERT INTO addon_tickets.notes (organization_id, body) VALUES ($1, 'x')", caller.organization_id
        )
    await world.installer.uninstall("tickets", world.acme.organization_id, drop=False)
    over = {**tables, "0002_over.sql": "UPDATE notes SET old = body;"}
    outcome = await world.asks(world.globex, version="1.1.0", migrations=over, capabilities=[], models=[])
    assert isinstance(outcome.error, Refused)
    assert "writes over notes.old; organizations that left the addon have kept theirs" in outcome.error.message
    less = {**tables, "0002_less.sql": "ALTER TABLE notes DROP COLUMN old;"}
    outcome = await world.asks(world.globex, version="1.1.0", migrations=less, capabilities=[], models=[])
    assert isinstance(outcome.error, Refused)
    assert outcome.error.code == "data_at_risk"
    assert "notes.old and its values; organizations that left the addon have kept theirs" in outcome.error.message
    assert await world.versions() == {world.globex.organization_id: "1.0.0"}
    assert await world.owner.postgres.fetchval("SELECT array_agg(version) FROM metacore_bundles") == ["1.0.0"]
    await world.owner.postgres.execute(
        "DELETE FROM addon_tickets.notes WHERE organization_id = $1", world.acme.organization_id
    )
    done = await world.asks(world.globex, version="1.1.0", migrations=less, capabilities=[], models=[])
    assert (done.status, done.error) == ("done", None)


async def test_a_first_installation_loses_nobodys_data(world: World) -> None:
    both = {**NOTES, "0002_less.sql": "ALTER TABLE notes DROP COLUMN old;"}
    for caller in (world.acme, world.globex):
        asked = await world.asks(caller, migrations=both, capabilities=[], tenancy={"isolation": "schema"})
        assert asked.status == "done"
    assert len(await world.versions()) == 2


async def test_an_organization_that_joins_meanwhile_is_spared_too(world: World) -> None:
    """Acme is alone when the plan is made; Globex joins before the claim."""
    await world.host_installs([], migrations=NOTES, capabilities=[])
    less = {**NOTES, "0002_less.sql": "ALTER TABLE notes DROP COLUMN old;"}
    content, signature = signed(make_bundle(tickets_manifest(version="1.1.0", capabilities=[]), less))

    class Meanwhile(Installer):
        async def _claim(self, *args: Any, **options: Any) -> int:
            joined = await world.asks(world.globex, migrations=NOTES, capabilities=[])
            assert joined.status == "done"
            return await super()._claim(*args, **options)

    with pytest.raises(Refused) as caught:
        await Meanwhile(world.owner).install(
            content, signature, trusted=TRUSTED, organizations=[world.acme.organization_id], asker=Asker.TENANT
        )
    assert caught.value.code == "data_at_risk"
    assert set((await world.versions()).values()) == {"1.0.0"}
