"""The kernel as one object, and the only place where its objects are wired.

`App` is what a host embeds and what `metacore serve` runs; nothing here decides anything, it only connects rooms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware

from metacore.addons.code import AddonCode, CodeNeeds
from metacore.addons.frontends import FrontendStore
from metacore.addons.heartbeat import Heartbeat
from metacore.addons.jobs.service import Jobs
from metacore.addons.loader import Loader
from metacore.addons.settings import InstallationSettings
from metacore.api.addons import AddonServices
from metacore.api.deps import authenticated, optional_principal
from metacore.api.enforcement import EnforcementServices
from metacore.api.errors import refuse_in_the_envelope
from metacore.api.lane import Lane
from metacore.api.middleware import RequestMiddleware
from metacore.api.navigation import groups_for
from metacore.api.outside import outside_services
from metacore.api.records import RecordsEndpoint
from metacore.api.route import routes_within
from metacore.api.routes import KernelServices, kernel_routes
from metacore.app_config import AppConfig as AppConfig
from metacore.app_config import auth_config
from metacore.auth.service import AuthService
from metacore.capabilities.access import Mode
from metacore.capabilities.enforcement import Enforcement
from metacore.db.database import Database
from metacore.db.listen import Listener
from metacore.db.migrate import create_all, current_revision, head_revision, suffices
from metacore.db.roles import check_kernel_role
from metacore.dynamic.aggregate import FacetsService
from metacore.dynamic.exports import ExportService
from metacore.dynamic.hook_points import HookRegistry
from metacore.dynamic.import_files import ImportLimits
from metacore.dynamic.imports import ImportService
from metacore.dynamic.options import OptionsService
from metacore.dynamic.search import SearchService
from metacore.dynamic.service import DynamicService
from metacore.egress.broker import Broker
from metacore.errors import Misconfigured, Unavailable
from metacore.events.bus import Bus
from metacore.events.capability_gate import CapabilityGate
from metacore.events.relay import Relay
from metacore.manifest.names import MODEL_KEY, MODEL_KEY_FORM
from metacore.metadata.service import MetadataService
from metacore.metadata.validators import OrganizationValidators
from metacore.metrics import Metrics
from metacore.modelbase import Factory, create_host_tables, load_host_model
from metacore.permissions.service import PermissionService
from metacore.registry import Registry, Snapshot
from metacore.secrets import Sealer
from metacore.translator import CatalogTranslator, Translator
from metacore.ws.fanout import reach_other_kernels
from metacore.ws.hub import Hub


class App:
    """The kernel, ready to be mounted.

    `register_model` before the start, `mount` once, and the application's lifespan starts and stops the rest; a host
    without one uses `async with app:`. Attributes: `auth`, `metadata`, `permission`, `dynamic`, `hub`, `hooks`, `bus`,
    `registry`, `enforcer`, `violations`, `outbound`, `functions`, `runner`, `metrics`, `database`; `principal` is the
    FastAPI dependency that gives a route its caller.
    """

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self._owns_database = isinstance(config.database, str)
        self.database = Database(config.database) if isinstance(config.database, str) else config.database
        self._listener = Listener(self.database.direct_url) if self.database.dialect == "postgresql" else None
        self.metrics = Metrics(process=config.enable_metrics)
        self.registry = Registry()
        self.enforcement = Enforcement(
            self.database,
            self.registry,
            enforce=config.enforce,
            fixed=config.mode_fixed,
            file=config.enforce_file,
            metrics=self.metrics,
        )
        self.enforcer, self.violations = self.enforcement.enforcer, self.enforcement.recorder
        self.hooks = HookRegistry()
        self.bus = Bus(CapabilityGate(self.enforcer, self.registry), self.metrics)
        self.hub = Hub(self.metrics)
        if self._listener is not None:
            reach_other_kernels(self.hub, self.database, self._listener)
        self.outbound = Broker(config.egress, metrics=self.metrics)
        self.auth = AuthService(self.database, auth_config(config), self._listener)
        self.auth.on_invalidate(self.hub.invalidate)
        self.principal = authenticated(self.auth)
        self.permission = self._permission_service()
        self.relay = Relay(self.database, self.bus, self._listener, metrics=self.metrics)
        self._validators = OrganizationValidators(self.database)
        self.dynamic = self._dynamic_service(self.permission)
        # An import asks once for `<model>.import`, an action for its own capability; what they do to rows is not asked
        # for again, and of code of addons the enforcer is asked.
        self._ungated = self._dynamic_service(None)
        self._catalogs = CatalogTranslator(config.catalogs)
        self.translator: Translator = config.translator or self._catalogs
        self.metadata = MetadataService(
            self.registry, self.translator, ttl=config.metadata_ttl, validators=self._validators
        )
        self.registry.on_change(self._registry_changed)
        self._sealer = Sealer(config.master_key) if config.master_key else None
        self._settings = InstallationSettings(self.database, self.registry, self._sealer)
        self._code = self._addon_code()
        self.functions, self.runner = self._code.functions, self._code.runner
        self.loader = Loader(
            self.database,
            self.registry,
            listener=self._listener,
            trusted=config.trusted_keys,
            metrics=self.metrics,
            code=self._code.sandbox,
        )
        self.heartbeat = Heartbeat(
            self.database,
            self.loader,
            interval=config.heartbeat_interval,
            pod=config.pod_name,
            metrics=self.metrics,
        )
        self.jobs = Jobs(
            self.database,
            self.registry,
            self.runner,
            self.bus,
            load=self.loader.load,
            leading=lambda: self.relay.leading,
            gate=self.enforcer,
            listener=self._listener,
            metrics=self.metrics,
        )
        self.enforcement.on_mode(self._mode_read)
        self.heartbeat.before(self.enforcement.modes.follow)
        self._core_groups = groups_for(config.core_groups)
        self._factories: dict[str, Factory] = {}
        self._mounted = False
        self._running: AsyncExitStack | None = None

    def register_model(self, key: str, factory: Factory) -> Self:
        """Serve a model of the host under `key`. `factory` gives a fresh definition at each call (docs/embedding.md).

        Raises:
            Misconfigured: the App runs already, or the key is taken or cannot stand in a URL.
        """
        if MODEL_KEY.fullmatch(key) is None:
            raise Misconfigured(f"model {key!r}: the key {MODEL_KEY_FORM}")
        if self._running is not None:
            raise Misconfigured(f"model {key!r}: register models before the App starts")
        if key in self._factories:
            raise Misconfigured(f"model {key!r} is registered twice")
        self._factories[key] = factory
        return self

    def mount(self, target: FastAPI | APIRouter, prefix: str = "/api") -> APIRouter:
        """Put every route of the kernel under `prefix` of `target`, and health, metrics and /docs at its root.

        Given an application, the fast lane and the request middleware go in front, inside the host's own middleware;
        given a router, the same routes answer without the lane, each within the request middleware. Returns the
        authenticated router under `prefix`: routes that the host adds to it, also later, ask for a valid token.

        Raises:
            Misconfigured: it is mounted already, or the prefix is no path.
        """
        prefix = prefix.rstrip("/")
        if self._mounted:
            raise Misconfigured("an App is mounted once; make another App for another place")
        if prefix and (not prefix.startswith("/") or "//" in prefix):
            raise Misconfigured(f"the prefix {prefix!r} must start with '/', and each '/' be followed by a name")
        self._mounted = True
        services = self._services()
        front: dict[str, Any] = {
            "metrics": self.metrics if self.config.enable_metrics else None,
            "access_log": self.config.access_log,
            "prefix": "" if self.config.standalone else prefix,
            "max_body_bytes": self.config.max_body_bytes,
            "max_upload_bytes": self.config.max_upload_bytes,
        }
        around = None if isinstance(target, FastAPI) else RequestMiddleware(target, **front).around
        routes = kernel_routes(services, prefix=prefix, lifespan=self._lifespan, described=target, around=around)
        target.include_router(routes)
        own = APIRouter(route_class=routes_within(around), dependencies=[Depends(self.principal)])
        target.include_router(own, prefix=prefix)
        if isinstance(target, FastAPI):
            refuse_in_the_envelope(target, prefix)
            # From the outermost to the innermost; what the host adds later stands in front of these.
            target.user_middleware += [
                Middleware(RequestMiddleware, **front),
                Middleware(Lane, prefix=prefix, endpoint=services.records, auth=self.auth),
            ]
        return own

    async def start(self) -> None:
        """Open the database, bring its tables to the head, load what is installed, begin to follow changes.

        Raises:
            Misconfigured: what `AppConfig` says cannot work; the message names it.
        """
        if self._running is not None:
            return
        async with AsyncExitStack() as stack:
            await self.database.open()
            if self._owns_database:
                stack.push_async_callback(self.database.close)
            stack.callback(self.auth.close)
            stack.push_async_callback(self.outbound.close)
            await self._prepare_tables()
            for key, factory in self._factories.items():
                self.registry.set_host_model(await load_host_model(self.database, key, factory))
            await self.enforcement.start()
            stack.push_async_callback(self.enforcement.stop)
            if self._listener is not None:
                await self._listener.start()
                stack.push_async_callback(self._listener.stop)
            stack.push_async_callback(self.bus.stop)
            stack.push_async_callback(self.hub.stop)
            await self._code.start()
            stack.push_async_callback(self._code.stop)
            await self.relay.start()
            stack.push_async_callback(self.relay.stop)
            await self.loader.start()
            stack.push_async_callback(self.loader.stop)
            self.heartbeat.on_epochs(self._epochs_read)
            self.loader.on_loaded(self.heartbeat.told)
            await self.heartbeat.start()
            stack.push_async_callback(self.heartbeat.stop)
            await self.jobs.start()
            stack.push_async_callback(self.jobs.stop)
            self._running = stack.pop_all()

    async def stop(self) -> None:
        """Stop what `start` started, in reverse. Stopping twice does nothing."""
        running, self._running = self._running, None
        if running is not None:
            await running.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with self:
            yield

    async def _prepare_tables(self) -> None:
        config = self.config
        if config.require_kernel_role:
            await check_kernel_role(self.database)
        revision = await current_revision(self.database)
        if config.run_migrations or (config.run_migrations is False and revision is None):
            await create_all(self.database)
        elif revision is None:
            raise Misconfigured(
                f"{self.database.shown_url} holds no tables of the kernel: run `metacore migrate`, or let the App make"
                " them with run_migrations=True"
            )
        if config.create_tables and self._factories:
            await create_host_tables(self.database, self._factories)

    def _dynamic_service(self, permissions: PermissionService | None) -> DynamicService:
        return DynamicService(
            self.database,
            self.registry,
            hooks=self.hooks,
            permissions=permissions,
            validators=self._validators,
            on_commit=self.relay.wake,
            max_per_page=self.config.max_per_page,
            coalesce=self.config.coalesce,
            metrics=self.metrics,
        )

    def _addon_code(self) -> AddonCode:
        return AddonCode(
            CodeNeeds(
                database=self.database,
                registry=self.registry,
                outbound=self.outbound,
                gate=self.enforcer,
                bus=self.bus,
                hooks=self.hooks,
                settings=self._settings,
                sealer=self._sealer,
                dynamic=self._ungated,
                permissions=self.permission,
                on_commit=self.relay.wake,
                metrics=self.metrics,
                cache_dir=self.config.cache_dir,
                threads=self.config.wasm_threads or None,
            )
        )

    def _permission_service(self) -> PermissionService | None:
        store = self.config.permission_store
        if store is None:
            return None
        return PermissionService(
            store, tuple(self.config.super_roles), self.config.permission_ttl, listener=self._listener
        )

    def _services(self) -> KernelServices:
        config = self.config
        frontends = FrontendStore(self.database, cache_dir=config.cache_dir)
        records = RecordsEndpoint(self.dynamic, config.max_body_bytes)
        optional = optional_principal(self.auth)
        options = OptionsService(self.database, self.registry, permissions=self.permission, translator=self.translator)
        addons = AddonServices(
            database=self.database,
            registry=self.registry,
            settings=self._settings,
            frontends=frontends,
            records=records,
            permissions=self.permission,
            max_upload_bytes=config.max_upload_bytes,
            sealer=self._sealer,
            wait_seconds=config.request_wait,
            load=self.loader.load,
        )
        return KernelServices(
            auth=self.auth,
            permissions=self.permission,
            metadata=self.metadata,
            translator=self.translator,
            registry=self.registry,
            records=records,
            options=options,
            search=SearchService(self.database, self.registry, permissions=self.permission),
            facets=FacetsService(self.database, self.registry, permissions=self.permission, options=options),
            exports=ExportService(self.database, self.registry, permissions=self.permission),
            imports=ImportService(
                self._ungated,
                self.registry,
                permissions=self.permission,
                validators=self._validators,
                custom_validators=self.dynamic.custom_validators,
                limits=ImportLimits(max_bytes=config.max_upload_bytes),
            ),
            actions=self._code.actions,
            addons=addons,
            enforcement=EnforcementServices(
                self.enforcement, addons, frozenset(config.mode_organizations), config.max_per_page
            ),
            outside=outside_services(self._code.outside, addons, self.runner, max_body=config.max_body_bytes),
            core_groups=self._core_groups,
            hub=self.hub,
            metrics=self.metrics if config.enable_metrics else None,
            checks={
                "database": self._check_database,
                "migrations": self._check_migrations,
                "registry": self._check_registry,
                "heartbeat": self._check_heartbeat,
            },
            principal=self.principal,
            optional=optional,
        )

    def _registry_changed(self, snapshot: Snapshot) -> None:
        self._catalogs.replace_addons({key: addon.manifest.i18n for key, addon in snapshot.addons.items()})
        self.metadata.invalidate(snapshot.revision)

    def _mode_read(self, mode: Mode) -> None:
        self.heartbeat.mode = mode.value

    def _epochs_read(self, epochs: Mapping[str, int]) -> None:
        self.auth.refresh_epoch(epochs.get("auth", 0))
        if self.permission is not None:
            self.permission.refresh_epoch(epochs.get("permissions", 0))

    async def _check_database(self) -> None:
        async with self.database.transaction(None) as connection:
            await connection.exec_driver_sql("SELECT 1")

    async def _check_migrations(self) -> None:
        revision = await current_revision(self.database)
        if not suffices(revision):
            raise Unavailable(f"the database is at {revision or 'no revision'}, this build needs {head_revision()}")

    async def _check_registry(self) -> None:
        if not self.registry.loaded:
            raise Unavailable("the registry of addons is not loaded yet")

    async def _check_heartbeat(self) -> None:
        if not self.heartbeat.healthy:
            raise Unavailable("heartbeats cannot be written")
