"""Every table of the kernel in one `MetaData`: what migrations are compared with and create-all makes."""

from metacore.orm.accounts import AuthSession, Organization, RefreshToken, RoleGrant, User, UserGrant
from metacore.orm.addons import (
    Addon,
    AddonMigration,
    AddonModel,
    AddonRequest,
    AddonSchema,
    Bundle,
    Epoch,
    Heartbeat,
    Installation,
    JournalEntry,
    Registry,
)
from metacore.orm.base import Base
from metacore.orm.capabilities import ModeRow, ViolationRow
from metacore.orm.connectors import ConnectorCredentials, HookDelivery
from metacore.orm.events import Event, EventCounter
from metacore.orm.jobs import Job
from metacore.orm.sequences import SequenceCounter

metadata = Base.metadata

__all__ = [
    "Addon",
    "AddonMigration",
    "AddonModel",
    "AddonRequest",
    "AddonSchema",
    "AuthSession",
    "Base",
    "Bundle",
    "ConnectorCredentials",
    "Epoch",
    "Event",
    "EventCounter",
    "Heartbeat",
    "HookDelivery",
    "Installation",
    "Job",
    "JournalEntry",
    "ModeRow",
    "Organization",
    "RefreshToken",
    "Registry",
    "RoleGrant",
    "SequenceCounter",
    "User",
    "UserGrant",
    "ViolationRow",
    "metadata",
]
