"""SQL that a guest could try: for `db_query` and for `db_exec`, each with a word that its refusal must name.

The guest is of the addon `notes` (see `tests.guest_world`), which has the tables notes, accounts and days.
"""

from __future__ import annotations

HOSTILE_QUERIES: dict[str, tuple[str, str]] = {
    "two statements": ("SELECT 1; SELECT 2", "2 statements"),
    "a second statement behind a comment": ("SELECT 1 /* */; DROP TABLE notes --", "2 statements"),
    "nothing": ("  -- nothing", "nothing"),
    "an empty text": ("", "nothing"),
    "half a statement": ("SELECT FROM WHERE", "syntax error"),
    "a NUL character": ("SELECT 1\x00; DROP TABLE notes", "NUL"),
    "leaving the parenthesis": ("SELECT 1) x; DELETE FROM notes; SELECT * FROM (SELECT 2", "syntax error"),
    "leaving the parenthesis by a comment": ("SELECT 1 /* ", "unterminated"),
    "set role": ("SET ROLE metacore_owner", "SET"),
    "reset role": ("RESET ROLE", "SET"),
    "set config": ("SELECT set_config('app.current_org', 'x', true)", "set_config"),
    "set config, qualified": ("SELECT pg_catalog.set_config('app.current_org', 'x', true)", "set_config"),
    "set config, quoted": ("SELECT \"pg_catalog\".\"set_config\"('role', 'none', true)", "set_config"),
    "set config, unicode escapes": ("SELECT U&\"s\\0065t_config\"('role', 'none', true)", "set_config"),
    "current setting": ("SELECT current_setting('app.current_org')", "current_setting"),
    "transaction": ("COMMIT", "transaction"),
    "do": ("DO $$ BEGIN PERFORM 1; END $$", "DO"),
    "call": ("CALL something()", "CALL"),
    "copy": ("COPY notes TO PROGRAM 'id'", "COPY"),
    "copy of a query": ("COPY (SELECT 1) TO '/tmp/x'", "COPY"),
    "explain": ("EXPLAIN ANALYZE DELETE FROM notes", "EXPLAIN"),
    "prepare": ("PREPARE x AS SELECT 1", "PREPARE"),
    "listen": ("LISTEN metacore_registry", "LISTEN"),
    "table": ("CREATE TABLE x (a int)", "CREATE TABLE"),
    "temporary table": ("CREATE TEMP TABLE users AS SELECT 1", "CREATE TABLE"),
    "select into": ("SELECT * INTO copy FROM notes", "SELECT INTO"),
    "insert": ("INSERT INTO notes (title) VALUES ('x')", "INSERT"),
    "a change in a CTE": ("WITH x AS (DELETE FROM notes RETURNING *) SELECT * FROM x", "DELETE"),
    "a change in a nested CTE": (
        "WITH a AS (WITH b AS (UPDATE notes SET rank = 1 RETURNING *) SELECT * FROM b) SELECT * FROM a",
        "UPDATE",
    ),
    "a change in a CTE of a subquery": (
        "SELECT * FROM (WITH x AS (INSERT INTO notes (title) VALUES ('x') RETURNING id) SELECT * FROM x) y",
        "INSERT",
    ),
    "row lock": ("SELECT * FROM notes FOR UPDATE", "FOR UPDATE"),
    "row lock in a subquery": ("SELECT * FROM (SELECT * FROM notes FOR SHARE) x", "FOR UPDATE"),
    "nextval": ("SELECT nextval('days_n_seq')", "nextval"),
    "setval": ("SELECT setval('days_n_seq', 1)", "setval"),
    "currval of others": ("SELECT currval('addon_orders.x')", "currval"),
    "read file": ("SELECT pg_read_file('/etc/passwd')", "pg_read_file"),
    "read binary file": ("SELECT pg_catalog.pg_read_binary_file('x')", "pg_read_binary_file"),
    "list files": ("SELECT * FROM pg_ls_dir('/')", "pg_ls_dir"),
    "large object": ("SELECT lo_import('/etc/passwd')", "lo_import"),
    "large object, read": ("SELECT lo_get(1)", "lo_get"),
    "large object, export": ("SELECT lo_export(1, '/tmp/x')", "lo_export"),
    "a call written as a field of a value": ("SELECT ('SELECT 1'::text).ts_stat", "ts_stat"),
    "a call written as a field of an argument": ("SELECT $1.pg_sleep", "pg_sleep"),
    "a call written as a field of a field": ("SELECT (n.title).ts_stat FROM notes n", "ts_stat"),
    "a call written as a field of an element": ("SELECT (ARRAY['SELECT 1'])[1].ts_stat", "ts_stat"),
    "a lock written as a field": ("SELECT (1::int8).pg_advisory_lock", "pg_advisory_lock"),
    "a setting written as a field": ("SELECT ('app.current_org'::text).current_setting", "current_setting"),
    "a call written as a column of a function": ("SELECT q.ts_stat FROM unnest(ARRAY['SELECT 1']) q", "ts_stat"),
    "a call written as a column of a function without alias": (
        "SELECT unnest.ts_stat FROM unnest(ARRAY['SELECT 1'])",
        "ts_stat",
    ),
    "a call written as a column of an expression in FROM": (
        "SELECT q.ts_stat FROM coalesce('SELECT 1', '') q",
        "ts_stat",
    ),
    "a call written as an alias whose column has another name": (
        "SELECT ts_stat.ts_stat FROM json_array_elements_text('[\"SELECT 1\"]') AS ts_stat",
        "ts_stat",
    ),
    "a call written as an alias whose column was named": (
        "SELECT ts_stat.ts_stat FROM unnest(ARRAY['SELECT 1']) AS ts_stat(x)",
        "ts_stat",
    ),
    "a call written as a column that another use of the alias has": (
        "SELECT q.ts_stat, (SELECT q.ts_stat FROM unnest(ARRAY[1]) q(ts_stat)) FROM unnest(ARRAY['SELECT 1']) q",
        "ts_stat",
    ),
    "a call written as a column, in a subquery": (
        "SELECT 1 FROM notes WHERE EXISTS (SELECT q.ts_stat FROM unnest(ARRAY['SELECT 1']) q)",
        "ts_stat",
    ),
    "dblink": ("SELECT * FROM dblink('host=evil', 'SELECT 1') AS x(a int)", "dblink"),
    "sleep": ("SELECT pg_sleep(60)", "pg_sleep"),
    "sleep in a where": ("SELECT 1 FROM notes WHERE pg_sleep(60) IS NULL", "pg_sleep"),
    "sleep in an order": ("SELECT title FROM notes ORDER BY pg_sleep(60)", "pg_sleep"),
    "sleep in a limit": ("SELECT title FROM notes LIMIT (SELECT 1 FROM pg_sleep(60))", "pg_sleep"),
    "sleep in a window": ("SELECT count(*) OVER (PARTITION BY pg_sleep(60)) FROM notes", "pg_sleep"),
    "sleep in a filter": ("SELECT count(*) FILTER (WHERE pg_sleep(1) IS NULL) FROM notes", "pg_sleep"),
    "sleep in a case": ("SELECT CASE WHEN true THEN pg_sleep(1)::text END", "pg_sleep"),
    "sleep in an array": ("SELECT ARRAY[pg_sleep(1)]", "pg_sleep"),
    "sleep in values": ("VALUES (pg_sleep(1))", "pg_sleep"),
    "sleep in rows from": ("SELECT * FROM ROWS FROM (generate_series(1, 2), pg_sleep(1))", "pg_sleep"),
    "advisory lock": ("SELECT pg_advisory_lock(1)", "pg_advisory_lock"),
    "advisory lock of an installation": (
        "SELECT pg_advisory_xact_lock(hashtextextended('metacore addon notes', 0))",
        "pg_advisory_xact_lock",
    ),
    "notify": ("SELECT pg_notify('metacore_registry', '1')", "pg_notify"),
    "terminate": ("SELECT pg_terminate_backend(pid) FROM generate_series(1, 9) pid", "pg_terminate_backend"),
    "reload": ("SELECT pg_reload_conf()", "pg_reload_conf"),
    "query to xml": ("SELECT query_to_xml('SELECT * FROM users', true, true, '')", "query_to_xml"),
    "table to xml": ("SELECT table_to_xml('users', true, true, '')", "table_to_xml"),
    "database to xml": ("SELECT database_to_xml(true, true, '')", "database_to_xml"),
    "cursor to xml": ("SELECT cursor_to_xml('x', 1, true, true, '')", "cursor_to_xml"),
    "xml": ("SELECT xmlelement(name x, 'y')", "XmlExpr"),
    "xml table": ("SELECT * FROM xmltable('/x' PASSING '<x/>' COLUMNS a int)", "RangeTableFunc"),
    "ts_stat, which runs text": ("SELECT * FROM ts_stat('SELECT password_hash FROM users')", "ts_stat"),
    "ts_rewrite, which runs text": ("SELECT ts_rewrite('a'::tsquery, 'SELECT 1')", "ts_rewrite"),
    "view definition": ("SELECT pg_get_viewdef('x')", "pg_get_viewdef"),
    "privilege": ("SELECT has_table_privilege('users', 'SELECT')", "has_table_privilege"),
    "type of": ("SELECT pg_typeof(1)", "pg_typeof"),
    "definer of the kernel": ("SELECT metacore_login('ada@example.com')", "metacore_login"),
    "definer of the kernel, qualified": ("SELECT * FROM public.metacore_installed()", "metacore_installed"),
    "definer of the kernel in a join": (
        "SELECT * FROM notes, LATERAL metacore_refresh(notes.title) AS x",
        "metacore_refresh",
    ),
    "function of another addon": ("SELECT addon_orders.f(1)", "addon_orders.f"),
    "own function, qualified": ("SELECT addon_notes.doubled(1)", "addon_notes.doubled"),
    "system function of a composite": ("SELECT pg_relation_size('users')", "pg_relation_size"),
    "current user": ("SELECT CURRENT_USER", "CURRENT_USER"),
    "session user": ("SELECT SESSION_USER", "SESSION_USER"),
    "current schema": ("SELECT current_schema", "CURRENT_SCHEMA"),
    "cast to regclass": ("SELECT 'users'::regclass", "regclass"),
    "cast to regclass, qualified": ("SELECT 'users'::pg_catalog.regclass::oid", "regclass"),
    "cast to regclass, typed literal": ("SELECT regclass 'users'", "regclass"),
    "cast to regproc": ("SELECT CAST('now' AS regproc)", "regproc"),
    "cast to regrole": ("SELECT 10::regrole", "regrole"),
    "cast to an array of regclass": ("SELECT '{users}'::regclass[]", "regclass"),
    "cast to oid": ("SELECT 1::oid", "oid"),
    "cast to aclitem": ("SELECT '=r/postgres'::aclitem", "aclitem"),
    "cast to a kernel's row": ("SELECT NULL::users", "users"),
    "cast to another addon's row": ("SELECT NULL::addon_orders.invoices", "addon_orders.invoices"),
    "cast by another column's type": ("SELECT * FROM json_to_record('{}') AS x(a users)", "users"),
    "operator by schema": ("SELECT 1 OPERATOR(addon_orders.+) 2", "addon_orders.+"),
    "collation by schema": ('SELECT title COLLATE pg_catalog."C" FROM notes', "pg_catalog.C"),
    "sample": ("SELECT * FROM notes TABLESAMPLE system(1)", "RangeTableSample"),
    "catalog": ("SELECT * FROM pg_class", "pg_class"),
    "catalog, qualified": ("SELECT * FROM pg_catalog.pg_authid", "pg_catalog.pg_authid"),
    "catalog in a CTE": ("WITH x AS (SELECT * FROM pg_roles) SELECT * FROM x", "pg_roles"),
    "catalog in a sublink": ("SELECT (SELECT rolname FROM pg_authid LIMIT 1) FROM notes", "pg_authid"),
    "catalog, settings": ("SELECT * FROM pg_settings", "pg_settings"),
    "information schema": ("SELECT * FROM information_schema.tables", "information_schema.tables"),
    "toast": ("SELECT * FROM pg_toast.pg_toast_1", "pg_toast.pg_toast_1"),
    "kernel table": ("SELECT * FROM organizations", "organizations"),
    "kernel table, qualified": ("SELECT * FROM public.metacore_bundles", "metacore_bundles"),
    "kernel table, with its secret": ("SELECT secret_enc FROM metacore_installations", "metacore_installations"),
    "kernel table, unicode escapes": ('SELECT * FROM U&"p\\0075blic"."auth_sessions"', "auth_sessions"),
    "kernel table in a lateral subquery": (
        "SELECT * FROM notes, LATERAL (SELECT * FROM auth_sessions) s",
        "auth_sessions",
    ),
    "kernel table in an exists": ("SELECT 1 WHERE EXISTS (SELECT FROM auth_refresh_tokens)", "auth_refresh_tokens"),
    "kernel table in a set operation": (
        "SELECT title FROM notes UNION SELECT name FROM organizations",
        "organizations",
    ),
    "kernel table in an array": ("SELECT ARRAY(SELECT name FROM organizations)", "organizations"),
    "kernel table in an order": ("SELECT 1 ORDER BY (SELECT 1 FROM permission_role_grants)", "permission_role_grants"),
    "kernel table behind a CTE of its name": (
        "WITH a AS (SELECT * FROM organizations), organizations AS (SELECT 1) SELECT * FROM a",
        "organizations",
    ),
    "kernel table outside of the CTE's scope": (
        "SELECT (WITH organizations AS (SELECT 1) SELECT count(*) FROM organizations), name FROM organizations",
        "organizations",
    ),
    "users without a grant": ("SELECT email FROM users", "users"),
    "users without a grant, qualified": ("SELECT email FROM public.users", "users"),
    "by database": ("SELECT * FROM metacore.public.users", "metacore.public.users"),
    "schema of migrations": ("SELECT * FROM metacore_marks.notes", "metacore_marks.notes"),
    "unknown table": ("SELECT * FROM nothing", "nothing"),
    "unknown schema": ("SELECT * FROM elsewhere.notes", "elsewhere.notes"),
    "unknown addon": ("SELECT * FROM addon_nobody.notes", "addon_nobody"),
    "schema in a column": ("SELECT addon_orders.invoices.total FROM notes", "schemas are not allowed"),
    "own secret column": ("SELECT password FROM accounts", "accounts.password"),
    "own secret column, qualified": ("SELECT a.password FROM accounts a", "accounts.password"),
    "own secret column in a where": ("SELECT login FROM accounts WHERE password LIKE 'a%'", "accounts.password"),
    "own secret column in an order": ("SELECT login FROM accounts ORDER BY password", "accounts.password"),
    "own secret column in an aggregate": ("SELECT max(password) FROM accounts", "accounts.password"),
    "own secret column by star": ("SELECT * FROM accounts", "addon_notes.accounts"),
    "own secret column by qualified star": ("SELECT x.* FROM notes, accounts x", "addon_notes.accounts"),
    "own secret column by row": ("SELECT to_json(accounts) FROM accounts", "accounts"),
    "own secret column by row of an alias": ("SELECT a::text FROM accounts a", "accounts"),
    "own secret column by a renamed column": ("SELECT x.e FROM accounts AS x(a, b, c, d, e, f, g)", "accounts"),
    "own secret column by a natural join": (
        "SELECT count(*) FROM accounts NATURAL JOIN (SELECT 'x'::text AS password) x",
        "accounts",
    ),
    "own secret column by using": (
        "SELECT count(*) FROM accounts JOIN (SELECT 'x'::text AS password) x USING (password)",
        "accounts.password",
    ),
    "own secret column in a CTE": ("WITH x AS (TABLE accounts) SELECT count(*) FROM x", "accounts"),
    "secret column of others": ("SELECT pin FROM addon_orders.safes", "safes.pin"),
    "secret column of others by star": ("SELECT * FROM addon_orders.safes", "addon_orders.safes"),
    "secret column of others by row": ("SELECT row_to_json(s) FROM addon_orders.safes s", "safes"),
    "too many arguments": ("SELECT $65", "65"),
    "a mountain of negations": ("SELECT " + "NOT " * 4_000 + "true", "nested too deeply"),
    "a mountain of arrays": ("SELECT " + "ARRAY[" * 2_200 + "1" + "]" * 2_200, "nested too deeply"),
    "a chain of set operations": ("SELECT 1" + " UNION SELECT 1" * 1_000, "nested too deeply"),
    "more than fits": ("SELECT '" + "x" * 17_000 + "'", "16384"),
}

HOSTILE_CHANGES: dict[str, tuple[str, str]] = {
    "select": ("SELECT 1", "SELECT"),
    "truncate": ("TRUNCATE notes", "TRUNCATE"),
    "drop": ("DROP TABLE notes", "DROP"),
    "alter": ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", "ALTER TABLE"),
    "grant": ("GRANT SELECT ON notes TO PUBLIC", "GRANT"),
    "two statements": ("DELETE FROM notes; DELETE FROM notes", "2 statements"),
    "a change in a CTE": (
        "WITH x AS (DELETE FROM notes RETURNING id) UPDATE notes SET rank = 1 FROM x WHERE x.id = notes.id",
        "DELETE",
    ),
    "kernel table": ("UPDATE organizations SET name = 'x'", "organizations"),
    "kernel table by insert": ("INSERT INTO permission_role_grants (role) VALUES ('x')", "permission_role_grants"),
    "kernel table as source": ("INSERT INTO notes (title) SELECT name FROM organizations", "organizations"),
    "kernel table as source of merge": (
        "MERGE INTO notes USING organizations o ON false WHEN NOT MATCHED THEN INSERT (title) VALUES (o.name)",
        "organizations",
    ),
    "kernel table in returning": (
        "INSERT INTO notes (title) VALUES ('x') RETURNING (SELECT name FROM organizations)",
        "organizations",
    ),
    "kernel table in on conflict": (
        "INSERT INTO notes (title) VALUES ('x') ON CONFLICT (id) DO UPDATE SET title = (SELECT"
        " name FROM organizations)",
        "organizations",
    ),
    "kernel table as target behind a CTE of its name": (
        "WITH organizations AS (SELECT 1) DELETE FROM organizations",
        "organizations",
    ),
    "users": ("UPDATE users SET role = 'owner'", "users"),
    "users by insert": ("INSERT INTO users (email) VALUES ('x')", "users"),
    "catalog": ("UPDATE pg_class SET relrowsecurity = false", "pg_class"),
    "catalog, qualified": ("DELETE FROM pg_catalog.pg_policy", "pg_catalog.pg_policy"),
    "dangerous function": ("UPDATE notes SET title = pg_read_file('/etc/passwd')", "pg_read_file"),
    "dangerous function in returning": ("DELETE FROM notes RETURNING set_config('role', 'none', false)", "set_config"),
    "setval": ("INSERT INTO notes (rank) VALUES (setval('days_n_seq', 1))", "setval"),
    "nextval of others": ("INSERT INTO notes (rank) VALUES (nextval('public.x'))", "nextval"),
    "nextval of something computed": ("INSERT INTO notes (rank) VALUES (nextval('days' || '_n_seq'))", "nextval"),
    "view": ("DELETE FROM good_days", "good_days"),
    "another organization set": ("UPDATE notes SET organization_id = gen_random_uuid()", "organization_id"),
    "another organization set among others": (
        "UPDATE notes SET (rank, organization_id) = (SELECT 1, gen_random_uuid())",
        "organization_id",
    ),
    "another organization set by on conflict": (
        "INSERT INTO notes (id) VALUES (gen_random_uuid()) ON CONFLICT (id) DO UPDATE SET organization_id = NULL",
        "organization_id",
    ),
    "another organization set by merge": (
        "MERGE INTO notes USING days ON false WHEN MATCHED THEN UPDATE SET organization_id = NULL",
        "organization_id",
    ),
    "another organization named": (
        "DELETE FROM notes WHERE organization_id = '00000000-0000-4000-8000-000000000000'",
        "organization_id",
    ),
    "another organization named, cast": (
        "UPDATE notes SET rank = 1 WHERE '00000000-0000-4000-8000-000000000000'::uuid = organization_id",
        "organization_id",
    ),
    "another organization named in a list": (
        "DELETE FROM notes WHERE organization_id IN ('00000000-0000-4000-8000-000000000000')",
        "organization_id",
    ),
    "a row for another organization": (
        "INSERT INTO days (organization_id) VALUES ('00000000-0000-4000-8000-000000000000')",
        "organization",
    ),
    "own secret column returned": (
        "UPDATE accounts SET password = 'x' RETURNING password AS harmless",
        "accounts.password",
    ),
    "own secret column copied": ("UPDATE accounts SET login = password", "accounts.password"),
    "own secret column compared": ("DELETE FROM accounts WHERE accounts.password = 'x'", "accounts.password"),
    "own secret column by returning everything": ("DELETE FROM accounts RETURNING *", "addon_notes.accounts"),
    "own secret column by the old row": ("UPDATE accounts SET login = 'x' RETURNING old.password", "accounts.password"),
    "own secret column by the row that was to be inserted": (
        "INSERT INTO accounts (password) VALUES ('x') ON CONFLICT (id) DO UPDATE SET login = excluded.password",
        "accounts.password",
    ),
    "own secret column by the row": ("DELETE FROM accounts RETURNING to_json(accounts)", "accounts"),
    "secret column of others written": ("UPDATE addon_orders.safes SET pin = 'x'", "safes.pin"),
    "secret column of others inserted": ("INSERT INTO addon_orders.safes (label, pin) VALUES ('x', 'y')", "safes.pin"),
    "secret column of others as source": ("UPDATE notes SET title = s.pin FROM addon_orders.safes s", "safes.pin"),
    "row lock on others": (
        "UPDATE notes SET rank = 1 WHERE EXISTS (SELECT FROM addon_orders.invoices FOR UPDATE)",
        "FOR UPDATE",
    ),
    "current of": ("DELETE FROM notes WHERE CURRENT OF x", "CurrentOfExpr"),
}
"""Refused in shadow, and so in enforce, whatever is granted on the tables of other addons."""

HARMLESS_QUERIES: dict[str, str] = {
    "constant": "SELECT 1 AS one",
    "trailing semicolon and comment": "SELECT 1 AS one; -- that is all",
    "no columns": "SELECT FROM notes",
    "values": "VALUES (1, 'a'), (2, 'b')",
    "join": "SELECT n.title, d.day FROM notes n LEFT JOIN days d ON d.organization_id = n.organization_id",
    "view and enum": "SELECT g.day, 'good'::mood AS mood FROM good_days g",
    "own function": "SELECT doubled(rank) FROM notes",
    "CTE": "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t",
    "CTE of a kernel table's name": "WITH users AS (SELECT 1 AS id) SELECT id FROM users",
    "window": "SELECT title, row_number() OVER (PARTITION BY done ORDER BY rank DESC) FROM notes",
    "aggregate": (
        "SELECT done, count(*), json_agg(title ORDER BY rank) FILTER (WHERE rank > 0) FROM notes GROUP BY done"
    ),
    "grouping sets": "SELECT done, rank, count(*) FROM notes GROUP BY GROUPING SETS ((done), (rank), ())",
    "lateral": "SELECT n.title, x.v FROM notes n, LATERAL (SELECT n.rank * 2 AS v) x",
    "set operation": "(SELECT title FROM notes EXCEPT SELECT '') UNION ALL SELECT login FROM accounts",
    "json": "SELECT meta ->> 'a', jsonb_path_query_array(meta, '$.b[*]'), jsonb_build_object('x', rank) FROM notes",
    "json rows": 'SELECT * FROM jsonb_to_recordset(\'[{"a": 1, "b": "x"}]\') AS x(a int, b text)',
    "time": "SELECT date_trunc('month', due_at), extract(year FROM due_at), now() - interval '1 day' FROM notes",
    "text": (
        "SELECT upper(title), trim(both ' ' from title), substring(title from 1 for 3), title ILIKE 'a%' FROM notes"
    ),
    "case and casts": (
        "SELECT CASE WHEN rank > 1 THEN 'a' ELSE 'b' END, rank::numeric(10, 2), title::varchar(3) FROM notes"
    ),
    "exists": "SELECT title FROM notes n WHERE EXISTS (SELECT FROM days d WHERE d.n = n.rank)",
    "series": "SELECT n FROM generate_series(1, 3) AS n ORDER BY n DESC LIMIT 2 OFFSET 1",
    "columns of functions": (
        "SELECT e.key, e.value, g.g, u.a, v.ordinality, r.b FROM json_each('{\"a\": 1}') e, generate_series(1, 2) g,"
        " unnest(ARRAY[1]) AS u(a), unnest(ARRAY[1]) WITH ORDINALITY v, json_to_record('{}') AS r(b int)"
    ),
    "a field that is a column": "SELECT (json_each('{\"a\": 1}')).key, (ARRAY[1, 2])[1]",
    "own schema, qualified": "SELECT title FROM addon_notes.notes",
    "count of a table with a secret": "SELECT count(*) FROM accounts",
    "arrays": "SELECT ARRAY[1, 2] || 3, unnest(ARRAY['a', 'b'])",
    "quoted names": 'SELECT "title" AS "a ""strange"" name" FROM "notes"',
    "names of our own": 'SELECT q.json AS "metacore row" FROM (SELECT 1 AS json) AS q',
    "a mountain of parentheses": "SELECT " + "(" * 8_000 + "1" + ")" * 8_000,
    "the same name twice": "SELECT 1 AS a, 2 AS a",
}

HARMLESS_CHANGES: dict[str, str] = {
    "insert": "INSERT INTO notes (organization_id, title) VALUES ('{org}', 'x')",
    "insert with a number": (
        "INSERT INTO days (organization_id, mood) VALUES ('{org}', 'bad') RETURNING n, number, mood"
    ),
    "insert from a query": "INSERT INTO notes (organization_id, title) SELECT organization_id, login FROM accounts",
    "insert a secret": (
        "INSERT INTO accounts (organization_id, login, password) VALUES ('{org}', 'a', 'b') RETURNING login"
    ),
    "upsert": (
        "INSERT INTO notes (organization_id, code, title) VALUES ('{org}', 'c', 'x') ON CONFLICT"
        " (organization_id, code)"
        " DO UPDATE SET title = excluded.title RETURNING *"
    ),
    "upsert a secret": (
        "INSERT INTO accounts (organization_id, id, password) VALUES ('{org}', '{org}', 'b') ON CONFLICT (id)"
        " DO UPDATE SET password = 'c'"
    ),
    "update": "UPDATE notes SET rank = rank + 1, meta = meta || '{{}}' WHERE title LIKE 'a%' RETURNING title, rank",
    "update from": "UPDATE notes n SET rank = d.n FROM days d WHERE d.organization_id = n.organization_id",
    "update of one's own organization": "UPDATE notes SET rank = 2 WHERE organization_id = '{org}'",
    "update with a CTE": "WITH x AS (SELECT max(rank) AS top FROM notes) UPDATE notes SET rank = x.top FROM x",
    "update behind a lock": (
        "UPDATE notes SET done = true WHERE id IN (SELECT id FROM notes FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id"
    ),
    "delete": "DELETE FROM notes WHERE rank > 100",
    "delete everything": "DELETE FROM notes RETURNING title",
    "delete using": "DELETE FROM notes n USING days d WHERE d.n = n.rank",
    "merge": (
        "MERGE INTO notes n USING days d ON n.rank = d.n WHEN MATCHED THEN UPDATE SET title = 'merged'"
        " WHEN NOT MATCHED THEN INSERT (organization_id, rank) VALUES (d.organization_id, d.n)"
    ),
    "merge with its rows": (
        "MERGE INTO notes n USING days d ON n.rank = d.n WHEN MATCHED THEN DELETE RETURNING merge_action(), n.title"
    ),
    "own sequence": "INSERT INTO notes (organization_id, rank) VALUES ('{org}', nextval('days_number_seq'))",
}
"""`{org}` is the organization."""
