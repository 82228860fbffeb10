"""The asyncpg pool of the hot paths: JSON passes through as bytes, and a release costs no round trip."""

from __future__ import annotations

import asyncio

import asyncpg

from metacore.db.sockets import Watched

JSONB_VERSION = b"\x01"
CLOSE_SECONDS = 5


async def open_pool(
    dsn: str,
    *,
    size: int,
    least: int = 2,
    transaction_pooler: bool = False,
    application_name: str = "metacore",
) -> asyncpg.Pool[asyncpg.Record]:
    """Open up to `size` connections, `least` of them at once; `json` and `jsonb` values travel as bytes in both
    directions.

    The reset of a released connection does nothing (the default costs about 100 µs): no code of ours may leave
    session state behind, which `tests/integration/test_session_leaks.py` hunts for.
    """
    return await asyncpg.create_pool(
        dsn,
        min_size=min(least, size),
        max_size=size,
        statement_cache_size=0 if transaction_pooler else 1024,
        max_cached_statement_lifetime=0,
        server_settings={"application_name": application_name},
        init=_prepare,
        reset=_keep,
        connection_class=Watched,
        command_timeout=60,
    )


async def close_pool(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    """Close politely, then by force: a stuck statement must not hold a shutdown."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda raw: JSONB_VERSION + raw,
        decoder=lambda raw: raw[1:],
        format="binary",
    )


async def _keep(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    return None
