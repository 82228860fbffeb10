"""A kernel as a cluster has it, in one process: the App on the kernel role, a worker on the owner role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi import FastAPI
from tests.applications import SECRET, register, started
from tests.conftest import DatabaseUrls
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore import App, AppConfig
from metacore.bundle.signature import Signature
from metacore.db.database import Database
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.permissions.database_store import DatabasePermissionStore
from metacore.secrets import Sealer

MASTER_KEY = b"the master key of the tests ...."
FRONTEND = {
    "remoteEntry.js": b"export default 1",
    "assets/app-3f9a1c2b.js": b"console.log(1)",
    "assets/style.css": b"a{}",
    "logo.svg": b"<svg/>",
}
Headers = dict[str, str]


@dataclass
class Plane:
    """`ada` owns the organization that most tests use, `eve` another one."""

    app: App
    web: FastAPI
    client: httpx2.AsyncClient
    owner: Database
    installer: Installer
    worker: RequestWorker
    store: DatabasePermissionStore
    ada: Headers
    eve: Headers

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker executes requests meanwhile."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def install(
        self,
        headers: Headers,
        content: bytes | None = None,
        signature: Signature | bytes | str | None = None,
        *,
        key: str = "tickets",
        as_file: bool = False,
    ) -> httpx2.Response:
        """POST a bundle, the tests' own and signed one when none is given."""
        if content is None:
            content, signature = signed(make_bundle(tickets_manifest(), frontend=FRONTEND))
        files: dict[str, Any] = {"bundle": ("bundle.tar.gz", content, "application/gzip")}
        data: dict[str, Any] = {}
        if isinstance(signature, Signature):
            signature = signature.model_dump_json()
        if signature is not None and as_file:
            files["signature"] = ("bundle.sig.json", signature, "application/json")
        elif signature is not None:
            data["signature"] = signature
        return await self.client.post(
            f"/api/metacore/installations/{key}", files=files, data=data, headers=headers, timeout=60
        )


@asynccontextmanager
async def control_plane(
    urls: DatabaseUrls, *, administrators: Collection[str] = (), **changes: Any
) -> AsyncIterator[Plane]:
    """Everything started, with two organizations and no addon. `administrators` are those whose word counts for all."""
    kernel, owner = Database(urls.kernel), await Database.connect(urls.owner, pool_size=4)
    store = DatabasePermissionStore(kernel)
    config: dict[str, Any] = {
        "database": kernel,
        "jwt_secret": SECRET,
        "heartbeat_interval": 0.2,
        "run_migrations": None,
        "create_tables": False,
        "permission_store": store,
        "master_key": MASTER_KEY,
        "require_kernel_role": True,
        **changes,
    }
    key = config["master_key"]
    sealer = Sealer(key) if key else None
    installer = Installer(owner, sealer=sealer)
    app, web = App(AppConfig(**config)), FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount(web)
    try:
        async with started(web) as client:
            yield Plane(
                app=app,
                web=web,
                client=client,
                owner=owner,
                installer=installer,
                worker=RequestWorker(owner, installer, lambda: TRUSTED, sealer, administrators=administrators),
                store=store,
                ada=await register(client, "ada@example.com"),
                eve=await register(client, "eve@example.com"),
            )
    finally:
        await owner.close()
        await kernel.close()
