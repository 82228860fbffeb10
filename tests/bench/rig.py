"""Everybody who is compared, started and logged in, and what each of them does for a piece of work."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import httpx2
from tests.bench import direct, goals, traffic
from tests.bench.processes import Child, running
from tests.bench.rounds import Side
from tests.bench.traffic import Client
from tests.bench.world import PASSWORD, Account, World

from metacore.db import channels

COALESCING_OFF = {"METACORE_COALESCE": "false"}
KERNELS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    goals.KERNEL: (1, {}),
    goals.ALONE: (1, COALESCING_OFF),
    goals.TWO: (2, {}),
    goals.TWO_ALONE: (2, COALESCING_OFF),
}
"""The workers and settings of each."""
SETTLE_SECONDS = 30
UNNUMBERED = "SELECT EXISTS (SELECT FROM metacore_events WHERE position IS NULL)"
KEYSET_DEPTH = 50_000


@dataclass(frozen=True)
class Rig:
    """`servers` by the name of who is compared. `tokens` are of the two accounts, good for every server."""

    world: World
    servers: dict[str, Child]
    tokens: dict[str, str]
    driver: direct.Driver
    superuser: asyncpg.Connection[asyncpg.Record]
    cursors: tuple[str, str]

    def side(self, who: str, work: str, connections: int) -> Side:
        """Who does `work`, such as `list 20` or `get`, with so many connections."""
        if who == goals.OPEN:
            return direct.without_isolation(self.world, self._driven(work, connections))
        if who == goals.DRIVER:
            return self._driven(work, connections)
        if work == "page at depth":
            at = self.cursors[0] if who == goals.KERNEL else self.cursors[1]
            return self._client(goals.KERNEL, self.world.reader).lists([[("cursor", at), ("count", "none")]])
        if work == "get":
            return self._client(who, self.world.reader).gets()
        if work == "create":
            return self._client(who, self.world.writer).creates()
        if work == "update":
            return self._client(who, self.world.writer).updates()
        return self._client(who, self.world.reader).lists(_pages(work, connections))

    async def settle(self) -> None:
        """Wait until the events of a slot are numbered, so that nobody pays for another one's."""
        async with asyncio.timeout(SETTLE_SECONDS):
            await self.superuser.execute("SELECT pg_notify($1, '')", channels.EVENTS)
            while await self.superuser.fetchval(UNNUMBERED):  # noqa: ASYNC110 - another process does it.
                await asyncio.sleep(0.01)

    def _driven(self, work: str, connections: int) -> direct.Repeat:
        match work:
            case "get":
                return self.driver.gets()
            case "create":
                return self.driver.creates()
            case "update":
                return self.driver.updates()
        return self.driver.lists(_pages(work, connections))

    def _client(self, who: str, account: Account) -> Client:
        path = {goals.ORM: "/orm/items", goals.CORE: "/core/items"}.get(who, traffic.KERNEL_PATH)
        return Client(self.servers[who], account, self.tokens[account.email], path=path)


@asynccontextmanager
async def rigged(world: World, wanted: Collection[str], say: Callable[[str], None]) -> AsyncIterator[Rig]:
    """Start who is `wanted`; one more kernel runs beside them in any case.

    That one numbers the events of all, so that the others have the same part in it, whichever is measured.
    """
    async with AsyncExitStack() as stack:
        say("starting the servers")
        relaying = await stack.enter_async_context(world.kernel("relaying"))
        servers: dict[str, Child] = {}
        for who in sorted(wanted):
            if who in KERNELS:
                name = re.sub(r"\W+", "-", who)
                workers, settings = KERNELS[who]
                servers[who] = await stack.enter_async_context(world.kernel(name, workers=workers, **settings))
        if not {goals.ORM, goals.CORE}.isdisjoint(wanted):
            yardsticks = await stack.enter_async_context(_yardsticks(world))
            servers |= dict.fromkeys((goals.ORM, goals.CORE), yardsticks)
        if goals.OPEN in wanted:
            await direct.make_open_tables(world)
        superuser = await asyncpg.connect(world.superuser_url)
        stack.push_async_callback(superuser.close)
        tokens = {account.email: await _log_in(relaying, account) for account in (world.reader, world.writer)}
        yield Rig(
            world=world,
            servers=servers,
            tokens=tokens,
            driver=await stack.enter_async_context(direct.driver(world)),
            superuser=superuser,
            cursors=(await _cursor_at_depth(relaying, tokens[world.reader.email], world.rows), ""),
        )


@asynccontextmanager
async def _yardsticks(world: World) -> AsyncIterator[Child]:
    command = [sys.executable, "-m", "tests.bench.yardsticks"]
    async with running(
        "yardsticks", command, environment=world.environment, folder=world.folder, ready="/openapi.json"
    ) as child:
        yield child


async def _log_in(kernel: Child, account: Account) -> str:
    async with httpx2.AsyncClient(base_url=kernel.url) as client:
        reply = await client.post("/api/auth/login", json={"email": account.email, "password": PASSWORD})
        token: str = reply.raise_for_status().json()["data"]["token"]
        return token


async def _cursor_at_depth(kernel: Child, token: str, rows: int) -> str:
    """The cursor of a page far down, as a client gets it: the last row of a page names where the next one begins."""
    async with httpx2.AsyncClient(base_url=kernel.url, headers={"Authorization": f"Bearer {token}"}) as client:
        cursor = ""
        for _ in range(min(KEYSET_DEPTH, rows - 200) // 200):
            params = {"cursor": cursor, "per_page": "200", "count": "none"}
            reply = await client.get(traffic.KERNEL_PATH, params=params)
            cursor = reply.raise_for_status().json()["meta"]["next_cursor"]
    return cursor


def _pages(work: str, connections: int) -> list[traffic.Params]:
    """`list 20`, `list 100`, `list 20, not counted`, or `the same list 20`."""
    found = re.search(r"list (\d+)", work)
    assert found is not None
    count = 1 if work.startswith("the same") else max(16, connections)
    return traffic.pages(int(found[1]), count, *([("count", "none")] if "not counted" in work else []))
