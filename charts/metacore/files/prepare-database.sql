-- Run once, by psql as the superuser, when a development database is made: the two roles and the database of docs/database.md.
\getenv owner_password METACORE_OWNER_PASSWORD
\getenv kernel_password METACORE_KERNEL_PASSWORD
CREATE ROLE metacore_owner LOGIN CREATEROLE PASSWORD :'owner_password';
CREATE ROLE metacore_kernel LOGIN PASSWORD :'kernel_password';
CREATE DATABASE metacore OWNER metacore_owner TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE metacore FROM PUBLIC;
GRANT CONNECT ON DATABASE metacore TO metacore_owner, metacore_kernel;
\connect metacore
ALTER SCHEMA public OWNER TO metacore_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO metacore_kernel;
