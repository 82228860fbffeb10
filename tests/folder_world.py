"""A folder of Addons, the reconcile over it, and what a kernel process does about the database: all real but HTTP."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey
from tests.tickets import SIGNING_KEY, make_bundle, tickets_manifest

from metacore.addons.heartbeat import Heartbeat
from metacore.addons.loader import Loader
from metacore.bundle.signature import sign
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.errors import NotFound
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.registry import Registry
from metacore.secrets import Sealer
from metacore_operator.conditions import Event
from metacore_operator.folder.runner import FolderRunner
from metacore_operator.folder.secrets import FolderSecrets
from metacore_operator.folder.store import Store
from metacore_operator.outcomes import Reason
from metacore_operator.resources.addon import Addon
from metacore_operator.resources.spec import SourceKind
from metacore_operator.resources.status import AddonStatus
from metacore_operator.settings import ReconcileSettings
from metacore_operator.sources.folder import FolderSource
from metacore_operator.sources.source import Source
from metacore_operator.steps.context import Ports, References
from metacore_operator.steps.state import DatabaseState
from metacore_operator.trust import Trust

PATIENCE = 60
QUICK = ReconcileSettings(resync=30.0, pulse=0.05, settle=0.05, workers=2)


class FolderWorld:
    def __init__(self, tmp_path: Path, owner: Database, kernel: Database) -> None:
        self.root = tmp_path / "addons"
        self.data = tmp_path / "data"
        self.keys = tmp_path / "trusted"
        self.root.mkdir()
        self.keys.write_text(bytes(SIGNING_KEY.verify_key).hex() + "  # the tests\n")
        self.owner = owner
        self.events: list[tuple[str, Event]] = []
        self.registry = Registry()
        self.references: References | None = None
        self.sources: dict[SourceKind, Source] = {}
        self._kernel = kernel
        self._told = asyncio.Condition()
        self._runner: FolderRunner | None = None

    # What people do

    def bundle(
        self,
        path: str,
        *,
        migrations: Mapping[str, str] | None = None,
        signer: SigningKey = SIGNING_KEY,
        **manifest: Any,
    ) -> None:
        """Put a signed bundle of the tickets addon below the root; keywords change its manifest."""
        content = make_bundle(tickets_manifest(**manifest), migrations)
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        signature = json.dumps(sign(content, signer).as_json())
        file.with_name(file.name + ".sig.json").write_text(signature)
        file.write_bytes(content)

    def declare(
        self, name: str = "tickets", *, file: str = "", annotations: Mapping[str, str] | None = None, **spec: Any
    ) -> None:
        document = {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": name, "annotations": dict(annotations or {})},
            "spec": {"source": {"path": f"{name}.tar.gz"}, "organizations": {"all": True}, **spec},
        }
        # JSON is YAML, too.
        (self.root / (file or f"{name}.yaml")).write_text(json.dumps(document))

    def flip_a_byte(self, path: str) -> None:
        content = bytearray((self.root / path).read_bytes())
        content[len(content) // 2] ^= 1
        (self.root / path).write_bytes(content)

    # What runs

    @asynccontextmanager
    async def reconciling(self, *, settings: ReconcileSettings = QUICK) -> AsyncIterator[FolderRunner]:
        sealer = Sealer(b"s" * 32)
        installer = Installer(self.owner, sealer=sealer)
        trust = Trust([self.keys])
        runner = FolderRunner(
            self.root,
            Store(self.data / "addons"),
            Ports(
                sources={SourceKind.PATH: FolderSource(self.root), **self.sources},
                trusted=trust.current,
                installer=installer,
                state=DatabaseState(self.owner),
                references=self.references,
                secrets=FolderSecrets(self.data / "addons"),
            ),
            trust,
            companions=[RequestWorker(self.owner, installer, trust.current, sealer)],
            settings=settings,
            on_event=self._happened,
        )
        self._runner = runner
        stop = asyncio.Event()
        task = asyncio.create_task(runner.run(stop))
        try:
            yield runner
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def kernel(self, pod: str = "kernel-0") -> AsyncIterator[Loader]:
        """What a kernel process does: follow the registry, load, write heartbeats."""
        listener = Listener(self._kernel.direct_url)
        loader = Loader(self._kernel, self.registry, listener=listener)
        heartbeat = Heartbeat(self._kernel, loader, interval=0.2, pod=pod)
        loader.on_loaded(heartbeat.told)
        await listener.start()
        await loader.start()
        await heartbeat.start()
        try:
            yield loader
        finally:
            await heartbeat.stop()
            await loader.stop()
            await listener.stop()

    def _happened(self, addon: Addon, event: Event) -> None:
        self.events.append((addon.metadata.name, event))
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._told:
            self._told.notify_all()

    # What can be seen

    async def until(self, reason: Reason, name: str = "tickets", *, words: str = "", seconds: float = PATIENCE) -> str:
        """Wait for an event of `name` with `reason` and `words` in its message, and forget what came before it."""

        def found() -> int | None:
            for place, (told, event) in enumerate(self.events):
                if told == name and event.reason is reason and words in event.message:
                    return place
            return None

        try:
            async with asyncio.timeout(seconds), self._told:
                await self._told.wait_for(lambda: found() is not None)
        except TimeoutError:
            raise AssertionError(f"no {reason} of {name}; there was {self.events}") from None
        place = found()
        assert place is not None
        message = self.events[place][1].message
        self.events = [item for index, item in enumerate(self.events) if index > place or item[0] != name]
        return message

    def status(self, name: str = "tickets") -> AddonStatus:
        assert self._runner is not None
        addon = self._runner.status(f"default/{name}")
        assert addon is not None
        return addon.status

    def condition(self, kind: str, name: str = "tickets") -> tuple[str, str]:
        condition = self.status(name).condition(kind)
        assert condition is not None, f"{name} has no condition {kind}"
        return condition.status, condition.reason

    async def until_condition(self, kind: str, status: str, reason: str, name: str = "tickets") -> None:
        """Wait for a condition: a reconcile that began before something changed may end, and tell, after it."""
        async with asyncio.timeout(PATIENCE):
            while self.condition(kind, name) != (status, reason):  # noqa: ASYNC110 - files tell, nobody can be waited for.
                await asyncio.sleep(0.02)

    async def until_fenced(self, reason: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.owner.postgres.fetchval("SELECT fenced_reason FROM metacore_addons") != reason:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def served(self, organization: uuid.UUID, model: str = "tickets") -> str:
        """The version that a kernel serves to an organization, '' when it does not."""
        try:
            live = self.registry.model_for(model, organization)
        except NotFound:
            return ""
        return self.registry.snapshot.addons[live.addon_key].version

    async def columns(self, table: str, schema: str = "addon_tickets") -> set[str]:
        rows = await self.owner.postgres.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2",
            schema,
            table,
        )
        return {row["column_name"] for row in rows}

    async def add_ticket(self, organization: uuid.UUID, title: str) -> None:
        await self.owner.postgres.execute(
            "INSERT INTO addon_tickets.tickets (organization_id, title) VALUES ($1, $2)", organization, title
        )

    async def titles(self, organization: uuid.UUID) -> list[str]:
        rows = await self.owner.postgres.fetch(
            "SELECT title FROM addon_tickets.tickets WHERE organization_id = $1 ORDER BY title", organization
        )
        return [row["title"] for row in rows]
