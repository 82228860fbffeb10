"""Everything that runs code of addons, put together: the sandbox, functions of the host, and the runner over both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metacore.addons.egress import AddonEgress
from metacore.addons.handlers.compiled import CompiledFunctions, CompiledRuns
from metacore.addons.handlers.run import HandlerRuns, Noop
from metacore.addons.handlers.wasm import WasmRuns
from metacore.addons.host_calls.events import GuestEvents
from metacore.addons.host_calls.services import GuestHost, Parts, SettingsReader
from metacore.addons.host_calls.web import GuestWeb
from metacore.addons.invocation import HandlerKind
from metacore.addons.runner import AddonRunner
from metacore.addons.sandbox import Sandbox
from metacore.capabilities.access import Gate
from metacore.db.database import Database
from metacore.events.bus import Bus
from metacore.metrics import Metrics
from metacore.registry import Registry


@dataclass(frozen=True, kw_only=True)
class CodeNeeds:
    """What the code of addons is run with. `on_commit` is called after every event that a guest committed."""

    database: Database
    registry: Registry
    gate: Gate
    egress: AddonEgress
    bus: Bus
    settings: SettingsReader
    functions: CompiledFunctions
    on_commit: Callable[[], None]
    metrics: Metrics


def build_runner(needs: CodeNeeds, sandbox: Sandbox) -> AddonRunner:
    """The runner of one kernel."""
    events = GuestEvents(needs.database, needs.bus, needs.gate, needs.on_commit)
    web = GuestWeb(needs.egress)
    host = GuestHost(Parts(events=events, web=web), needs.settings)
    kinds: dict[HandlerKind, HandlerRuns] = {
        "noop": Noop(),
        "wasm": WasmRuns(sandbox, host),
        "compiled": CompiledRuns(needs.functions),
    }
    return AddonRunner(needs.registry, kinds, needs.metrics)
