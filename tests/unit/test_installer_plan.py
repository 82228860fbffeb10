"""The plan of an installation as a pure function: what is missing, what is at risk, what is refused."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.tickets import read, tickets_manifest

from metacore.db.catalog import StoredColumn, StoredIndex, StoredTable
from metacore.errors import Conflict, KeyOwned, MigrationRefused, ModelConflict, NotFound, Refused
from metacore.installer import preflight
from metacore.installer.plan import Plan, build_plan, plan_for_empty
from metacore.installer.sql_migrations import judge
from metacore.installer.sql_names import Names
from metacore.installer.state import AddonRow, InstalledRow, OtherAddon, SchemaFacts, State
from metacore.installer.steps import RiskKind, StepKind
from metacore.manifest.model import Capability, Requirement

ORG = uuid.UUID("11111111-1111-4111-8111-111111111111")
OTHER = uuid.UUID("22222222-2222-4222-8222-222222222222")
SCHEMA = "addon_tickets"


def column(name: str, type: str, *, nullable: bool = True, default: str | None = None) -> StoredColumn:
    return StoredColumn(name, type, nullable=nullable, default=default)


def stored_tickets(*columns: StoredColumn, has_rows: bool = False, **changes: Any) -> StoredTable:
    """A table as an earlier version of the addon left it, protected, with these columns besides the kernel's."""
    kernel = (
        column("id", "uuid", nullable=False, default="gen_random_uuid()"),
        column("organization_id", "uuid", nullable=False),
        column("created_by_id", "uuid"),
        column("created_at", "timestamp with time zone", nullable=False, default="now()"),
        column("updated_at", "timestamp with time zone", nullable=False, default="now()"),
        column("deleted_at", "timestamp with time zone"),
    )
    table = StoredTable(
        SCHEMA,
        "tickets",
        {item.name: item for item in (*kernel, *columns)},
        policies=frozenset({"metacore_tenant", "metacore_owner"}),
        owner="owner",
        rls_enabled=True,
        rls_forced=True,
        has_rows=has_rows,
    )
    return replace(table, **changes)


def state(tables: Sequence[StoredTable] = (), **changes: Any) -> State:
    """A PostgreSQL that has the addon's schema with `tables`, installed for ORG in version 0.9.0."""
    facts = SchemaFacts(
        SCHEMA,
        exists=True,
        addon_key="tickets",
        owner="owner",
        tables={table.name: table for table in tables},
        granted=frozenset(table.name for table in tables),
    )
    found = State(
        server_version=180000,
        owner_role="owner",
        kernel_role="kernel",
        addon_role="mca_tickets",
        addon=AddonRow("tickets", digest="d" * 64, version="0.9.0"),
        installed={ORG: InstalledRow("0.9.0")},
        organizations=frozenset({ORG, OTHER}),
        schemas={SCHEMA: facts},
    )
    return replace(found, **changes)


def one_model(*columns: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    model = {"key": "Ticket", "table": "tickets", "soft_delete": True, "columns": list(columns), **changes}
    return tickets_manifest(models=[model])


def plan(
    manifest: Mapping[str, Any],
    found: State | None = None,
    migrations: Mapping[str, str] | None = None,
    organizations: Sequence[uuid.UUID] = (ORG,),
) -> Plan:
    bundle = read(manifest, migrations)
    found = state() if found is None else found
    facts = found.schema(SCHEMA)
    files = [file for file in bundle.migrations if file.version not in facts.applied]
    pending = {SCHEMA: judge(files, Names(tables=set(facts.tables)))} if files else {}
    return build_plan(bundle, pending, found, organizations)


def statements(made: Plan, *kinds: StepKind) -> list[str]:
    return [sql for step in made.steps if not kinds or step.kind in kinds for sql in step.statements]


TITLE = {"name": "title", "type": "string", "size": 100}
STORED_TITLE = column("title", "character varying(100)")
TABLE, INDEX, KEY = StepKind.TABLE, StepKind.INDEX, StepKind.FOREIGN_KEY


# -- everything is missing


def test_an_empty_database_gets_schema_tables_indexes_seeds_and_rows_in_this_order() -> None:
    made = plan_for_empty(read(tickets_manifest()), [ORG])
    kinds = [step.kind for step in made.steps]
    assert list(dict.fromkeys(kinds)) == [
        StepKind.CLAIM,
        StepKind.SCHEMA,
        StepKind.TABLE,
        StepKind.INDEX,
        StepKind.FOREIGN_KEY,
        StepKind.SEED,
        StepKind.INSTALL,
    ]
    assert [step.table for step in made.steps if step.kind is TABLE] == ["tickets", "ticket_comments", "ticket_kinds"]
    assert len({step.name for step in made.steps}) == len(made.steps)


def test_every_table_is_made_protected_and_granted_in_one_step() -> None:
    made = plan_for_empty(read(tickets_manifest()), [ORG])
    for step in made.steps:
        if step.kind is TABLE:
            text = "\n".join(step.statements)
            assert "FORCE ROW LEVEL SECURITY" in text
            assert "CREATE POLICY metacore_tenant" in text
            assert 'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE "addon_tickets"' in text


def test_every_model_has_the_index_of_its_lists_and_one_per_indexed_column() -> None:
    made = statements(plan_for_empty(read(tickets_manifest()), [ORG]), INDEX)
    assert any('("organization_id", "created_at" DESC, "id" DESC) WHERE "deleted_at" IS NULL' in sql for sql in made)
    assert any('"ticket_comments" USING btree ("organization_id", "created_at" DESC, "id" DESC)' in sql for sql in made)
    assert any('"tickets" USING btree ("organization_id", "status", "id")' in sql for sql in made)
    assert any('"ticket_comments" USING btree ("organization_id", "ticket_id", "id")' in sql for sql in made)
    assert any("UNIQUE" in sql and '"ticket_kinds" USING btree ("organization_id", "code")' in sql for sql in made)


def test_a_table_that_deletes_softly_has_a_full_index_on_its_organization() -> None:
    made = statements(plan_for_empty(read(one_model(TITLE)), [ORG]), INDEX)
    assert any('ON "addon_tickets"."tickets" USING btree ("organization_id")' in sql for sql in made)


def test_columns_that_a_table_view_declares_sortable_are_indexed_unless_they_may_be_long() -> None:
    model = {
        "table_name": "tickets",
        "model_key": "tickets",
        "columns": [
            {"name": "rank", "type": "int"},
            {"name": "body", "type": "text"},
            {"name": "long", "type": "string", "size": 2000},
            {"name": "plain", "type": "int"},
        ],
        "table": {
            "title": "Tickets",
            "columns": [
                {"key": key, "label": key, "type": "text", "sortable": True} for key in ("rank", "body", "long")
            ],
        },
    }
    manifest = {"key": "tickets", "name": "T", "version": "1.0.0", "kernel": ">=2.0.0", "model_definitions": [model]}
    made = statements(plan_for_empty(read(manifest), [ORG]), INDEX)
    assert any('"organization_id", "rank", "id"' in sql for sql in made)
    assert not any(f'"{name}"' in sql for sql in made for name in ("body", "long", "plain"))


def test_declared_indexes_begin_with_the_organization_and_unusable_ones_are_left_out() -> None:
    manifest = one_model(
        TITLE,
        {"name": "meta", "type": "jsonb"},
        indices=[
            {"name": "by_title", "columns": ["title", "created_at"]},
            {"name": "one_title", "columns": ["title"], "unique": True},
            {"name": "in_meta", "columns": ["meta"], "method": "gin"},
            {"name": "odd", "columns": ["title"], "method": "gin"},
        ],
    )
    made = plan_for_empty(read(manifest), [ORG])
    text = statements(made, INDEX)
    assert any('btree ("organization_id", "title", "created_at")' in sql for sql in text)
    assert any("UNIQUE" in sql and '("organization_id", "title") WHERE "deleted_at" IS NULL' in sql for sql in text)
    assert any('USING gin ("meta")' in sql for sql in text)
    assert any("index odd is left out" in note for note in made.notes)


def test_long_names_are_cut_and_stay_different() -> None:
    long = "a_rather_long_column_name_that_goes_on_and_on_and_on_for_ever"
    manifest = one_model(*({"name": f"{long}{number}", "type": "int", "index": True} for number in (1, 2)))
    names = [step.name.split(".")[1] for step in plan_for_empty(read(manifest), [ORG]).steps if step.kind is INDEX]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for name in names)


def test_generated_columns_are_computed_by_the_database() -> None:
    manifest = one_model(
        {"name": "net", "type": "decimal"}, {"name": "gross", "type": "decimal", "generated": "net * 1.19"}
    )
    sql = statements(plan_for_empty(read(manifest), [ORG]), TABLE)[0]
    assert 'gross NUMERIC(18, 4) GENERATED ALWAYS AS (("net" * 1.19)) STORED' in sql


# -- tenants with schemas of their own


def per_tenant(**model: Any) -> dict[str, Any]:
    manifest = one_model(TITLE, **model)
    manifest["tenancy"] = {"isolation": "schema"}
    return manifest


def test_each_tenant_gets_a_schema_named_by_its_id() -> None:
    made = plan_for_empty(read(per_tenant()), [ORG, OTHER])
    assert made.schemas == ("addon_tickets_11111111", "addon_tickets_22222222")
    assert [step.organization_id for step in made.steps if step.kind is StepKind.SCHEMA] == [ORG, OTHER]


def test_a_table_without_organization_in_a_tenants_schema_is_pinned_to_that_tenant() -> None:
    made = plan_for_empty(read(per_tenant(org_scoped=False)), [ORG])
    text = "\n".join(statements(made, TABLE))
    assert "organization_id" not in text
    assert f"= '{ORG}'::uuid) WITH CHECK" in text
    assert "FORCE ROW LEVEL SECURITY" in text


# -- what is there already


def test_nothing_is_planned_when_everything_is_there() -> None:
    bundle = read(one_model(TITLE))
    first = plan_for_empty(bundle, [ORG])
    indexes = {
        step.name.split(".")[1]: StoredIndex(step.name.split(".")[1], (), unique=False, valid=True)
        for step in first.steps
        if step.kind is INDEX
    }
    found = state(
        [stored_tickets(STORED_TITLE, indexes=indexes)],
        addon=AddonRow("tickets", digest=bundle.digest, version="1.0.0"),
        installed={ORG: InstalledRow("1.0.0")},
    )
    assert build_plan(bundle, {}, found, [ORG]).steps == ()


def test_a_missing_column_is_added_and_nothing_else_is_touched() -> None:
    made = plan(
        one_model(TITLE, {"name": "rank", "type": "int", "not_null": True, "default": 3}),
        state([stored_tickets(STORED_TITLE)]),
    )
    assert statements(made, TABLE) == [
        'ALTER TABLE "addon_tickets"."tickets" ADD COLUMN rank INTEGER DEFAULT 3 NOT NULL'
    ]
    assert made.risks == ()


def test_a_required_column_without_default_is_not_demanded_of_rows_that_are_there() -> None:
    manifest = one_model(TITLE, {"name": "rank", "type": "int", "not_null": True})
    made = plan(manifest, state([stored_tickets(STORED_TITLE, has_rows=True)]))
    assert statements(made, TABLE) == ['ALTER TABLE "addon_tickets"."tickets" ADD COLUMN rank INTEGER']
    assert [(risk.kind, risk.subject) for risk in made.risks] == [
        (RiskKind.NOT_ENFORCED, "addon_tickets.tickets.rank"),
    ]
    empty = plan(manifest, state([stored_tickets(STORED_TITLE)]))
    assert statements(empty, TABLE) == ['ALTER TABLE "addon_tickets"."tickets" ADD COLUMN rank INTEGER NOT NULL']


@pytest.mark.parametrize(
    ("stored", "declared", "expected"),
    [
        ("character varying(50)", {"type": "string", "size": 100}, "character varying(100)"),
        ("character varying(50)", {"type": "text"}, "text"),
        ("integer", {"type": "bigint"}, "bigint"),
    ],
)
def test_columns_are_widened_where_nothing_is_lost(stored: str, declared: Mapping[str, Any], expected: str) -> None:
    made = plan(one_model({"name": "field", **declared}), state([stored_tickets(column("field", stored))]))
    assert statements(made, TABLE) == [f'ALTER TABLE "addon_tickets"."tickets" ALTER COLUMN "field" TYPE {expected}']


@pytest.mark.parametrize(
    ("stored", "declared"),
    [
        ("character varying(200)", {"type": "string", "size": 100}),
        ("text", {"type": "string"}),
        ("timestamp without time zone", {"type": "timestamp"}),
        ("double precision", {"type": "decimal"}),
        ("json", {"type": "jsonb"}),
        ("bigint", {"type": "int"}),
        ("addon_tickets.status", {"type": "string"}),
    ],
)
def test_wider_or_kindred_types_of_migrations_are_kept(stored: str, declared: Mapping[str, Any]) -> None:
    made = plan(one_model({"name": "field", **declared}), state([stored_tickets(column("field", stored))]))
    assert statements(made, TABLE) == []


@pytest.mark.parametrize(
    ("stored", "declared"),
    [
        ("text", "int"),
        ("integer", "decimal"),
        ("numeric(18,4)", "int"),
        ("date", "timestamp"),
        ("boolean", "string"),
        ("text[]", "string"),
        ("uuid", "text"),
    ],
)
def test_a_type_that_would_lose_something_is_refused_with_both_types(stored: str, declared: str) -> None:
    with pytest.raises(Refused) as refusal:
        plan(one_model({"name": "field", "type": declared}), state([stored_tickets(column("field", stored))]))
    assert stored in refusal.value.message
    assert refusal.value.problems[0].field == "tickets.field"


def test_every_refusal_is_listed_not_only_the_first() -> None:
    manifest = one_model({"name": "a", "type": "int"}, {"name": "b", "type": "date"})
    with pytest.raises(Refused) as refusal:
        plan(manifest, state([stored_tickets(column("a", "text"), column("b", "text"))]))
    assert [problem.field for problem in refusal.value.problems] == ["tickets.a", "tickets.b"]


def test_a_column_that_nobody_declares_any_more_stays_and_is_no_longer_demanded() -> None:
    made = plan(one_model(TITLE), state([stored_tickets(STORED_TITLE, column("old", "integer", nullable=False))]))
    assert statements(made, TABLE) == ['ALTER TABLE "addon_tickets"."tickets" ALTER COLUMN "old" DROP NOT NULL']
    assert [(risk.kind, risk.subject) for risk in made.risks] == [(RiskKind.KEPT, "addon_tickets.tickets.old")]


def test_a_column_that_is_no_longer_required_is_relaxed() -> None:
    stored = column("title", "character varying(100)", nullable=False)
    made = plan(one_model(TITLE), state([stored_tickets(stored)]))
    assert statements(made, TABLE) == ['ALTER TABLE "addon_tickets"."tickets" ALTER COLUMN "title" DROP NOT NULL']


def test_a_table_that_lost_its_row_security_or_grants_gets_them_back() -> None:
    for change in ({"rls_forced": False}, {"rls_enabled": False}, {"policies": frozenset({"metacore_owner"})}):
        made = plan(one_model(TITLE), state([stored_tickets(STORED_TITLE, **change)]))
        assert any("FORCE ROW LEVEL SECURITY" in sql for sql in statements(made, StepKind.PROTECT)), change
    found = state([stored_tickets(STORED_TITLE)])
    bare = replace(found.schemas[SCHEMA], granted=frozenset())
    made = plan(one_model(TITLE), replace(found, schemas={SCHEMA: bare}))
    assert any("GRANT SELECT" in sql for sql in statements(made, StepKind.PROTECT))


# -- indexes of filled tables


def test_indexes_of_filled_tables_are_built_without_blocking_writes() -> None:
    made = plan(one_model(TITLE), state([stored_tickets(STORED_TITLE, has_rows=True)]))
    built = [step for step in made.steps if step.kind is INDEX]
    assert built
    assert all("CONCURRENTLY" in step.statements[0] and not step.transactional for step in built)


def test_a_broken_index_is_dropped_and_built_again() -> None:
    (step, *_) = [step for step in plan_for_empty(read(one_model(TITLE)), [ORG]).steps if step.kind is INDEX]
    name = step.name.split(".")[1]
    broken = {name: StoredIndex(name, (), unique=False, valid=False)}
    made = statements(plan(one_model(TITLE), state([stored_tickets(STORED_TITLE, indexes=broken)])), INDEX)
    assert made[0] == f'DROP INDEX IF EXISTS "addon_tickets"."{name}"'
    assert any(f'CREATE INDEX IF NOT EXISTS "{name}"' in sql for sql in made[1:])


def test_an_index_of_ours_that_nobody_declares_any_more_is_dropped_and_others_are_left_alone() -> None:
    indexes = {
        name: StoredIndex(name, ("title",), unique=False, valid=True) for name in ("mx_tickets_old_1234", "by_hand")
    }
    made = statements(plan(one_model(TITLE), state([stored_tickets(STORED_TITLE, indexes=indexes)])), INDEX)
    assert [sql for sql in made if sql.startswith("DROP")] == [
        'DROP INDEX IF EXISTS "addon_tickets"."mx_tickets_old_1234"'
    ]


def test_an_index_that_a_migration_made_is_not_made_twice() -> None:
    definition = "CREATE INDEX mine ON addon_tickets.tickets USING btree (organization_id, status, id)"
    mine = {"mine": StoredIndex("mine", ("organization_id", "status", "id"), False, True, definition)}
    status = {"name": "status", "type": "string", "size": 100, "index": True}
    stored = stored_tickets(column("status", "character varying(100)"), indexes=mine)
    made = statements(plan(one_model(status), state([stored])), INDEX)
    assert not any('"status"' in sql for sql in made)


# -- foreign keys


def test_a_row_can_point_only_at_rows_of_its_own_organization() -> None:
    made = plan_for_empty(read(tickets_manifest()), [ORG])
    (sql,) = statements(made, KEY)
    assert (
        'FOREIGN KEY ("organization_id", "ticket_id") REFERENCES "addon_tickets"."tickets" ("organization_id", "id")'
        in sql
    )
    assert any(
        "UNIQUE" in sql and '"tickets" USING btree ("organization_id", "id")' in sql for sql in statements(made, INDEX)
    )


def two_models(key: Mapping[str, Any], **target: Any) -> dict[str, Any]:
    return tickets_manifest(
        models=[
            {"key": "A", "table": "a_rows", "columns": [{"name": "code", "type": "string", "unique": True}], **target},
            {
                "key": "B",
                "table": "b_rows",
                "columns": [{"name": "a_id", "type": "uuid"}, {"name": "a_code", "type": "string"}],
                "foreign_keys": [key],
            },
        ]
    )


def test_set_null_leaves_the_organization_alone_where_the_server_can() -> None:
    manifest = two_models({"column": "a_id", "references": "a_rows(id)", "on_delete": "set null"})
    (sql,) = statements(plan_for_empty(read(manifest), [ORG]), KEY)
    assert sql.endswith('ON DELETE SET NULL ("a_id")')
    old = plan(manifest, state(server_version=140000, schemas={SCHEMA: SchemaFacts(SCHEMA)}))
    assert statements(old, KEY) == []
    assert any("needs PostgreSQL 15" in note for note in old.notes)


def test_a_key_may_point_at_a_unique_column_unless_deleted_rows_keep_their_values() -> None:
    key = {"column": "a_code", "references": "a_rows(code)"}
    (sql,) = statements(plan_for_empty(read(two_models(key)), [ORG]), KEY)
    assert 'REFERENCES "addon_tickets"."a_rows" ("organization_id", "code")' in sql
    soft = plan_for_empty(read(two_models(key, soft_delete=True)), [ORG])
    assert statements(soft, KEY) == []
    assert any("not unique over all rows" in note for note in soft.notes)


def test_a_key_on_a_filled_table_holds_from_now_on() -> None:
    comments = stored_tickets(
        column("ticket_id", "uuid"), column("body", "text"), name="ticket_comments", has_rows=True
    )
    made = plan(tickets_manifest(), state([comments]))
    (sql,) = statements(made, KEY)
    assert sql.endswith("NOT VALID")
    assert any(risk.subject == "addon_tickets.ticket_comments.ticket_id" for risk in made.risks)


# -- migrations


INIT = """
CREATE TABLE tickets (id bigserial PRIMARY KEY, title text, created_at timestamp DEFAULT now());
"""


def test_migrations_run_first_as_the_addons_own_role_and_tables_start_from_what_they_made() -> None:
    made = plan(
        one_model(TITLE),
        State(server_version=180000, owner_role="owner", addon_role="mca_tickets", organizations=frozenset({ORG})),
        {"0001_init.sql": INIT},
    )
    kinds = [step.kind for step in made.steps]
    assert kinds[:4] == [StepKind.CLAIM, StepKind.ROLE, StepKind.SCHEMA, StepKind.MIGRATION]
    (table,) = [step for step in made.steps if step.kind is TABLE]
    text = "\n".join(table.statements)
    assert "ADD COLUMN organization_id UUID NOT NULL" in text
    assert "ADD COLUMN updated_at" in text
    assert "deleted_at" in text
    assert "title" not in text
    assert "ADD COLUMN created_at" not in text
    assert '"owner", "mca_tickets"' in text


def test_what_migrations_take_away_is_told() -> None:
    found = state([stored_tickets(STORED_TITLE, column("old", "text"))])
    made = plan(one_model(TITLE), found, {"0001_drop.sql": "ALTER TABLE tickets DROP COLUMN old;"})
    assert [(risk.kind, risk.message) for risk in made.risks if risk.kind is RiskKind.DATA_LOSS] == [
        (RiskKind.DATA_LOSS, "migrations/0001_drop.sql:1 drops column tickets.old and its values")
    ]


def test_migrations_that_ran_are_not_planned_again() -> None:
    found = state([stored_tickets(STORED_TITLE)])
    done = replace(found.schemas[SCHEMA], applied={"0001": "x"})
    made = plan(one_model(TITLE), replace(found, schemas={SCHEMA: done}), {"0001_init.sql": INIT})
    assert not made.migrates


def test_an_addon_that_begins_to_bring_sql_hands_its_tables_to_its_role() -> None:
    made = plan(one_model(TITLE), state([stored_tickets(STORED_TITLE)]), {"0001_x.sql": "SELECT 1;"})
    (role,) = [step for step in made.steps if step.kind is StepKind.ROLE]
    assert 'ALTER SCHEMA "addon_tickets" OWNER TO "mca_tickets"' in role.statements
    assert 'ALTER TABLE "addon_tickets"."tickets" OWNER TO "mca_tickets"' in role.statements
    assert made.steps.index(role) < next(n for n, step in enumerate(made.steps) if step.kind is StepKind.MIGRATION)


def test_a_table_of_a_migration_without_organization_is_refused_in_a_shared_schema_only() -> None:
    sql = {"0001_x.sql": "CREATE TABLE kinds (id uuid PRIMARY KEY, name text);"}
    with pytest.raises(Refused, match="has no organization_id, and rows of all organizations share its schema"):
        plan(one_model(TITLE), None, sql)
    manifest = per_tenant()
    bundle = read(manifest, sql)
    schema = "addon_tickets_11111111"
    found = State(server_version=180000, owner_role="owner", addon_role="mca", organizations=frozenset({ORG}))
    made = build_plan(bundle, {schema: judge(bundle.migrations, Names())}, found, [ORG])
    assert any(f"= '{ORG}'::uuid" in sql for sql in statements(made, StepKind.PROTECT))


def test_a_tenant_column_of_another_type_is_refused() -> None:
    with pytest.raises(Refused, match="must be a uuid"):
        plan(one_model(TITLE), None, {"0001_x.sql": "CREATE TABLE kinds (id uuid, organization_id text);"})


def test_a_model_that_is_only_listed_takes_its_table_from_a_migration() -> None:
    manifest = {"key": "tickets", "name": "T", "version": "1.0.0", "kernel": ">=2.0.0", "models": ["tickets"]}
    with pytest.raises(Refused, match="only listed, and no migration makes it"):
        plan(manifest)
    made = plan(manifest, None, {"0001_init.sql": "CREATE TABLE tickets (id uuid PRIMARY KEY, organization_id uuid);"})
    assert [step.kind for step in made.steps if step.table == "tickets"] == [StepKind.PROTECT]


# -- seeds, capabilities, who is there


def test_seeds_come_with_a_new_organization_and_with_a_new_version() -> None:
    def seeds(found: State, *organizations: uuid.UUID) -> list[uuid.UUID | None]:
        made = build_plan(bundle, {}, found, organizations)
        return [step.organization_id for step in made.steps if step.kind is StepKind.SEED]

    bundle = read(tickets_manifest())
    same = state(
        addon=AddonRow("tickets", digest=bundle.digest, version="1.0.0"), installed={ORG: InstalledRow("1.0.0")}
    )
    assert seeds(same, ORG) == []
    assert seeds(same, ORG, OTHER) == [OTHER]
    assert seeds(state(), ORG, OTHER) == [ORG, OTHER]


def test_organizations_that_have_the_addon_are_upgraded_with_it() -> None:
    made = plan(one_model(TITLE), state([stored_tickets(STORED_TITLE)]), organizations=[OTHER])
    assert made.organizations == (OTHER,)
    assert made.upgraded == (ORG,)


def test_new_capabilities_are_told_from_granted_ones() -> None:
    manifest = tickets_manifest(
        capabilities=[
            {"kind": "event:emit", "target": "tickets.*"},
            {"kind": "http:fetch", "target": "api.example.com"},
        ]
    )
    addon = AddonRow(
        "tickets", version="0.9.0", grants=(Capability(kind="event:emit", target="tickets.*", reason="x"),)
    )
    made = plan(manifest, state(addon=addon))
    assert [capability.target for capability in made.new_capabilities] == ["api.example.com"]


# -- preflight


def check(found: State, manifest: Mapping[str, Any] | None = None, **options: Any) -> None:
    bundle = read(manifest or tickets_manifest(), options.pop("migrations", None))
    organizations = options.pop("organizations", [ORG])
    preflight.check(bundle.manifest, found, organizations, bundle.migrations, **{"owner_uid": "", **options})


def test_the_first_to_claim_a_key_keeps_it() -> None:
    claimed = state(addon=AddonRow("tickets", owner_uid="first", digest="d", version="1.0.0"))
    check(claimed, owner_uid="first")
    for other in ("second", ""):
        with pytest.raises(KeyOwned):
            check(claimed, owner_uid=other)
    abandoned = state(addon=AddonRow("tickets", owner_uid="first"), installed={})
    check(abandoned, owner_uid="second")


def test_models_and_tables_are_unique_over_addons_host_and_kernel() -> None:
    for found in (
        state(models={"Ticket": "desk"}),
        replace(state(), tables={"tickets": "desk"}),
        state(host=frozenset({"Ticket"})),
        state(host=frozenset({"tickets"})),
    ):
        with pytest.raises(ModelConflict):
            check(found)
    with pytest.raises(ModelConflict, match="name of a table of the kernel"):
        check(state(), tickets_manifest(models=[{"key": "User", "table": "users", "columns": []}]))


def test_going_back_needs_permission() -> None:
    newer = state(addon=AddonRow("tickets", digest="d", version="1.10.0"))
    with pytest.raises(Refused, match=r"installed in version 1\.10\.0"):
        check(newer)
    check(newer, allow_downgrade=True)
    check(state(addon=AddonRow("tickets", digest="d", version="1.0.0")))


def test_required_addons_must_be_there_in_a_fitting_version_for_these_organizations() -> None:
    manifest = tickets_manifest()
    manifest["compatibility"]["requires"].append({"key": "crm", "version": ">=2.0.0"})
    with pytest.raises(Refused, match=r"'crm' >=2\.0\.0, which is not installed"):
        check(state(), manifest)
    with pytest.raises(Refused, match=r"version 1\.5\.0 is installed"):
        check(state(others={"crm": OtherAddon("crm", "1.5.0", frozenset({ORG}))}), manifest)
    with pytest.raises(Refused, match=f"organization {ORG} does not have"):
        check(state(others={"crm": OtherAddon("crm", "2.1.0", frozenset({OTHER}))}), manifest)
    check(state(others={"crm": OtherAddon("crm", "2.1.0", frozenset({ORG}))}), manifest)
    manifest["compatibility"]["requires"][-1]["optional"] = True
    check(state(), manifest)


def test_what_others_require_is_kept() -> None:
    needs = OtherAddon("crm", "1.0.0", frozenset({ORG}), (Requirement(key="tickets", version="<1.0.0"),))
    found = state(others={"crm": needs})
    with pytest.raises(Refused, match="'crm' requires 'tickets' <1"):
        check(found)
    with pytest.raises(Conflict, match="'crm' requires 'tickets'"):
        preflight.check_removable("tickets", found, [ORG])
    preflight.check_removable("tickets", found, [OTHER])


def test_unknown_organizations_are_refused() -> None:
    with pytest.raises(NotFound, match="there is no organization"):
        check(state(), organizations=[uuid.uuid4()])


def test_a_schema_of_somebody_else_is_never_taken() -> None:
    for facts in (
        SchemaFacts(SCHEMA, exists=True),
        SchemaFacts(SCHEMA, exists=True, addon_key="other"),
        SchemaFacts(SCHEMA, addon_key="other"),
    ):
        with pytest.raises(Conflict) as refusal:
            check(state(schemas={SCHEMA: facts}))
        assert refusal.value.code == "schema_taken"
    name = "addon_tickets_11111111"
    taken = SchemaFacts(name, exists=True, addon_key="tickets", organization_id=OTHER)
    with pytest.raises(Conflict, match=f"belongs to organization {OTHER}"):
        check(state(schemas={name: taken}), per_tenant())


def test_the_tenant_isolation_of_an_addon_cannot_change() -> None:
    with pytest.raises(Conflict, match="tenant isolation cannot change"):
        check(state(), per_tenant())


def test_a_migration_that_changed_after_it_ran_is_refused() -> None:
    found = state()
    done = replace(found.schemas[SCHEMA], applied={"0001": "another checksum"})
    with pytest.raises(MigrationRefused, match=r"0001_x\.sql changed after it ran") as refusal:
        check(replace(found, schemas={SCHEMA: done}), migrations={"0001_x.sql": "SELECT 1;"})
    assert refusal.value.code == "migration_changed"


def test_an_addon_for_another_kernel_is_refused() -> None:
    manifest = tickets_manifest()
    manifest["compatibility"]["requires"][0]["version"] = ">=9.0.0"
    with pytest.raises(Refused) as refusal:
        check(state(), manifest)
    assert refusal.value.code == "kernel_version"


def test_sqlite_takes_declared_models_only() -> None:
    sqlite = State(dialect="sqlite", organizations=frozenset({ORG}))
    check(sqlite)
    with pytest.raises(Refused, match="brings SQL migrations"):
        check(sqlite, migrations={"0001_x.sql": "SELECT 1;"})
    with pytest.raises(Refused, match="schema per tenant"):
        check(sqlite, per_tenant())
    bundle = read(tickets_manifest())
    made = build_plan(bundle, {}, sqlite, [ORG])
    assert next(step.table for step in made.steps if step.kind is TABLE) == "addon_tickets__tickets"
    assert not any("POLICY" in sql or "SCHEMA" in sql for sql in statements(made))
