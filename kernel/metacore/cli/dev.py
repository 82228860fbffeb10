"""`metacore dev`: everything on one machine with nothing installed.

An embedded PostgreSQL, the reconcile over a folder of Addons, and a kernel beside it that gets the kernel role's
credentials only. All of it lives in one data folder, and all of it ends with Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from metacore import logs
from metacore.auth.service import AuthConfig, AuthService
from metacore.cli import places
from metacore.cli.addon_code import end_compilers
from metacore.cli.dev_builds import Build, build_missing, load_or_make_key, needing_compilers
from metacore.cli.dev_console import DevConsole
from metacore.cli.dev_secrets import DevSecrets, OwnerLogin, load_login, load_secrets
from metacore.cli.environment import read_settings
from metacore.cli.listening import listen, shown_address
from metacore.cli.owner_database import DATABASE
from metacore.cli.supervise import Supervisor, wait
from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import migrate
from metacore.db.roles import KERNEL_ROLE, OWNER_ROLE, prepare_database
from metacore.errors import Misconfigured, Unavailable
from metacore.identity import ANY_ORGANIZATION
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.secrets import Sealer
from metacore_operator.conditions import Event
from metacore_operator.folder.runner import FolderRunner
from metacore_operator.folder.secrets import FolderSecrets
from metacore_operator.folder.store import Store
from metacore_operator.housekeeping import Housekeeping
from metacore_operator.outcomes import Reason
from metacore_operator.resources.addon import Addon
from metacore_operator.resources.spec import SourceKind
from metacore_operator.settings import ReconcileSettings
from metacore_operator.sources.folder import FolderSource
from metacore_operator.steps.context import Ports
from metacore_operator.steps.state import DatabaseState
from metacore_operator.trust import Trust

ORGANIZATION = "My organization"
NOT_FOR_THE_KERNEL = ("METACORE_OWNER_DATABASE_URL", "METACORE_DIRECT_DATABASE_URL", "METACORE_TRANSACTION_POOLER")
WATCH_SECONDS = 2.0
PULSE_SECONDS = 0.5
"""Quicker than in production, where a fleet asks: who registers an organization here wants to see its addons."""
TOLD = frozenset({Reason.SUCCEEDED, Reason.INSTALLED, Reason.DISABLED, Reason.REMOVED, Reason.SUSPENDED})
TOLD_STEPS = frozenset({"schema", "migration", "table", "seed"})
"""Of what goes well, people are told the outcome; the status of each Addon holds the rest."""


def dev(
    addons: Annotated[Path, typer.Option(help="Folder with Addon YAML files and their bundles.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the kernel; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address of the kernel.")] = "127.0.0.1",
    data: Annotated[
        Path | None, typer.Option(help="Where everything is kept; default: the user's data folder.")
    ] = None,
    trust: Annotated[
        list[Path], typer.Option(exists=True, dir_okay=False, help="File with public keys that may sign bundles, too.")
    ] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes of the kernel.")] = 1,
) -> None:
    """Run PostgreSQL, the addons of a folder and the kernel on this machine until Ctrl-C."""
    if not addons.is_dir():
        raise Misconfigured(f"there is no folder {addons}")
    with listen(host, port) as listener:
        folder = (data or places.data_home()).expanduser().absolute()
        asyncio.run(Development(addons.absolute(), folder, listener, trust, workers).run())


class Development:
    """One run of `metacore dev`, from the first line to the last."""

    def __init__(self, addons: Path, data: Path, listener: socket.socket, trust: list[Path], workers: int) -> None:
        self._addons = addons
        self._data = data
        self._listener = listener
        self._trust_files = trust
        self._workers = workers
        self._url = shown_address(listener)
        self._console = DevConsole()
        self._stop = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._work: asyncio.Task[None] | None = None
        self._login: OwnerLogin | None = None
        self._announced = False
        self._compiling: Mapping[str, str] = {}

    async def run(self) -> None:
        """Start, serve until SIGINT or SIGTERM, stop.

        Raises:
            MetacoreError: what could not be started, or what ended by itself.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._work = asyncio.create_task(self._run())
        try:
            await self._work
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        self._console.step("stopped")

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            if self._supervisor is not None:
                self._supervisor.hurry()
            return
        self._stop.set()
        end_compilers()
        self._console.step("stopping (once more to hurry)")
        if self._supervisor is None and self._work is not None:
            self._work.cancel()  # Still starting.

    async def _run(self) -> None:
        logs.configure("console", "warning")
        async with AsyncExitStack() as stack:
            self._make_folder()
            trust = await asyncio.to_thread(self._prepare_bundles)
            self._console.step(f"starting PostgreSQL in {self._data / 'postgres'}")
            server = await stack.enter_async_context(EmbeddedServer(self._data / "postgres"))
            # Only now, when nobody else can be using this folder.
            known = load_secrets(self._data / "secrets.json")
            owner = await self._prepare_database(server, known)
            stack.push_async_callback(owner.close)
            await self._first_owner(owner, known)
            self._supervisor = Supervisor(
                [sys.executable, "-m", "metacore.cli", "serve", "--fd", str(self._listener.fileno()), "--with-parent",
                 "--workers", str(self._workers)],
                environment=self._kernel_environment(server, known, trust),
                inherited=[self._listener.fileno()],
                on_crash=self._crashed,
            )  # fmt: skip
            self._console.step("starting the kernel")
            runner = self._runner(owner, known, trust)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._supervisor.run(self._stop))
                    group.create_task(runner.run(self._stop))
                    group.create_task(self._announce())
                    group.create_task(self._compile())
                    group.create_task(self._watch_database(server))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None

    # Starting

    def _make_folder(self) -> None:
        try:
            self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Misconfigured(f"the data folder {self._data} cannot be made: {error.strerror}") from error

    def _prepare_bundles(self) -> Trust:
        settings = read_settings()
        key = load_or_make_key(places.default_key_path())
        self._tell_built(build_missing(self._addons, key))
        self._compiling = needing_compilers(self._addons, key)
        keys = (bytes(key.verify_key).hex(), *settings.all_trusted_keys)
        return Trust(self._trust_files, keys, allow_unsigned=settings.allow_unsigned_bundles)

    def _tell_built(self, builds: Sequence[Build]) -> None:
        for build in builds:
            if build.problem:
                self._console.bad(f"{build.addon}: cannot build {build.path}: {build.problem}")
            else:
                self._console.step(f"{build.addon}: built and signed {build.path}")

    async def _compile(self) -> None:
        """Build what needs a compiler while the kernel serves already."""
        if not self._compiling or not await self._ready():
            return
        key = load_or_make_key(places.default_key_path())
        for name, language in list(self._compiling.items()):
            self._console.step(f"{name}: compiling {language} code, which may take a minute the first time")
            builds = await asyncio.to_thread(build_missing, self._addons, key, [name])
            if self._stop.is_set():
                return
            self._tell_built(builds)
            self._compiling = {other: word for other, word in self._compiling.items() if other != name}

    async def _prepare_database(self, server: EmbeddedServer, known: DevSecrets) -> Database:
        await prepare_database(
            server.superuser_url,
            database=DATABASE,
            owner_password=known.owner_password,
            kernel_password=known.kernel_password,
        )
        url = server.url(OWNER_ROLE, known.owner_password, DATABASE)
        head = await migrate(url)
        self._console.step(f"PostgreSQL is ready, tables at {head}")
        return await Database.connect(url, pool_size=5, application_name="metacore-dev")

    async def _first_owner(self, owner: Database, known: DevSecrets) -> None:
        """Register the first owner where there is no user at all. The login is kept before it is used, so that a kill
        in between loses nothing."""
        file = self._data / "owner.json"
        users = await owner.postgres.fetchval("SELECT count(*) FROM users")
        if users and not file.exists():
            return
        self._login = load_login(file, self._url)
        if users:
            return
        auth = AuthService(owner, AuthConfig(jwt_secrets=(known.jwt_secret,)))
        try:
            await auth.register("Owner", self._login.email, self._login.password, ORGANIZATION)
        finally:
            auth.close()
        self._console.good(f"first owner {self._login.email}, password {self._login.password}")
        self._console.step(f"the login is kept in {file}; it is not shown again")

    def _kernel_environment(self, server: EmbeddedServer, known: DevSecrets, trust: Trust) -> Mapping[str, str]:
        """What the kernel gets: its own role's credentials, never the owner's."""
        given = {name: value for name, value in os.environ.items() if name not in NOT_FOR_THE_KERNEL}
        trusted = trust.current()
        return {
            "METACORE_LOG_FORMAT": "console",
            "METACORE_LOG_LEVEL": "info",
            "METACORE_CACHE_DIR": str(self._data / "cache"),
            **given,
            "METACORE_MODE_ORGANIZATIONS": ",".join(_administrators()),
            "METACORE_DATABASE_URL": server.url(KERNEL_ROLE, known.kernel_password, DATABASE),
            "METACORE_JWT_SECRETS": known.jwt_secret,
            "METACORE_MASTER_KEY": known.master_key,
            "MARKETPLACE_PUBKEYS": ",".join(key.hex() for key in trusted.keys),
            "PYTHONUNBUFFERED": "1",
        }

    def _runner(self, owner: Database, known: DevSecrets, trust: Trust) -> FolderRunner:
        sealer = Sealer(bytes.fromhex(known.master_key))
        installer = Installer(owner, sealer=sealer)
        ports = Ports(
            sources={SourceKind.PATH: FolderSource(self._addons)},
            trusted=trust.current,
            installer=installer,
            state=DatabaseState(owner),
            secrets=FolderSecrets(self._data / "addons"),
        )
        return FolderRunner(
            self._addons,
            Store(self._data / "addons"),
            ports,
            trust,
            settings=ReconcileSettings(pulse=PULSE_SECONDS),
            companions=[
                RequestWorker(owner, installer, trust.current, sealer, administrators=_administrators()),
                Housekeeping(owner, installer),
            ],
            on_event=self._happened,
            on_progress=self._progressed,
        )

    # Running

    async def _announce(self) -> None:
        if not await self._ready():
            return
        self._announced = True
        login = f"{self._data / 'owner.json'}" if self._login is not None else "made in an earlier run"
        self._console.panel(
            "Metacore",
            [
                ("API", f"{self._url}/api"),
                ("Docs", f"{self._url}/docs"),
                ("Login", login),
                ("Addons", str(self._addons)),
                ("Data", str(self._data)),
                ("Stop", "Ctrl-C"),
            ],
        )

    async def _ready(self) -> bool:
        """Wait until the kernel says that it is ready; false when we are asked to stop first."""
        while not self._stop.is_set():
            if await self._says_ready():
                return True
            await wait(self._stop, 0.2)
        return False

    async def _says_ready(self) -> bool:
        host, port = self._listener.getsockname()[:2]
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(local, port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def _watch_database(self, server: EmbeddedServer) -> None:
        while not self._stop.is_set():
            if server.process_id is None:
                raise Unavailable(f"the embedded PostgreSQL ended by itself; see {server.data / 'server.log'}")
            await wait(self._stop, WATCH_SECONDS)

    def _happened(self, addon: Addon, event: Event) -> None:
        name = addon.metadata.name
        if event.type == "Normal":
            if event.reason in TOLD:
                self._console.good(f"{name}: {event.message}")
        elif event.reason is Reason.SOURCE_UNAVAILABLE and addon.full_name in self._compiling:
            return  # It is being built.
        elif self._announced or event.reason is not Reason.NO_KERNELS:
            self._console.bad(f"{name}: {event.reason.value}: {event.message}")

    def _progressed(self, addon: Addon, text: str) -> None:
        if text.split(" ", 1)[0] in TOLD_STEPS:
            self._console.step(f"{addon.metadata.name}: {text}")

    def _crashed(self, code: int, delay: float) -> None:
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        self._console.bad(f"the kernel ended {how}; starting it again in {delay:g} s")


def _administrators() -> Sequence[str]:
    """Whoever works on this machine administers it, unless the environment names organizations."""
    settings = read_settings()
    return settings.mode_organizations if "mode_organizations" in settings.model_fields_set else [ANY_ORGANIZATION]
