"""Everything that leads out of a kernel on behalf of addons, put together: requests, signed calls, credentials."""

from __future__ import annotations

from dataclasses import dataclass

from metacore.addons.backend_call import BackendCaller
from metacore.addons.egress import AddonEgress
from metacore.addons.installation_secrets import InstallationSecrets
from metacore.capabilities.enforcer import Enforcer
from metacore.connectors.credentials import Credentials
from metacore.db.database import Database
from metacore.egress.outbound import Outbound
from metacore.registry import Registry
from metacore.secrets import Sealer


@dataclass(frozen=True, slots=True)
class Outside:
    egress: AddonEgress
    backend: BackendCaller
    credentials: Credentials


def build_outside(
    database: Database, registry: Registry, outbound: Outbound, gate: Enforcer, sealer: Sealer | None
) -> Outside:
    egress = AddonEgress(outbound, gate)
    return Outside(
        egress,
        BackendCaller(egress, InstallationSecrets(database, sealer)),
        Credentials(database, registry, sealer),
    )
