"""The two roles of a database, and the refusal to serve as a role that could do more."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
from sqlalchemy import text

from metacore.db.database import Database
from metacore.db.rls import quoted
from metacore.errors import Misconfigured

OWNER_ROLE = "metacore_owner"
KERNEL_ROLE = "metacore_kernel"
SCRAM_ITERATIONS = 4096  # What PostgreSQL itself uses (scram_iterations).
PREPARE_LOCK = 0x6D635F726F6C6573  # "mc_roles" in ASCII: one preparation at a time.

ROLE_ATTRIBUTES = {
    "LOGIN": True,
    "INHERIT": True,
    "SUPERUSER": False,
    "BYPASSRLS": False,
    "CREATEDB": False,
    "REPLICATION": False,
}
ROLE_FACTS = """
SELECT rolcanlogin AS "LOGIN", rolinherit AS "INHERIT", rolsuper AS "SUPERUSER", rolbypassrls AS "BYPASSRLS",
  rolcreatedb AS "CREATEDB", rolreplication AS "REPLICATION", rolcreaterole AS "CREATEROLE"
FROM pg_roles WHERE rolname = $1
"""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def prepare_database(superuser_url: str, *, database: str, owner_password: str, kernel_password: str) -> None:
    """Make or mend the two roles and `database`; doing it again only sets the passwords.

    The owner role owns the database and its schema `public` and may make roles (for addon migrations); the kernel
    role may log in and nothing more. Both are ordinary roles: no superuser, no BYPASSRLS. Only their SCRAM verifiers
    travel, so no log of the server ever holds a password. `superuser_url` may also be of an administrator with
    CREATEROLE and CREATEDB, as managed services give.

    Raises:
        Misconfigured: the server cannot be reached, the login may not do this, or a password is not printable ASCII.
    """
    try:
        connection = await asyncpg.connect(superuser_url)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise Misconfigured(f"cannot reach the database server: {error or type(error).__name__}") from error
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", PREPARE_LOCK)  # Ends with this connection.
        await _make_role(connection, OWNER_ROLE, owner_password, creates_roles=True)
        await _make_role(connection, KERNEL_ROLE, kernel_password, creates_roles=False)
        await _make_database(connection, database)
        inside = await asyncpg.connect(_on_database(superuser_url, database))
        try:
            async with inside.transaction():
                for statement in _privileges(database):
                    await inside.execute(statement)
        finally:
            await inside.close()
    except asyncpg.InsufficientPrivilegeError as error:
        raise Misconfigured(f"this login may not prepare a database: {error}") from error
    finally:
        await connection.close()


async def check_kernel_role(database: Database) -> None:
    """Refuse to serve as a role that row-level security does not hold.

    Raises:
        Misconfigured: the role is or may become a superuser, bypasses row-level security, owns tables or may make
            some. On SQLite there is nothing to check.
    """
    if database.dialect != "postgresql":
        return
    async with database.transaction(None) as connection:
        row = (await connection.execute(KERNEL_ROLE_FACTS)).mappings().one()
    role = row["role"]
    problems = [problem for fact, problem in ROLE_PROBLEMS.items() if row[fact]]
    if problems:
        raise Misconfigured(
            f"the kernel must not serve as the database role {role!r}: it {', '.join(problems)}. "
            f"Give METACORE_DATABASE_URL a role like {KERNEL_ROLE!r} (docs/database.md)",
            code="kernel_role",
        )


ROLE_PROBLEMS = {
    "superuser": "is a superuser",
    "bypasses": "bypasses row-level security",
    "becomes": "is a member of a role that is a superuser or bypasses row-level security",
    "owns": "owns tables",
    "creates": "may create tables in the schema public",
}

KERNEL_ROLE_FACTS = text("""
SELECT r.rolname AS role, r.rolsuper AS superuser, r.rolbypassrls AS bypasses,
  NOT r.rolsuper AND EXISTS (
    SELECT FROM pg_roles o
    WHERE o.oid <> r.oid AND (o.rolsuper OR o.rolbypassrls) AND pg_has_role(r.oid, o.oid, 'MEMBER')
  ) AS becomes,
  NOT r.rolsuper AND EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND pg_has_role(r.oid, c.relowner, 'MEMBER')
  ) AS owns,
  NOT r.rolsuper AND has_schema_privilege(r.oid, 'public', 'CREATE') AS creates
FROM pg_roles r WHERE r.rolname = current_user
""")


async def _make_role(connection: Connection, role: str, password: str, *, creates_roles: bool) -> None:
    wanted = ROLE_ATTRIBUTES | {"CREATEROLE": creates_roles}
    verifier = scram_verifier(password)
    found = await connection.fetchrow(ROLE_FACTS, role)
    if found is None:
        given = " ".join(attribute for attribute, on in wanted.items() if on)
        await connection.execute(f"CREATE ROLE {quoted(role)} {given} PASSWORD '{verifier}'")
        return
    # Only what differs: an administrator who is no superuser may not even mention some attributes.
    changes = [("" if on else "NO") + attribute for attribute, on in wanted.items() if found[attribute] is not on]
    await connection.execute(f"ALTER ROLE {quoted(role)} {' '.join(changes)} PASSWORD '{verifier}'")


async def _make_database(connection: Connection, database: str) -> None:
    if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        await connection.execute(f"GRANT {quoted(OWNER_ROLE)} TO CURRENT_USER")
    owner = await connection.fetchval("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1", database)
    if owner is None:
        await connection.execute(
            f"CREATE DATABASE {quoted(database)} OWNER {quoted(OWNER_ROLE)} TEMPLATE template0 ENCODING 'UTF8'"
        )
    elif owner != OWNER_ROLE:
        await connection.execute(f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(OWNER_ROLE)}")


def _privileges(database: str) -> list[str]:
    name, owner, kernel = quoted(database), quoted(OWNER_ROLE), quoted(KERNEL_ROLE)
    return [
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"REVOKE ALL ON DATABASE {name} FROM {kernel}",
        f"GRANT CONNECT ON DATABASE {name} TO {owner}, {kernel}",
        f"ALTER SCHEMA public OWNER TO {owner}",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        f"GRANT USAGE ON SCHEMA public TO {kernel}",
    ]


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for a SCRAM-SHA-256 password (RFC 5803).

    Raises:
        Misconfigured: the password is empty or holds more than printable ASCII, which SASLprep could change.
    """
    if not password or not (password.isascii() and password.isprintable()):
        raise Misconfigured("a database password must be printable ASCII and not empty")
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    shown = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{shown[0]}${shown[1]}:{shown[2]}"


def _on_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(database, safe="")))
