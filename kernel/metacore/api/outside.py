"""What the routes to and from services outside need, put together."""

from __future__ import annotations

from dataclasses import dataclass

from metacore.addons.connector_tests import ConnectorTests
from metacore.addons.inbound.deliveries import Deliveries
from metacore.addons.inbound.receiver import HookReceiver
from metacore.addons.invocation import Runner
from metacore.addons.outside import Outside
from metacore.addons.tools.service import ToolService
from metacore.api.addons import AddonServices
from metacore.api.connectors import ConnectorServices
from metacore.api.hooks import HookServices


@dataclass(frozen=True, slots=True)
class OutsideServices:
    connectors: ConnectorServices
    hooks: HookServices
    tools: ToolService


def outside_services(outside: Outside, addons: AddonServices, runner: Runner, *, max_body: int) -> OutsideServices:
    credentials = outside.credentials
    tests = ConnectorTests(credentials, addons.registry, runner)
    receiver = HookReceiver(addons.registry, addons.settings, Deliveries(addons.database), runner)
    return OutsideServices(
        connectors=ConnectorServices(credentials, tests),
        hooks=HookServices(receiver, max_body),
        tools=ToolService(addons.registry, runner, addons.permissions),
    )
