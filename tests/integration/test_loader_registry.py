"""What is installed in the database becomes what a kernel serves; what cannot be loaded stands aside and says why."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from nacl.signing import SigningKey
from tests.factories import make_organization
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.addons.live_models import ModelReader
from metacore.addons.loader import Loader
from metacore.bundle.signature import TrustedKeys
from metacore.db.database import Database
from metacore.errors import Fenced, NotFound
from metacore.ids import OrganizationId
from metacore.installer.execute import Installer, InstallReport
from metacore.manifest.model import Isolation
from metacore.metrics import Metrics
from metacore.registry import LiveModel, Registry

Columns = list[dict[str, Any]]


def one_model(key: str, model: str, table: str, columns: Columns | None = None, version: str = "1.0.0") -> bytes:
    """A bundle of an addon with one model."""
    columns = columns or [{"name": "title", "type": "string", "not_null": True}]
    models = [{"key": model, "table": table, "columns": columns}]
    return make_bundle(tickets_manifest(key=key, version=version, models=models, settings=None, capabilities=None))


async def install(owner_db: Database, content: bytes, *organizations: uuid.UUID, **more: Any) -> InstallReport:
    return await Installer(owner_db).install(*signed(content), trusted=TRUSTED, organizations=organizations, **more)


@pytest.fixture
async def acme(owner_db: Database) -> OrganizationId:
    return await make_organization(owner_db, "Acme")


@pytest.fixture
async def other(owner_db: Database) -> OrganizationId:
    return await make_organization(owner_db, "Other")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def loader(kernel_db: Database, registry: Registry) -> Loader:
    return Loader(kernel_db, registry, trusted=TRUSTED)


async def touch(owner_db: Database) -> None:
    """Another change of the registry, that has nothing to do with what was loaded."""
    await owner_db.postgres.execute("UPDATE metacore_registry SET revision = revision + 1")


async def test_an_empty_database_is_loaded_too(loader: Loader, registry: Registry) -> None:
    assert await loader.load() == 0
    assert registry.loaded and registry.snapshot.models == {}
    assert not loader.unsettled


async def test_models_of_an_installed_addon_are_served_under_key_and_table(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    report = await install(owner_db, make_bundle(tickets_manifest()), acme)
    assert await loader.load() == report.revision == loader.revision
    model = registry.model_for("Ticket", acme)
    assert registry.model_for("tickets", acme) is model
    assert (model.addon_key, model.schema, model.table_name) == ("tickets", "addon_tickets", "tickets")
    assert {"id", "organization_id", "title", "amount", "deleted_at"} <= model.stored.keys()
    assert model.stored["amount"].type == "numeric(18,4)"
    assert "title" in [column.key for column in model.table.columns]
    assert "title" in [field.key for field in model.modal.fields]
    assert set(registry.models_of(acme)) == {"Ticket", "Comment", "TicketKind"}
    addon = registry.snapshot.addons["tickets"]
    assert (addon.version, addon.digest, addon.error) == ("1.0.0", report.digest, "")
    assert [grant.target for grant in addon.grants] == ["tickets.*"]
    assert loader.status() == {"tickets": {"digest": report.digest, "error": ""}}


async def test_an_organization_without_the_addon_sees_nothing_of_it(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId, other: OrganizationId
) -> None:
    await install(owner_db, make_bundle(tickets_manifest()), acme)
    await loader.load()
    with pytest.raises(NotFound):
        registry.model_for("Ticket", other)


async def test_disabling_and_uninstalling_take_effect_per_organization(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId, other: OrganizationId
) -> None:
    await install(owner_db, make_bundle(tickets_manifest()), acme, other)
    await Installer(owner_db).disable("tickets", acme)
    await loader.load()
    with pytest.raises(NotFound):
        registry.model_for("Ticket", acme)
    assert registry.model_for("Ticket", other)
    await Installer(owner_db).enable("tickets", acme)
    await Installer(owner_db).uninstall("tickets", other, drop=False)
    await loader.load()
    assert registry.model_for("Ticket", acme)
    with pytest.raises(NotFound):
        registry.model_for("Ticket", other)


async def test_a_removed_addon_is_gone(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, make_bundle(tickets_manifest()), acme)
    await loader.load()
    await Installer(owner_db).remove("tickets", drop=True)
    await loader.load()
    assert registry.snapshot.addons == {} and registry.snapshot.models == {}
    assert loader.status() == {}


async def test_a_fenced_addon_answers_so(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, make_bundle(tickets_manifest()), acme)
    await Installer(owner_db).fence("tickets", "untrusted")
    await loader.load()
    with pytest.raises(Fenced):
        registry.model_for("Ticket", acme)
    await Installer(owner_db).fence("tickets", "")
    await loader.load()
    assert registry.model_for("Ticket", acme)


async def test_what_did_not_change_is_not_loaded_again(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, one_model("shop", "Order", "orders"), acme)
    await loader.load()
    before = registry.snapshot.addons["shop"]
    await install(owner_db, one_model("desk", "Desk", "desks"), acme)
    await loader.load()
    assert registry.snapshot.addons["shop"] is before
    assert set(registry.models_of(acme)) == {"Order", "Desk"}


async def test_a_model_gets_a_new_revision_only_when_its_shape_changes(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    columns: Columns = [{"name": "title", "type": "string"}]
    await install(owner_db, one_model("shop", "Order", "orders", columns), acme)
    await loader.load()
    first = registry.model_for("Order", acme)
    await install(owner_db, one_model("shop", "Order", "orders", columns, version="1.0.1"), acme)
    await loader.load()
    assert registry.snapshot.addons["shop"].version == "1.0.1"
    assert registry.model_for("Order", acme).revision == first.revision
    wider = [*columns, {"name": "note", "type": "text"}]
    await install(owner_db, one_model("shop", "Order", "orders", wider, version="1.1.0"), acme)
    await loader.load()
    assert registry.model_for("Order", acme).revision > first.revision
    assert "note" in registry.model_for("Order", acme).stored


async def test_a_bundle_that_is_not_what_it_was_is_quarantined_and_the_rest_serves(
    owner_db: Database, kernel_db: Database, registry: Registry, acme: OrganizationId
) -> None:
    metrics = Metrics(process=False)
    loader = Loader(kernel_db, registry, trusted=TRUSTED, metrics=metrics)
    report = await install(owner_db, one_model("shop", "Order", "orders"), acme)
    await install(owner_db, one_model("desk", "Desk", "desks"), acme)
    await owner_db.postgres.execute(
        "UPDATE metacore_bundles SET content = set_byte(content, 40, get_byte(content, 40) # 1)"
        " WHERE addon_key = 'shop'"
    )
    await loader.load()
    with pytest.raises(NotFound):
        registry.model_for("Order", acme)
    assert registry.model_for("Desk", acme)
    status = loader.status()
    assert status["shop"]["digest"] == report.digest
    assert "is not the one with digest" in status["shop"]["error"]
    assert status["desk"]["error"] == ""
    text = metrics.render()
    assert b"metacore_addons_quarantined 1.0" in text and b"metacore_addons_loaded 1.0" in text


async def test_a_quarantined_addon_stays_so_when_something_else_changes(
    owner_db: Database, kernel_db: Database, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, one_model("shop", "Order", "orders"), acme)
    stranger = TrustedKeys((bytes(SigningKey(b"another key that nobody uses ...").verify_key),))
    loader = Loader(kernel_db, registry, trusted=stranger)
    for _ in range(3):
        await loader.load()
        assert "no trusted key" in loader.status()["shop"]["error"]
        await touch(owner_db)


async def test_a_mended_bundle_comes_out_of_quarantine(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, one_model("shop", "Order", "orders"), acme)
    good = await owner_db.postgres.fetchval("SELECT content FROM metacore_bundles")
    await owner_db.postgres.execute("UPDATE metacore_bundles SET content = 'broken'")
    await loader.load()
    assert loader.status()["shop"]["error"]
    await owner_db.postgres.execute("UPDATE metacore_bundles SET content = $1", good)
    await touch(owner_db)
    await loader.load()
    assert loader.status()["shop"]["error"] == ""
    assert registry.model_for("Order", acme)


async def test_a_table_that_is_gone_quarantines_its_addon(
    owner_db: Database, loader: Loader, acme: OrganizationId
) -> None:
    await install(owner_db, one_model("shop", "Order", "orders"), acme)
    await owner_db.postgres.execute("DROP TABLE addon_shop.orders")
    await loader.load()
    assert loader.status()["shop"]["error"] == "model 'Order': the table 'orders' is not in the database"


async def test_a_model_name_that_the_host_serves_quarantines_the_addon(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, one_model("shop", "Order", "orders"), acme)
    await loader.load()
    theirs = registry.model_for("Order", acme)
    clashing = Registry()
    clashing.set_host_model(
        LiveModel(
            key="Order",
            addon_key="kernel",
            definition=theirs.definition,
            table_name="host_orders",
            schema="",
            isolation=Isolation.SHARED,
            stored=theirs.stored,
            table=theirs.table,
            modal=theirs.modal,
            revision=1,
        )
    )
    second = Loader(loader._database, clashing, trusted=TRUSTED)
    await second.load()
    assert second.status()["shop"]["error"] == "model 'Order' is served by 'kernel' already"
    assert clashing.model_for("Order", acme).table_name == "host_orders"


async def test_a_failure_that_passes_is_tried_again_without_a_change(
    owner_db: Database,
    loader: Loader,
    registry: Registry,
    acme: OrganizationId,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await install(owner_db, one_model("shop", "Order", "orders"), acme)

    async def away(*_: Any) -> Any:
        raise ConnectionResetError("connection of kernel:hunter2 reset")

    with monkeypatch.context() as patched:
        patched.setattr(ModelReader, "read", away)
        await loader.load()
    assert loader.status()["shop"]["error"] == "could not be loaded: ConnectionResetError"
    assert loader.unsettled
    await loader.load()
    assert registry.model_for("Order", acme)
    assert not loader.unsettled


async def test_a_listed_model_takes_its_columns_from_the_table_that_a_migration_made(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    manifest = {"key": "legacy", "name": "Legacy", "version": "1.0.0", "kernel": ">=2.0.0 <3.0.0", "models": ["notes"]}
    migration = (
        "CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id uuid NOT NULL,"
        " body text NOT NULL, stars integer, created_at timestamp DEFAULT now(), deleted_at timestamptz);"
    )
    await install(owner_db, make_bundle(manifest, {"0001_init.sql": migration}), acme)
    await loader.load()
    model = registry.model_for("notes", acme)
    assert not model.definition.declared
    assert [column.name for column in model.definition.columns] == ["body", "stars"]
    assert model.definition.column("body") is not None and model.definition.columns[0].required
    assert model.definition.soft_delete
    assert [field.key for field in model.modal.fields] == ["body", "stars"]


async def test_each_tenant_of_an_isolated_addon_has_its_own_schema(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId, other: OrganizationId
) -> None:
    manifest = tickets_manifest(tenancy={"isolation": "schema"})
    await install(owner_db, make_bundle(manifest), acme, other)
    await loader.load()
    model = registry.model_for("Ticket", other)
    assert model.schema_of(acme) == f"addon_tickets_{acme.hex[:8]}"
    assert model.schema_of(other) == f"addon_tickets_{other.hex[:8]}"
    assert "title" in model.stored


async def test_loading_twice_changes_nothing(
    owner_db: Database, loader: Loader, registry: Registry, acme: OrganizationId
) -> None:
    await install(owner_db, make_bundle(tickets_manifest()), acme)
    await loader.load()
    snapshot = registry.snapshot
    await loader.load()
    assert registry.snapshot is snapshot


async def test_declarative_addons_are_served_on_sqlite(sqlite_db: Database, registry: Registry) -> None:
    acme = await make_organization(sqlite_db, "Acme")
    await Installer(sqlite_db).install(*signed(make_bundle(tickets_manifest())), trusted=TRUSTED, organizations=[acme])
    loader = Loader(sqlite_db, registry, trusted=TRUSTED)
    await loader.load()
    model = registry.model_for("Ticket", acme)
    assert (model.schema, model.table_name) == ("", "addon_tickets__tickets")
    assert registry.model_for("tickets", acme) is model
    assert "title" in model.stored
