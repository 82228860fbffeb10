"""The table of contents of the HTTP API: every router of the kernel, in the order in which routes are tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from starlette.types import StatelessLifespan

from metacore.addons.actions import ActionService
from metacore.api.actions import build_actions_router
from metacore.api.addons import AddonServices, build_addons_router
from metacore.api.auth import build_auth_router
from metacore.api.connectors import build_connectors_router
from metacore.api.deps import OptionalPrincipalDependency, PrincipalDependency
from metacore.api.enforcement import EnforcementServices, build_enforcement_router
from metacore.api.health import Check, build_health_router
from metacore.api.hooks import build_hooks_router
from metacore.api.installations import build_installations_router
from metacore.api.jobs import build_jobs_router
from metacore.api.metadata import build_metadata_router
from metacore.api.navigation import CoreGroups, build_navigation_router
from metacore.api.openapi import build_docs_router
from metacore.api.options import build_options_router
from metacore.api.outside import OutsideServices
from metacore.api.permissions import build_permissions_router
from metacore.api.records import RecordsEndpoint, build_records_router
from metacore.api.route import Around, prepare
from metacore.api.tools import build_tools_router
from metacore.api.transfer import build_transfer_router
from metacore.api.users import build_users_router
from metacore.api.ws import build_ws_router
from metacore.auth.service import AuthService
from metacore.dynamic.aggregate import FacetsService
from metacore.dynamic.exports import ExportService
from metacore.dynamic.imports import ImportService
from metacore.dynamic.options import OptionsService
from metacore.dynamic.search import SearchService
from metacore.metadata.service import MetadataService
from metacore.metadata.translation import Translator
from metacore.metrics import Metrics
from metacore.permissions.service import PermissionService
from metacore.registry import Registry
from metacore.version import __version__
from metacore.ws.hub import Hub


@dataclass(frozen=True, slots=True)
class KernelServices:
    """Everything that routes call. `checks` are what `/readyz` asks."""

    auth: AuthService
    permissions: PermissionService | None
    metadata: MetadataService
    translator: Translator
    registry: Registry
    records: RecordsEndpoint
    options: OptionsService
    search: SearchService
    facets: FacetsService
    exports: ExportService
    imports: ImportService
    actions: ActionService
    addons: AddonServices
    enforcement: EnforcementServices
    outside: OutsideServices
    core_groups: CoreGroups
    hub: Hub
    metrics: Metrics | None
    checks: Mapping[str, Check]
    principal: PrincipalDependency
    optional: OptionalPrincipalDependency


def kernel_routes(
    services: KernelServices,
    *,
    prefix: str,
    lifespan: StatelessLifespan[FastAPI],
    described: FastAPI | APIRouter,
    around: Around | None = None,
) -> APIRouter:
    """One router with every route of the kernel: the API under `prefix`, health, metrics and /docs at the root.

    `described` is what `/openapi.json` tells of; `lifespan` starts and stops the kernel with it. `around` is the
    request middleware, where it does not stand in front of the application.
    """
    routes = APIRouter(lifespan=lifespan)
    at_root = (
        build_health_router(services.checks, services.metrics),
        build_docs_router(
            described,
            services.registry,
            services.permissions,
            services.optional,
            services.translator,
            prefix=prefix,
            version=__version__,
        ),
    )
    under_prefix = (
        build_auth_router(services.auth),
        build_users_router(services.auth, services.permissions),
        build_permissions_router(services.permissions, services.auth),
        build_metadata_router(services.metadata, services.permissions, services.principal),
        build_navigation_router(
            services.registry, services.permissions, services.optional, core_groups=services.core_groups
        ),
        build_addons_router(services.addons, services.principal, services.optional),
        build_installations_router(services.addons, services.principal),
        build_jobs_router(services.addons, services.principal),
        build_enforcement_router(services.enforcement, services.principal),
        build_tools_router(services.outside.tools, services.addons, services.principal),
        build_hooks_router(services.outside.hooks),
        build_connectors_router(services.outside.connectors, services.addons, services.principal),
        build_options_router(services.options, services.search, services.facets, services.principal),
        build_transfer_router(services.exports, services.imports, services.principal),
        build_ws_router(services.hub, services.auth.authenticate),
        build_actions_router(services.actions, services.records, services.principal),
        # Last: its `/dynamic/{model}/{id}` would answer for the routes above.
        build_records_router(services.records, services.principal),
    )
    for router in at_root:
        prepare(router, around)
        routes.include_router(router)
    for router in under_prefix:
        prepare(router, around)
        routes.include_router(router, prefix=prefix)
    return routes
