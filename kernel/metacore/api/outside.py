"""What the routes to and from services outside need, put together."""

from __future__ import annotations

from dataclasses import dataclass

from metacore.addons.connector_tests import ConnectorTests
from metacore.addons.invocation import Runner
from metacore.addons.outside import Outside
from metacore.api.addons import AddonServices
from metacore.api.connectors import ConnectorServices


@dataclass(frozen=True, slots=True)
class OutsideServices:
    connectors: ConnectorServices


def outside_services(outside: Outside, addons: AddonServices, runner: Runner) -> OutsideServices:
    credentials = outside.credentials
    tests = ConnectorTests(credentials, addons.registry, runner)
    return OutsideServices(connectors=ConnectorServices(credentials, tests))
