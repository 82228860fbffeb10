"""The operator as a process: where everything is put together. `metacore operator` runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import kopf
from pydantic import ValidationError

from metacore import logs
from metacore.bundle.signature import TrustedKeys
from metacore.db.database import ENGINE_SECONDS, Database
from metacore.egress.broker import EgressConfig
from metacore.errors import Misconfigured
from metacore.installer.execute import Installer
from metacore.installer.request_worker import RequestWorker
from metacore.secrets import Sealer
from metacore.settings import Settings
from metacore_operator.addon import register
from metacore_operator.api_server import ApiServer
from metacore_operator.cluster.board import Board
from metacore_operator.cluster.health import Beats, serving
from metacore_operator.cluster.runner import WORK_LATE_SECONDS, ClusterRunner
from metacore_operator.cluster.secrets import ClusterSecrets
from metacore_operator.cluster.trust import SecretTrust
from metacore_operator.config import FINALIZER, configure, quieten
from metacore_operator.housekeeping import Housekeeping
from metacore_operator.leader import Leader, LeaseLost
from metacore_operator.metrics import OperatorMetrics
from metacore_operator.resources.spec import SourceKind
from metacore_operator.rollout.decide import Policy
from metacore_operator.rollout.evidence import DatabaseEvidence
from metacore_operator.rollout.objects import Objects, Release
from metacore_operator.rollout.runner import ModeRollouts
from metacore_operator.served import Refusals, until_served
from metacore_operator.settings import OperatorSettings
from metacore_operator.sources.config_map import ConfigMapSource
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.folder import FolderSource
from metacore_operator.sources.http import HttpSource
from metacore_operator.sources.oci import OciSource
from metacore_operator.sources.references import References
from metacore_operator.sources.source import Source
from metacore_operator.steps.context import Ports
from metacore_operator.steps.state import DatabaseState

log = logs.get_logger(__name__)

LEASE_LOOP = "lease"
LEASE_LATE_SECONDS = 60.0
ROLLOUT_LOOP = "rollout"
ROLLOUT_LATE_SECONDS = 120.0
REQUESTS_LOOP = "requests"
REQUESTS_LATE_SECONDS = ENGINE_SECONDS + 120.0
"""A statement of the loop waits no longer than that for a database which does not answer, and is tried again."""
DATABASE_RETRY_SECONDS = 3.0
EXIT_LEASE_LOST = 3


def read_operator_settings() -> OperatorSettings:
    """The operator's settings from the environment.

    Raises:
        Misconfigured: naming the variable.
    """
    try:
        return OperatorSettings()
    except (ValidationError, ValueError) as error:
        if isinstance(error, ValidationError):
            problems = error.errors(include_input=False)
            text = "; ".join(
                f"METACORE_OPERATOR_{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in problems
            )
        else:
            text = str(error)
        raise Misconfigured(text) from None


async def run(settings: Settings, operator: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT. A lost Lease ends the process at once, whatever is under way.

    Raises:
        MetacoreError: what is missing to start, or what ended by itself.
    """
    url = settings.owner_database_url.get_secret_value()
    if not url:
        raise Misconfigured("METACORE_OWNER_DATABASE_URL is not set: the database of the owner role")
    logs.configure(settings.log_format, settings.log_level)
    stop = asyncio.Event()
    _stop_on_signals(stop)
    identity = f"{settings.pod_name or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    beats, metrics = Beats(), OperatorMetrics()
    async with AsyncExitStack() as stack:
        api = await ApiServer.connect()
        stack.push_async_callback(api.close)
        port = await stack.enter_async_context(serving(beats, metrics, operator.host, operator.port))
        log.info("operator.started", identity=identity, port=port)
        beats.expect(LEASE_LOOP, LEASE_LATE_SECONDS)
        leader = Leader(api, operator.namespace, operator.lease, identity, on_try=lambda: beats.beat(LEASE_LOOP))
        if not await _unless_stopped(leader.acquire(), stop):
            return
        metrics.leads()
        stack.push_async_callback(leader.release)
        holding = asyncio.create_task(leader.hold())
        holding.add_done_callback(_ended)
        try:
            owner = Database(url, pool_size=operator.workers + 4, application_name="metacore-operator")
            stack.push_async_callback(owner.close)
            if not await _unless_stopped(opened(owner), stop):
                return
            await _work(settings, operator, api, owner, beats, metrics, identity, stop)
        finally:
            holding.remove_done_callback(_ended)
            holding.cancel()
    log.info("operator.stopped", identity=identity)


async def opened(database: Database, retry_seconds: float = DATABASE_RETRY_SECONDS) -> None:
    """Wait until the database can be opened. One that is away, or refuses the login, is told once and asked again: a
    process that ended would be started anew ever more rarely.
    """
    told = ""
    while True:
        try:
            await database.open()
            return
        except Misconfigured as error:
            if error.message != told:
                told = error.message
                log.error("operator.database_not_open", error=told)
        await asyncio.sleep(retry_seconds)


async def _work(
    settings: Settings,
    operator: OperatorSettings,
    api: ApiServer,
    owner: Database,
    beats: Beats,
    metrics: OperatorMetrics,
    identity: str,
    stop: asyncio.Event,
) -> None:
    trust = SecretTrust(
        api,
        operator.namespace,
        operator.trust_secret,
        settings.all_trusted_keys,
        allow_unsigned=settings.allow_unsigned_bundles,
    )
    master_key = settings.master_key.get_secret_value()
    sealer = Sealer(bytes.fromhex(master_key)) if master_key else None
    installer = Installer(owner, sealer=sealer)
    egress = EgressConfig.parse(
        settings.egress_allow_private, settings.egress_deny, settings.egress_proxy.get_secret_value()
    )
    ports = Ports(
        sources_of(operator, api, egress),
        trust.current,
        installer,
        DatabaseState(owner),
        references=References(api),
        secrets=ClusterSecrets(api),
    )
    runner = ClusterRunner(
        ports,
        Board(api, identity),
        trust,
        beats,
        metrics,
        operator,
        finalizer=FINALIZER,
        background=(
            request_worker(settings, owner, installer, trust.current, sealer, beats),
            Housekeeping(owner, installer, busy=lambda work: beats.busy(work, WORK_LATE_SECONDS)),
            _rollouts(operator, api, owner, beats, metrics, identity),
        ),
    )
    quieten()
    registry = kopf.OperatorRegistry()
    register(registry, runner, refusals_on(beats, metrics))
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run(stop))
        group.create_task(deliver(registry, operator, api, beats, stop))


def request_worker(
    settings: Settings,
    owner: Database,
    installer: Installer,
    trusted: Callable[[], TrustedKeys],
    sealer: Sealer | None,
    beats: Beats,
) -> RequestWorker:
    """A worker for tenants' requests that counts as late when it hangs; a long request that gets on does not."""
    beats.expect(REQUESTS_LOOP, REQUESTS_LATE_SECONDS)
    return RequestWorker(
        owner,
        installer,
        trusted,
        sealer,
        administrators=settings.mode_organizations,
        on_turn=lambda: beats.beat(REQUESTS_LOOP),
        busy=lambda work: beats.busy(work, WORK_LATE_SECONDS),
    )


def refusals_on(beats: Beats, metrics: OperatorMetrics) -> Refusals:
    """Shows namespaces whose Addons may not be read where administrators look: the others go on, so it stays ready."""

    def show(watched: str, words: str) -> None:
        beats.remark(f"Addons of {watched}", words)
        metrics.refused(watched, bool(words))

    return show


def _rollouts(
    operator: OperatorSettings, api: ApiServer, owner: Database, beats: Beats, metrics: OperatorMetrics, identity: str
) -> ModeRollouts:
    release = Release(operator.namespace, operator.config_map, operator.kernel_deployment)
    beats.expect(ROLLOUT_LOOP, ROLLOUT_LATE_SECONDS)
    return ModeRollouts(
        Objects(api, release, identity),
        DatabaseEvidence(owner),
        Policy(operator.canary_seconds, operator.most_violations),
        metrics,
        window=operator.violation_window,
        pulse=operator.pulse,
        on_turn=lambda: beats.beat(ROLLOUT_LOOP),
    )


def sources_of(operator: OperatorSettings, api: ApiServer, egress: EgressConfig) -> dict[SourceKind, Source]:
    references = References(api)
    downloader = Downloader(operator.source_hosts, egress=egress)
    sources: dict[SourceKind, Source] = {
        SourceKind.CONFIG_MAP: ConfigMapSource(references),
        SourceKind.HTTP: HttpSource(downloader, references),
        SourceKind.OCI: OciSource(downloader, references, operator.plain_registries),
    }
    if operator.addons_root:
        sources[SourceKind.PATH] = FolderSource(Path(operator.addons_root))
    return sources


async def deliver(
    registry: kopf.OperatorRegistry, operator: OperatorSettings, api: ApiServer, beats: Beats, stop: asyncio.Event
) -> None:
    """Run kopf, once Addons are served, until `stop` is set. It ends by itself only when it cannot go on; the process
    must not live on deaf.
    """
    if not await _unless_stopped(until_served(api, beats), stop):
        return
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=configure(kopf.OperatorSettings(), operator),
        standalone=True,
        clusterwide=operator.cluster_wide,
        namespaces=() if operator.cluster_wide else list(operator.watched),
        stop_flag=stop,
    )
    # kopf has just taken the signals for itself, and would end alone.
    _stop_on_signals(stop)
    await kopf.run_tasks(tasks, ignored=others)
    if not stop.is_set():
        raise Misconfigured("the watch on Addons ended; the log says why")


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Whether `work` ended before `stop` was set; otherwise it is given up."""
    task = asyncio.create_task(work)
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    return False


def _ended(holding: asyncio.Task[None]) -> None:
    """Another operator may be working from now on, so this one takes not a step more, not even to clean up."""
    error = None if holding.cancelled() else holding.exception()
    log.error("operator.lease_lost", error=str(error) if isinstance(error, LeaseLost) else type(error).__name__)
    os._exit(EXIT_LEASE_LOST)


def main() -> None:
    """As `metacore operator` with settings from the environment."""
    asyncio.run(run(Settings(), read_operator_settings()))


if __name__ == "__main__":
    main()
