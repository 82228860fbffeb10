"""The kernel as a program of its own: what `metacore serve` runs, configured by settings alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from metacore import logs
from metacore.api.application import KernelApplication
from metacore.api.errors import from_http
from metacore.app import App
from metacore.app_config import AppConfig
from metacore.db.database import Database
from metacore.egress.broker import EgressConfig
from metacore.errors import Misconfigured
from metacore.permissions.database_store import DatabasePermissionStore
from metacore.settings import Settings
from metacore.version import __version__


def create_asgi(settings: Settings) -> FastAPI:
    """What `metacore serve` runs: the kernel alone, configured by `settings`, with permissions from the database.

    Raises:
        Misconfigured: a setting that cannot work; the message names it.
    """
    access_log = logs.configure(settings.log_format, settings.log_level)
    database = Database(
        settings.database_url.get_secret_value(),
        direct_url=settings.direct_database_url.get_secret_value(),
        pool_size=settings.pool_size,
        transaction_pooler=settings.transaction_pooler,
    )
    kernel = App(
        AppConfig(
            database=database,
            jwt_secret=[secret.get_secret_value() for secret in settings.jwt_secrets],
            run_migrations=None,
            create_tables=False,
            permission_store=DatabasePermissionStore(database),
            metadata_ttl=settings.metadata_ttl,
            permission_ttl=settings.permission_ttl,
            access_token_ttl=settings.access_token_ttl,
            refresh_token_ttl=settings.refresh_token_ttl,
            jwt_issuer=settings.jwt_issuer,
            registration=settings.registration,
            master_key=_master_key(settings),
            enforce=settings.enforcing,
            enforce_file=settings.enforce_file,
            mode_fixed=settings.mode_fixed,
            mode_organizations=settings.mode_organizations,
            coalesce=settings.coalesce,
            max_per_page=settings.max_per_page,
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            heartbeat_interval=settings.heartbeat_interval,
            pod_name=settings.pod_name,
            cache_dir=settings.cache_dir,
            wasm_threads=settings.wasm_threads,
            access_log=access_log,
            egress=EgressConfig.parse(
                settings.egress_allow_private, settings.egress_deny, settings.egress_proxy.get_secret_value()
            ),
            require_kernel_role=True,
            standalone=True,
        )
    )

    @asynccontextmanager
    async def close_database(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await database.close()

    web = KernelApplication(
        title="Metacore",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=close_database,
    )
    web.add_exception_handler(HTTPException, _framework_refusal)
    kernel.mount(web, settings.prefix)
    return web


async def _framework_refusal(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the envelope."""
    assert isinstance(error, HTTPException)
    return from_http(error, request.scope)


def _master_key(settings: Settings) -> bytes | None:
    text = settings.master_key.get_secret_value()
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise Misconfigured("METACORE_MASTER_KEY is not hexadecimal") from error
    if len(key) != 32:
        raise Misconfigured(f"METACORE_MASTER_KEY must be 32 bytes in hex, it is {len(key)}")
    return key
