"""Everything that runs code of addons, put together: the sandbox, functions of the host, and the runner over both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metacore.addons.backend_call import BackendCaller
from metacore.addons.egress import AddonEgress
from metacore.addons.handlers.compiled import CompiledFunctions, CompiledRuns
from metacore.addons.handlers.run import HandlerRuns, Noop
from metacore.addons.handlers.wasm import WasmRuns
from metacore.addons.handlers.webhook import WebhookRuns
from metacore.addons.host_calls.data import GuestData
from metacore.addons.host_calls.events import GuestEvents
from metacore.addons.host_calls.services import GuestHost, Parts, SettingsReader
from metacore.addons.host_calls.sql import GuestSqlCalls
from metacore.addons.host_calls.web import GuestWeb
from metacore.addons.installation_secrets import InstallationSecrets
from metacore.addons.invocation import HandlerKind
from metacore.addons.runner import AddonRunner
from metacore.addons.sandbox import Sandbox
from metacore.capabilities.enforcer import Enforcer
from metacore.db.database import Database
from metacore.dynamic.service import DynamicService
from metacore.events.bus import Bus
from metacore.guest_sql.execute import GuestSql
from metacore.metrics import Metrics
from metacore.registry import Registry


@dataclass(frozen=True, kw_only=True)
class CodeNeeds:
    """What the code of addons is run with. `dynamic` asks no user's permission; `on_commit` is called after every event
    that a guest committed."""

    database: Database
    registry: Registry
    egress: AddonEgress
    secrets: InstallationSecrets
    gate: Enforcer
    bus: Bus
    settings: SettingsReader
    functions: CompiledFunctions
    dynamic: DynamicService
    on_commit: Callable[[], None]
    metrics: Metrics


def build_runner(needs: CodeNeeds, sandbox: Sandbox) -> AddonRunner:
    """The runner of one kernel."""
    events = GuestEvents(needs.database, needs.bus, needs.gate, needs.on_commit)
    web = GuestWeb(needs.egress)
    on_postgres = needs.database.dialect == "postgresql"
    data = GuestData(needs.dynamic, needs.registry, needs.gate, transactions=on_postgres)
    sql = GuestSqlCalls(GuestSql(needs.database, needs.registry, needs.gate))
    host = GuestHost(Parts(events=events, data=data, sql=sql, web=web), needs.settings)
    kinds: dict[HandlerKind, HandlerRuns] = {
        "noop": Noop(),
        "wasm": WasmRuns(sandbox, host),
        "compiled": CompiledRuns(needs.functions),
        "webhook": WebhookRuns(BackendCaller(needs.egress, needs.secrets), sandbox),
    }
    return AddonRunner(needs.registry, kinds, needs.metrics)
