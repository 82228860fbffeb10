"""Metacore's public API: what a program that embeds the kernel imports. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from metacore.version import __version__

if TYPE_CHECKING:
    from metacore.addons.compiled import BootContext, CompiledAddon, Declarative, LifecycleContext
    from metacore.app import App
    from metacore.app_config import AppConfig
    from metacore.asgi import create_asgi
    from metacore.db.database import Database
    from metacore.dynamic.hook_points import HookContext
    from metacore.errors import MetacoreError, Problem, Refused
    from metacore.host import Host, HostConfig
    from metacore.identity import Principal
    from metacore.metadata.model import ActionDef, ColumnDef, FieldDef, ModalMetadata, OptionDef, TableMetadata
    from metacore.modelbase import Model
    from metacore.permissions.database_store import DatabasePermissionStore
    from metacore.permissions.store import MemoryPermissionStore

PUBLIC: Final[dict[str, str]] = {
    "ActionDef": "metacore.metadata.model",
    "App": "metacore.app",
    "AppConfig": "metacore.app_config",
    "BootContext": "metacore.addons.compiled",
    "ColumnDef": "metacore.metadata.model",
    "CompiledAddon": "metacore.addons.compiled",
    "Database": "metacore.db.database",
    "DatabasePermissionStore": "metacore.permissions.database_store",
    "Declarative": "metacore.addons.compiled",
    "FieldDef": "metacore.metadata.model",
    "HookContext": "metacore.dynamic.hook_points",
    "Host": "metacore.host",
    "HostConfig": "metacore.host",
    "LifecycleContext": "metacore.addons.compiled",
    "MemoryPermissionStore": "metacore.permissions.store",
    "MetacoreError": "metacore.errors",
    "ModalMetadata": "metacore.metadata.model",
    "Model": "metacore.modelbase",
    "OptionDef": "metacore.metadata.model",
    "Principal": "metacore.identity",
    "Problem": "metacore.errors",
    "Refused": "metacore.errors",
    "TableMetadata": "metacore.metadata.model",
    "create_asgi": "metacore.asgi",
}

__all__ = [
    "ActionDef",
    "App",
    "AppConfig",
    "BootContext",
    "ColumnDef",
    "CompiledAddon",
    "Database",
    "DatabasePermissionStore",
    "Declarative",
    "FieldDef",
    "HookContext",
    "Host",
    "HostConfig",
    "LifecycleContext",
    "MemoryPermissionStore",
    "MetacoreError",
    "ModalMetadata",
    "Model",
    "OptionDef",
    "Principal",
    "Problem",
    "Refused",
    "TableMetadata",
    "__version__",
    "create_asgi",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'metacore' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
