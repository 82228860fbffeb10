"""Everything that runs code of addons, put together: the sandbox, functions of the host, and the runner over both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metacore.addons.actions import ActionService, UserGate
from metacore.addons.handlers.compiled import CompiledFunctions, CompiledRuns
from metacore.addons.handlers.connector import ConnectorRuns
from metacore.addons.handlers.run import HandlerRuns, Noop
from metacore.addons.handlers.wasm import WasmRuns
from metacore.addons.handlers.webhook import WebhookRuns
from metacore.addons.host_calls.connectors import GuestConnectors
from metacore.addons.host_calls.data import GuestData
from metacore.addons.host_calls.events import GuestEvents
from metacore.addons.host_calls.services import GuestHost, Parts, SettingsReader
from metacore.addons.host_calls.sql import GuestSqlCalls
from metacore.addons.host_calls.web import GuestWeb
from metacore.addons.invocation import HandlerKind
from metacore.addons.outside import build_outside
from metacore.addons.row_code import RowCode
from metacore.addons.runner import AddonRunner
from metacore.addons.sandbox import Sandbox
from metacore.capabilities.enforcer import Enforcer
from metacore.db.database import Database
from metacore.dynamic.hook_points import HookRegistry
from metacore.dynamic.service import DynamicService
from metacore.egress.outbound import Outbound
from metacore.events.bus import Bus
from metacore.guest_sql.execute import GuestSql
from metacore.metrics import Metrics
from metacore.registry import Registry
from metacore.secrets import Sealer


@dataclass(frozen=True, kw_only=True)
class CodeNeeds:
    """What the code of addons is run with. `dynamic` asks no user's permission; `on_commit` is called after everything
    that a guest committed. `cache_dir` and `threads` are as `Sandbox` takes them."""

    database: Database
    registry: Registry
    outbound: Outbound
    gate: Enforcer
    bus: Bus
    hooks: HookRegistry
    settings: SettingsReader
    sealer: Sealer | None
    dynamic: DynamicService
    permissions: UserGate | None
    on_commit: Callable[[], None]
    metrics: Metrics
    cache_dir: str = ""
    threads: int | None = None


class AddonCode:
    """One kernel's: `sandbox` prepares modules, `runner` runs handlers of every kind, `actions` those that users call,
    `functions` are those of the host, `outside` is the way to other services. `start` before the first addon is
    loaded, `stop` at the end."""

    def __init__(self, needs: CodeNeeds) -> None:
        self.functions = CompiledFunctions()
        self.outside = build_outside(needs.database, needs.registry, needs.outbound, needs.gate, needs.sealer)
        self.sandbox = Sandbox(needs.database, cache_dir=needs.cache_dir, threads=needs.threads)
        self.runner = AddonRunner(needs.registry, self._kinds(needs), needs.metrics)
        self.actions = ActionService(
            needs.database,
            needs.registry,
            needs.dynamic,
            self.runner,
            gate=needs.gate,
            permissions=needs.permissions,
            on_commit=needs.on_commit,
        )
        self._rows = RowCode(needs.registry, needs.hooks, self.runner)

    async def start(self) -> None:
        self.sandbox.reopen()

    async def stop(self) -> None:
        await self._rows.stop()
        await self.sandbox.close()

    def _kinds(self, needs: CodeNeeds) -> dict[HandlerKind, HandlerRuns]:
        outside = self.outside
        parts = Parts(
            events=GuestEvents(needs.database, needs.bus, needs.gate, needs.on_commit),
            data=GuestData(
                needs.dynamic,
                needs.registry,
                needs.gate,
                transactions=needs.database.dialect == "postgresql",
            ),
            sql=GuestSqlCalls(GuestSql(needs.database, needs.registry, needs.gate)),
            web=GuestWeb(outside.egress),
            connectors=GuestConnectors(outside.credentials, needs.gate),
        )
        kinds: dict[HandlerKind, HandlerRuns] = {
            "noop": Noop(),
            "wasm": WasmRuns(self.sandbox, GuestHost(parts, needs.settings)),
            "compiled": CompiledRuns(self.functions),
            "webhook": WebhookRuns(outside.backend, self.sandbox),
        }
        return {**kinds, "connector": ConnectorRuns(outside.egress, outside.credentials, needs.gate, kinds)}
