"""Installing, upgrading and removing addons on a real PostgreSQL, as the real owner role."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
from nacl.signing import SigningKey
from tests.conftest import DatabaseUrls
from tests.factories import make_organization
from tests.tickets import SIGNING_KEY, TRUSTED, make_bundle, read, signed, tickets_manifest

from metacore.bundle.signature import Signature, TrustedKeys, sign, verify
from metacore.db.database import Database
from metacore.errors import Conflict, InstallFailed, KeyOwned, ModelConflict, NotFound, Refused, SignatureRefused
from metacore.installer.execute import Installer, InstallReport
from metacore.installer.names import role_name
from metacore.manifest.model import Capability
from metacore.secrets import Sealer

SEALER = Sealer(b"m" * 32)


@pytest.fixture
def installer(owner_db: Database) -> Installer:
    return Installer(owner_db, sealer=SEALER)


async def install(
    installer: Installer,
    *organizations: uuid.UUID,
    manifest: Mapping[str, Any] | None = None,
    migrations: Mapping[str, str] | None = None,
    **options: Any,
) -> InstallReport:
    content, signature = signed(make_bundle(manifest or tickets_manifest(), migrations))
    return await installer.install(content, signature, trusted=TRUSTED, organizations=organizations, **options)


async def insert_ticket(db: Database, organization: uuid.UUID, title: str = "one") -> uuid.UUID:
    """A row written the way the kernel does: as its role, in its scope."""
    async with db.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.current_org', $1, true)", str(organization))
        made: uuid.UUID = await connection.fetchval(
            "INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, $2) RETURNING id",
            organization,
            title,
        )
        return made


async def titles(db: Database, organization: uuid.UUID | None) -> list[str]:
    async with db.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.current_org', $1, true)", str(organization or ""))
        rows = await connection.fetch("SELECT title FROM addon_tickets.tickets ORDER BY title")
        return [row["title"] for row in rows]


async def revision_of(db: Database) -> int:
    return int(await db.postgres.fetchval("SELECT revision FROM metacore_registry"))


async def schemas(db: Database) -> list[str]:
    rows = await db.postgres.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'addon%' ORDER BY 1")
    return [row["nspname"] for row in rows]


# -- a first installation


async def test_an_installed_addon_is_served_to_its_tenants_only(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    report = await install(installer, acme, globex)
    assert (report.addon_key, report.version, report.changed, report.revision) == ("tickets", "1.0.0", True, 1)
    await insert_ticket(kernel_db, acme, "mine")
    await insert_ticket(kernel_db, globex, "theirs")
    assert await titles(kernel_db, acme) == ["mine"]
    assert await titles(kernel_db, globex) == ["theirs"]
    assert await titles(kernel_db, None) == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with kernel_db.postgres.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.current_org', $1, true)", str(acme))
            await connection.execute(
                "INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, 'smuggled')", globex
            )


async def test_the_kernel_role_may_use_rows_and_nothing_else(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    await install(installer, await make_organization(owner_db))
    for statement in (
        "TRUNCATE addon_tickets.tickets",
        "ALTER TABLE addon_tickets.tickets DISABLE ROW LEVEL SECURITY",
        "DROP TABLE addon_tickets.tickets",
        "CREATE TABLE addon_tickets.more (a int)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await kernel_db.postgres.execute(statement)


async def test_the_rows_of_an_installation_tell_what_it_is(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    content, signature = signed(make_bundle(tickets_manifest()))
    report = await installer.install(
        content, signature, trusted=TRUSTED, organizations=[acme], owner_uid="uid-1", mode="enforce"
    )
    addon = await owner_db.postgres.fetchrow("SELECT * FROM metacore_addons")
    assert addon is not None
    assert addon["key"] == "tickets"
    assert addon["digest"] == report.digest == hashlib.sha256(content).hexdigest()
    assert addon["signer"] == report.signer == SIGNING_KEY.verify_key.encode().hex()
    assert (addon["owner_uid"], addon["mode"], addon["revision"], addon["schema_revision"]) == (
        "uid-1",
        "enforce",
        1,
        1,
    )
    bundle = await owner_db.postgres.fetchrow("SELECT * FROM metacore_bundles")
    assert bundle is not None
    assert bytes(bundle["content"]) == content
    row = await owner_db.postgres.fetchrow("SELECT * FROM metacore_installations")
    assert row is not None
    assert (row["organization_id"], row["version"], row["status"], row["source"]) == (
        acme,
        "1.0.0",
        "enabled",
        "bundle",
    )
    models = await owner_db.postgres.fetch("SELECT model_key, table_name FROM metacore_addon_models ORDER BY 1")
    assert [tuple(model) for model in models] == [
        ("Comment", "ticket_comments"),
        ("Ticket", "tickets"),
        ("TicketKind", "ticket_kinds"),
    ]


async def test_each_organization_gets_a_secret_once(installer: Installer, owner_db: Database) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    report = await install(installer, acme, globex)
    assert set(report.secrets) == {acme, globex}
    assert report.secrets[acme] != report.secrets[globex]
    for organization, secret in report.secrets.items():
        row = await owner_db.postgres.fetchrow(
            "SELECT secret_hash, secret_enc FROM metacore_installations WHERE organization_id = $1", organization
        )
        assert row is not None
        raw = bytes.fromhex(secret)
        assert len(raw) == 32
        assert row["secret_hash"] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
        assert SEALER.open(row["secret_enc"]) == raw
    assert (await install(installer, acme, globex)).secrets == {}


async def test_without_a_master_key_secrets_are_only_hashed(owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await install(Installer(owner_db), acme)
    row = await owner_db.postgres.fetchrow("SELECT secret_hash, secret_enc FROM metacore_installations")
    assert row is not None
    assert row["secret_hash"].startswith("sha256:")
    assert row["secret_enc"] == ""


async def test_a_rotated_secret_replaces_the_old_one_at_once(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    old = (await install(installer, acme)).secrets[acme]
    new = await installer.rotate_secret("tickets", acme)
    assert new != old
    stored = await owner_db.postgres.fetchval("SELECT secret_hash FROM metacore_installations")
    assert stored == f"sha256:{hashlib.sha256(bytes.fromhex(new)).hexdigest()}"
    assert await revision_of(owner_db) == 2
    with pytest.raises(NotFound):
        await installer.rotate_secret("tickets", uuid.uuid4())


async def test_a_bundle_that_nobody_trusted_signed_changes_nothing(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    content, signature = signed(make_bundle(tickets_manifest()))
    flipped = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    for given, by, trusted in (
        (flipped, signature, TRUSTED),
        (content, None, TRUSTED),
        (content, signature, TrustedKeys((b"x" * 32,))),
        (content, signature, TrustedKeys(())),
    ):
        with pytest.raises(SignatureRefused):
            await installer.install(given, by, trusted=trusted, organizations=[acme])
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_addons") == 0
    assert await schemas(owner_db) == []


# -- again, more, newer


async def test_installing_again_changes_nothing(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    first = await install(installer, acme)
    before = await owner_db.postgres.fetch("SELECT * FROM metacore_journal ORDER BY attempt, position")
    again = await install(installer, acme)
    assert again.changed is False
    assert again.revision == first.revision == await revision_of(owner_db)
    assert await owner_db.postgres.fetch("SELECT * FROM metacore_journal ORDER BY attempt, position") == before
    assert (await installer.plan(read(tickets_manifest()), [acme])).steps == ()


async def test_seeds_that_people_deleted_stay_deleted_until_the_next_version(
    installer: Installer, owner_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme)
    await owner_db.postgres.execute("DELETE FROM addon_tickets.ticket_kinds WHERE code = 'bug'")
    await owner_db.postgres.execute("UPDATE addon_tickets.ticket_kinds SET label = 'Mine' WHERE code = 'wish'")
    await install(installer, acme, globex)

    async def kinds(organization: uuid.UUID) -> dict[str, str]:
        rows = await owner_db.postgres.fetch(
            "SELECT code, label FROM addon_tickets.ticket_kinds WHERE organization_id = $1", organization
        )
        return {row["code"]: row["label"] for row in rows}

    assert await kinds(acme) == {"wish": "Mine"}
    assert await kinds(globex) == {"bug": "Bug", "wish": "Wish"}
    await install(installer, manifest=tickets_manifest(version="1.1.0"))
    assert await kinds(acme) == {"wish": "Mine", "bug": "Bug"}


async def test_a_new_version_reaches_everybody_and_keeps_their_rows(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex)
    await insert_ticket(kernel_db, acme, "kept")
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"].append({"name": "color", "type": "string", "not_null": True, "default": "red"})
    newer["models"].append({"key": "Label", "table": "labels", "columns": [{"name": "name", "type": "string"}]})
    report = await install(installer, acme, manifest=newer)
    assert report.secrets == {}
    assert report.revision == 2
    versions = await owner_db.postgres.fetch("SELECT DISTINCT version FROM metacore_installations")
    assert [row["version"] for row in versions] == ["1.1.0"]
    assert await titles(kernel_db, acme) == ["kept"]
    assert await owner_db.postgres.fetchval("SELECT color FROM addon_tickets.tickets") == "red"
    assert await owner_db.postgres.fetchval("SELECT schema_revision FROM metacore_addons") == 2
    with pytest.raises(Refused, match="would go back"):
        await install(installer, acme)
    back = await install(installer, acme, allow_downgrade=True)
    assert back.version == "1.0.0"
    assert await titles(kernel_db, acme) == ["kept"]
    await insert_ticket(kernel_db, acme, "old version writes on")


async def test_indexes_of_filled_tables_are_built_while_it_serves(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    await insert_ticket(kernel_db, acme)
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"][2]["index"] = True
    seen: list[str] = []
    await install(installer, acme, manifest=newer, progress=seen.append)
    assert [step for step in seen if step.startswith("index")]
    valid = await owner_db.postgres.fetchval(
        "SELECT bool_and(i.indisvalid) FROM pg_index i WHERE i.indrelid = 'addon_tickets.tickets'::regclass"
    )
    assert valid is True
    (row,) = await owner_db.postgres.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'addon_tickets' AND indexdef LIKE '%priority%'"
    )
    assert "(organization_id, priority, id)" in row["indexdef"]


async def test_a_unique_column_that_rows_break_fails_that_step_and_the_old_version_serves_on(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    await insert_ticket(kernel_db, acme, "same")
    await insert_ticket(kernel_db, acme, "same")
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"][0]["unique"] = True
    with pytest.raises(InstallFailed) as failure:
        await install(installer, acme, manifest=newer)
    assert "title" in failure.value.step
    assert await titles(kernel_db, acme) == ["same", "same"]
    assert await owner_db.postgres.fetchval("SELECT version FROM metacore_addons") == "1.0.0"
    assert await revision_of(owner_db) == 1
    invalid = await owner_db.postgres.fetch("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid")
    assert invalid == []
    row = await owner_db.postgres.fetchrow("SELECT step, status, detail FROM metacore_journal WHERE status = 'failed'")
    assert row is not None
    assert row["step"] == failure.value.step
    assert "could not create unique index" in row["detail"]


async def test_rows_may_point_only_at_rows_of_their_own_organization(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex)
    ticket = await insert_ticket(kernel_db, globex)
    comment = "INSERT INTO addon_tickets.ticket_comments (organization_id, ticket_id, body) VALUES ($1, $2, 'x')"
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await owner_db.postgres.execute(comment, acme, ticket)
    await owner_db.postgres.execute(comment, globex, ticket)


async def test_mode_grants_and_settings_change_without_touching_tables(
    installer: Installer, owner_db: Database
) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    grant = Capability(kind="event:emit", target="tickets.created")
    options: dict[str, Any] = {
        "mode": "enforce",
        "grants": [grant],
        "settings": {"greeting": "hello", "token": "t0ken"},
    }
    changed = await install(installer, acme, **options)
    assert (changed.changed, changed.revision) == (True, 2)
    assert (await install(installer, acme, **options)).changed is False
    row = await owner_db.postgres.fetchrow("SELECT mode, grants::text, schema_revision FROM metacore_addons")
    assert row is not None
    assert row["mode"] == "enforce"
    assert "tickets.created" in str(row["grants"])
    assert row["schema_revision"] == 1
    settings = str(await owner_db.postgres.fetchval("SELECT settings::text FROM metacore_installations"))
    assert "hello" in settings
    assert "t0ken" not in settings
    with pytest.raises(Refused, match="is not a setting"):
        await install(installer, acme, settings={"nope": 1})


async def test_former_bundles_are_kept_for_a_while(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    for minor in range(8):
        await install(installer, acme, manifest=tickets_manifest(version=f"1.{minor}.0"))
    rows = await owner_db.postgres.fetch("SELECT version FROM metacore_bundles ORDER BY version")
    assert [row["version"] for row in rows] == ["1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0", "1.7.0"]


async def test_a_bundle_that_was_signed_again_keeps_the_newer_signature(
    installer: Installer, owner_db: Database
) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    content, new_key = make_bundle(tickets_manifest()), SigningKey.generate()
    both = TrustedKeys((bytes(SIGNING_KEY.verify_key), bytes(new_key.verify_key)))
    await installer.install(content, sign(content, new_key), trusted=both, organizations=[acme])

    row = await owner_db.postgres.fetchrow("SELECT content, signature FROM metacore_bundles")
    assert row is not None
    stored = Signature.from_json(row["signature"])
    assert verify(row["content"], stored, TrustedKeys((bytes(new_key.verify_key),)))
    signer = await owner_db.postgres.fetchval("SELECT signer FROM metacore_addons")
    assert signer == bytes(new_key.verify_key).hex()


# -- who may


async def test_a_claimed_key_is_nobody_elses(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme, owner_uid="first")
    for uid in ("second", ""):
        with pytest.raises(KeyOwned):
            await install(installer, acme, owner_uid=uid)
        with pytest.raises(KeyOwned):
            await installer.remove("tickets", drop=True, owner_uid=uid)
    assert await installer.remove("tickets", drop=False, owner_uid="first") == 2
    await install(installer, acme, owner_uid="second")


async def test_two_addons_cannot_serve_the_same_model_or_table(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    with pytest.raises(ModelConflict, match="'Ticket' is served by addon 'tickets'"):
        await install(installer, acme, manifest=tickets_manifest(key="desk"))
    assert await schemas(owner_db) == ["addon_tickets"]


async def test_models_of_the_host_are_the_hosts(owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    for taken in ({"Ticket": "products"}, {"Product": "tickets"}):
        installer = Installer(owner_db, host_models=lambda taken=taken: taken)  # type: ignore[misc]
        with pytest.raises(ModelConflict, match="served by the host"):
            await install(installer, acme)


async def test_a_schema_that_was_there_before_is_not_taken_over(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await owner_db.postgres.execute("CREATE SCHEMA addon_tickets")
    with pytest.raises(Conflict, match="was not made by Metacore"):
        await install(installer, acme)


async def test_an_addon_waits_for_what_it_requires_and_holds_it(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    needs = tickets_manifest(key="desk", models=[{"key": "Desk", "table": "desks", "columns": []}])
    needs["compatibility"]["requires"].append({"key": "tickets", "version": "^1.0.0"})
    with pytest.raises(Refused, match="'tickets'"):
        await install(installer, acme, manifest=needs)
    await install(installer, acme)
    await install(installer, acme, manifest=needs)
    with pytest.raises(Conflict, match="'desk' requires 'tickets'"):
        await installer.uninstall("tickets", acme, drop=True)
    with pytest.raises(Conflict, match="'desk' requires 'tickets'"):
        await installer.remove("tickets", drop=True)
    with pytest.raises(Refused, match="'desk' requires 'tickets'"):
        await install(installer, acme, manifest=tickets_manifest(version="2.0.0"))
    await installer.uninstall("desk", acme, drop=True)
    await installer.uninstall("tickets", acme, drop=True)


async def test_an_unknown_organization_is_refused(installer: Installer, owner_db: Database) -> None:
    with pytest.raises(NotFound, match="there is no organization"):
        await install(installer, uuid.uuid4())
    assert await schemas(owner_db) == []


# -- switching and removing


async def test_switching_off_and_on_raises_the_revision_once_each(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)

    async def status() -> str:
        return str(await owner_db.postgres.fetchval("SELECT status FROM metacore_installations"))

    assert await installer.disable("tickets", acme) == 2
    assert await status() == "disabled"
    assert await installer.disable("tickets", acme) == 2
    assert (await install(installer, acme)).changed is False
    assert await status() == "disabled"
    assert await installer.enable("tickets", acme) == 3
    assert await status() == "enabled"
    with pytest.raises(NotFound):
        await installer.enable("tickets", uuid.uuid4())


async def test_uninstalling_keeps_data_unless_told(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    await insert_ticket(kernel_db, acme, "kept")
    await installer.uninstall("tickets", acme, drop=False)
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_installations") == 0
    assert await schemas(owner_db) == ["addon_tickets"]
    report = await install(installer, acme)
    assert list(report.secrets) == [acme]
    assert await titles(kernel_db, acme) == ["kept"]
    await installer.uninstall("tickets", acme, drop=True)
    assert await schemas(owner_db) == []
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_schemas") == 0
    with pytest.raises(NotFound):
        await installer.uninstall("tickets", acme, drop=True)


async def test_a_shared_schema_goes_with_its_last_organization_and_rows_with_their_own(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex)
    ticket = await insert_ticket(kernel_db, acme, "mine")
    await owner_db.postgres.execute(
        "INSERT INTO addon_tickets.ticket_comments (organization_id, ticket_id, body) VALUES ($1, $2, 'x')",
        acme,
        ticket,
    )
    await insert_ticket(kernel_db, globex, "theirs")
    await installer.uninstall("tickets", acme, drop=True)
    assert await owner_db.postgres.fetchval("SELECT array_agg(title) FROM addon_tickets.tickets") == ["theirs"]
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM addon_tickets.ticket_comments") == 0
    await installer.uninstall("tickets", globex, drop=True)
    assert await schemas(owner_db) == []


async def test_a_tenants_schema_goes_with_its_organization(installer: Installer, owner_db: Database) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    manifest = tickets_manifest(tenancy={"isolation": "schema"})
    await install(installer, acme, globex, manifest=manifest)
    names = {organization: f"addon_tickets_{organization.hex[:8]}" for organization in (acme, globex)}
    assert await schemas(owner_db) == sorted(names.values())
    rows = await owner_db.postgres.fetch("SELECT name, organization_id FROM metacore_schemas")
    assert {row["organization_id"]: row["name"] for row in rows} == names
    await installer.uninstall("tickets", acme, drop=True)
    assert await schemas(owner_db) == [names[globex]]
    assert (await install(installer, globex, manifest=manifest)).changed is False


async def test_the_last_one_to_leave_takes_nothing_of_who_kept_a_schema(
    installer: Installer, owner_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    manifest, sql = tickets_manifest(tenancy={"isolation": "schema"}), {"0001_x.sql": "CREATE TABLE x (id int);"}
    await install(installer, acme, globex, manifest=manifest, migrations=sql)
    kept = f"addon_tickets_{acme.hex[:8]}"
    await owner_db.postgres.execute(f"INSERT INTO {kept}.x VALUES (7)")
    await installer.uninstall("tickets", acme, drop=False)
    await installer.uninstall("tickets", globex, drop=True)
    assert await schemas(owner_db) == [kept]
    # Nothing runs again in what was kept, so what is known of it was kept, too.
    await install(installer, acme, globex, manifest=manifest, migrations=sql)
    assert await owner_db.postgres.fetchval(f"SELECT array_agg(id) FROM {kept}.x") == [7]
    await installer.uninstall("tickets", globex, drop=True)
    await installer.uninstall("tickets", acme, drop=True)
    assert await schemas(owner_db) == []
    role = role_name(await owner_db.postgres.fetchval("SELECT current_database()"), "tickets")
    assert await owner_db.postgres.fetch("SELECT FROM pg_roles WHERE rolname = $1", role) == []


async def test_the_last_one_to_leave_takes_nothing_of_who_kept_rows(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    manifest = tickets_manifest(models=tickets_manifest()["models"][:2])  # Without seeds.
    sql = {"0001_x.sql": "CREATE TABLE x (id int, organization_id uuid);"}
    await install(installer, acme, globex, manifest=manifest, migrations=sql)
    await insert_ticket(kernel_db, acme, "kept")
    await insert_ticket(kernel_db, globex, "theirs")
    await owner_db.postgres.execute("INSERT INTO addon_tickets.x VALUES (1, NULL), (2, $1), (3, $2)", acme, globex)
    await installer.uninstall("tickets", acme, drop=False)
    await installer.uninstall("tickets", globex, drop=True)
    assert await owner_db.postgres.fetchval("SELECT array_agg(title) FROM addon_tickets.tickets") == ["kept"]
    assert await owner_db.postgres.fetchval("SELECT array_agg(id ORDER BY id) FROM addon_tickets.x") == [1, 2]
    await install(installer, acme, manifest=manifest, migrations=sql)
    assert await titles(kernel_db, acme) == ["kept"]
    await installer.uninstall("tickets", acme, drop=True)
    assert await schemas(owner_db) == []


@pytest.mark.parametrize("isolation", ["shared", "schema"])
async def test_the_owner_of_an_addon_drops_what_was_kept_as_well(
    installer: Installer, owner_db: Database, isolation: str
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex, manifest=tickets_manifest(tenancy={"isolation": isolation}))
    await installer.uninstall("tickets", acme, drop=False)
    await installer.uninstall("tickets", globex, drop=True)
    assert len(await schemas(owner_db)) == 1
    await installer.remove("tickets", drop=True)
    assert await schemas(owner_db) == []
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_schemas") == 0


async def test_a_tenants_own_schema_is_closed_to_others_even_without_a_tenant_column(
    installer: Installer, owner_db: Database, kernel_db: Database
) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    model = {"key": "Note", "table": "notes", "org_scoped": False, "columns": [{"name": "body", "type": "text"}]}
    await install(installer, acme, manifest=tickets_manifest(tenancy={"isolation": "schema"}, models=[model]))
    table = f"addon_tickets_{acme.hex[:8]}.notes"

    async def bodies(organization: uuid.UUID) -> list[str]:
        async with kernel_db.postgres.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.current_org', $1, true)", str(organization))
            return [row["body"] for row in await connection.fetch(f"SELECT body FROM {table}")]

    await owner_db.postgres.execute(f"INSERT INTO {table} (body) VALUES ('ours')")
    assert await bodies(acme) == ["ours"]
    assert await bodies(globex) == []


async def test_removing_frees_the_key_and_leaves_nothing(installer: Installer, owner_db: Database) -> None:
    acme, globex = await make_organization(owner_db), await make_organization(owner_db, "Globex")
    await install(installer, acme, globex, migrations={"0001_x.sql": "CREATE TABLE x (id int, organization_id uuid);"})
    assert await installer.remove("tickets", drop=True) == 2
    assert await schemas(owner_db) == []
    for table in ("addons", "addon_models", "schemas", "installations", "addon_migrations", "journal", "bundles"):
        assert await owner_db.postgres.fetchval(f"SELECT count(*) FROM metacore_{table}") == 0, table
    role = role_name(await owner_db.postgres.fetchval("SELECT current_database()"), "tickets")
    assert await owner_db.postgres.fetch("SELECT rolname FROM pg_roles WHERE rolname = $1", role) == []
    assert await installer.remove("tickets", drop=True) == 2
    await install(installer, acme)


async def test_a_fenced_addon_says_why_until_it_is_trusted_again(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    await install(installer, acme)
    assert await installer.fence("tickets", "untrusted") == 2
    assert await installer.fence("tickets", "untrusted") == 2
    assert await owner_db.postgres.fetchval("SELECT fenced_reason FROM metacore_addons") == "untrusted"
    assert await installer.fence("tickets", "") == 3
    await installer.fence("tickets", "untrusted")
    assert (await install(installer, acme)).changed is True
    assert await owner_db.postgres.fetchval("SELECT fenced_reason FROM metacore_addons") == ""
    with pytest.raises(NotFound):
        await installer.fence("unknown", "x")


# -- being told


async def test_kernels_are_told_with_the_commit(
    installer: Installer, owner_db: Database, database_urls: DatabaseUrls
) -> None:
    acme = await make_organization(owner_db)
    heard: asyncio.Queue[str] = asyncio.Queue()
    listening = await asyncpg.connect(database_urls.kernel)
    try:
        await listening.add_listener("metacore_registry", lambda *call: heard.put_nowait(str(call[3])))
        await install(installer, acme)
        assert await asyncio.wait_for(heard.get(), 10) == "1"
        await installer.disable("tickets", acme)
        assert await asyncio.wait_for(heard.get(), 10) == "2"
    finally:
        await listening.close()


async def test_progress_names_every_step(installer: Installer, owner_db: Database) -> None:
    acme = await make_organization(owner_db)
    seen: list[str] = []
    planned = await installer.plan(read(tickets_manifest()), [acme])
    await install(installer, acme, progress=seen.append)
    assert seen == [step.name for step in planned.steps]
    journal = await owner_db.postgres.fetch("SELECT step, status FROM metacore_journal ORDER BY position")
    assert [row["step"] for row in journal] == seen[1:]
    assert {row["status"] for row in journal} == {"done"}


async def test_a_table_that_somebody_holds_is_waited_for_and_then_given_up(
    owner_db: Database, kernel_db: Database, database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metacore.installer.runner.LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr("metacore.installer.runner.TRIES", 2)
    installer = Installer(owner_db)
    acme = await make_organization(owner_db)
    await install(installer, acme)
    newer = tickets_manifest(version="1.1.0")
    newer["models"][0]["columns"].append({"name": "color", "type": "string"})
    holder = await asyncpg.connect(database_urls.owner)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE addon_tickets.tickets IN ACCESS SHARE MODE")
            with pytest.raises(Exception, match="lock timeout") as failure:
                await install(installer, acme, manifest=newer)
            assert type(failure.value).__name__ == "Unavailable"
    finally:
        await holder.close()
    assert (await install(installer, acme, manifest=newer)).version == "1.1.0"


async def test_two_installations_at_once_end_in_one_state(owner_db: Database, kernel_db: Database) -> None:
    acme = await make_organization(owner_db)
    results = await asyncio.gather(*(install(Installer(owner_db), acme) for _ in range(3)), return_exceptions=True)
    assert any(isinstance(result, InstallReport) for result in results)
    for result in results:
        assert isinstance(result, InstallReport | Conflict), result
    await install(Installer(owner_db), acme)
    await insert_ticket(kernel_db, acme)
    assert await owner_db.postgres.fetchval("SELECT count(*) FROM metacore_installations") == 1
