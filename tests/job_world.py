"""Kernel processes as far as jobs go, over one database, with handlers that are Python functions of the test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from tests.arrivals import PATIENCE, Arrivals
from tests.tickets import TRUSTED, make_bundle, signed, tickets_manifest

from metacore.addons.heartbeat import Heartbeat
from metacore.addons.invocation import Invocation, Result
from metacore.addons.jobs.service import Jobs
from metacore.addons.loader import Loader
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import NotFound
from metacore.events.bus import Bus
from metacore.events.relay import Relay
from metacore.installer.execute import Installer, InstallReport
from metacore.metrics import Metrics
from metacore.registry import Registry

Function = Callable[[Invocation], Awaitable[Result]]


class Handlers:
    """A `Runner` of compiled functions by name; what has no function succeeds. `seen` holds every invocation."""

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.seen: Arrivals[Invocation] = Arrivals()

    def on(self, name: str, function: Function) -> None:
        self.functions[name] = function

    async def run(self, invocation: Invocation) -> Result:
        self.seen(invocation)
        if invocation.handler.function == "missing":
            raise NotFound("there is no function 'missing'", code="unknown_function")
        function = self.functions.get(invocation.handler.function)
        return await function(invocation) if function is not None else Result(True)

    def names(self) -> list[str]:
        return [each.handler.function for each in self.seen.items]


@dataclass
class Kernel:
    jobs: Jobs
    registry: Registry
    relay: Relay
    loader: Loader
    handlers: Handlers
    metrics: Metrics


def compiled(function: str) -> dict[str, str]:
    return {"type": "compiled", "function": function}


def busy_manifest(key: str = "tickets", version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
    """The tickets addon under `key`, with tables of its own."""
    manifest = tickets_manifest(key=key, name=key, version=version, **changes)
    if key != "tickets":
        manifest["models"] = [
            {"key": f"{key.title()}Note", "table": f"{key}_notes", "columns": [{"name": "body", "type": "text"}]}
        ]
    return manifest


@dataclass
class World:
    """The owner's side: installing, and looking at the rows."""

    owner: Database
    installer: Installer
    start: Callable[..., Awaitable[Kernel]]
    kernels: list[Kernel] = field(default_factory=list)

    async def install(self, manifest: Mapping[str, Any], *organizations: uuid.UUID) -> InstallReport:
        content, signature = signed(make_bundle(manifest))
        return await self.installer.install(content, signature, trusted=TRUSTED, organizations=list(organizations))

    async def jobs(self, *conditions: str) -> Sequence[Any]:
        """Rows of all organizations in the order of their making; each condition is SQL."""
        where = " AND ".join(["true", *conditions])
        async with self.owner.transaction(None) as connection:
            return (await connection.execute(sa.text(f"SELECT * FROM metacore_jobs WHERE {where} ORDER BY seq"))).all()

    async def until(self, count: int, *conditions: str) -> Sequence[Any]:
        """The rows that meet the conditions, as soon as there are `count` of them."""
        async with asyncio.timeout(PATIENCE):
            while len(rows := await self.jobs(*conditions)) < count:  # noqa: ASYNC110 - other processes write them.
                await asyncio.sleep(0.02)
        return rows

    async def execute(self, statement: str, **values: Any) -> None:
        async with self.owner.transaction(None) as connection:
            await connection.execute(sa.text(statement), values)

    async def emit(self, organization: uuid.UUID, name: str, count: int = 1, addon: str = "shop") -> None:
        """Commit events and number them, as a writer and the relay do; they carry n = 0, 1, 2, …"""
        for number in range(count):
            await self.execute(
                "INSERT INTO metacore_events (organization_id, addon_key, event_type, data)"
                " VALUES (:organization, :addon, :name, CAST(:data AS jsonb))",
                organization=organization,
                addon=addon,
                name=name,
                data=f'{{"n": {number}}}',
            )
        for kernel in self.kernels:
            kernel.relay.wake()


@asynccontextmanager
async def job_world(owner: Database, kernel_url: str) -> AsyncIterator[World]:
    """`start(handlers, **settings)` of the world begins one more kernel on the database at `kernel_url`."""
    async with AsyncExitStack() as stack:

        async def start(handlers: Handlers | None = None, **settings: Any) -> Kernel:
            db = await Database.connect(kernel_url, pool_size=4)
            stack.push_async_callback(db.close)
            listener, registry, bus = Listener(db.direct_url), Registry(), Bus()
            metrics, runner = Metrics(process=False), handlers or Handlers()
            relay = Relay(db, bus, listener, metrics=metrics)
            loader = Loader(db, registry, listener=listener, trusted=TRUSTED)
            jobs = Jobs(
                db,
                registry,
                runner,
                bus,
                load=loader.load,
                leading=lambda: relay.leading,
                listener=listener,
                metrics=metrics,
                **settings,
            )
            await listener.start()
            stack.push_async_callback(listener.stop)
            stack.push_async_callback(bus.stop)
            await relay.start()
            stack.push_async_callback(relay.stop)
            await loader.start()
            stack.push_async_callback(loader.stop)
            heartbeat = Heartbeat(db, loader, interval=0.2, pod=jobs.name)
            await heartbeat.start()
            stack.push_async_callback(heartbeat.stop)
            await jobs.start()
            stack.push_async_callback(jobs.stop)
            kernel = Kernel(jobs, registry, relay, loader, runner, metrics)
            world.kernels.append(kernel)
            return kernel

        world = World(owner, Installer(owner, farewell_seconds=5.0), start)
        yield world
