"""The installer: from a signed bundle to schemas, tables and rows that every kernel serves.

Plan, then journaled steps, then one commit that makes it visible. Whatever kills the process in between, the next run
plans from what is there and goes on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metacore.bundle.read import Bundle, read_bundle
from metacore.bundle.signature import Signature, TrustedKeys, verify
from metacore.db.database import Database
from metacore.db.roles import KERNEL_ROLE
from metacore.errors import InvalidInput
from metacore.installer import (
    belongings,
    farewell,
    guest_roles,
    lifecycle,
    migration_role,
    observe,
    preflight,
    register,
    rehearsal,
    runner,
    scratch,
    standing,
)
from metacore.installer.failures import sqlstate
from metacore.installer.lifecycle import StoredSecret
from metacore.installer.observe import driver_of
from metacore.installer.pending import pending_migrations
from metacore.installer.plan import Plan, build_plan, targets_of
from metacore.installer.register import Wish
from metacore.installer.report import InstallReport as InstallReport
from metacore.installer.report import named
from metacore.installer.runner import Runner
from metacore.installer.settings_merge import changed_settings, check_settings
from metacore.installer.standing import Asker
from metacore.installer.state import State
from metacore.installer.steps import Rehearsal, StepKind
from metacore.installer.wasm_check import check_wasm
from metacore.manifest.model import Capability
from metacore.secrets import Sealer

FAREWELL_SECONDS = 30.0
MODES = ("inherit", "enforce")
SOURCES = ("bundle", "compiled", "federated")
RESHAPING = frozenset({StepKind.SCHEMA, StepKind.MIGRATION, StepKind.TABLE, StepKind.INDEX, StepKind.FOREIGN_KEY})


def _nothing(_text: str) -> None:
    return None


class Installer:
    """Installs, changes and removes addons as the owner role of one database.

    `host_models` gives the models that the host serves, by key, with their tables. `point` is for tests: it is called
    with a word before, inside and after every step. `farewell_seconds` is how long uninstall handlers may take before
    the addon goes all the same.
    """

    def __init__(
        self,
        owner: Database,
        *,
        sealer: Sealer | None = None,
        kernel_role: str = KERNEL_ROLE,
        host_models: Callable[[], Mapping[str, str]] = dict,
        point: Callable[[str], None] = _nothing,
        farewell_seconds: float = FAREWELL_SECONDS,
    ) -> None:
        self._owner = owner
        self._farewell_seconds = farewell_seconds
        self._sealer = sealer
        self._kernel_role = kernel_role
        self._host_models = host_models
        self._point = point
        self._rehearsing = asyncio.Semaphore(1)

    async def plan(self, bundle: Bundle, organizations: Sequence[uuid.UUID], *, allow_downgrade: bool = False) -> Plan:
        """What installing `bundle` for `organizations` would do. Reads only; without steps there is nothing to do.

        Whose the key is and whether the signature holds are questions of `install`.

        Raises:
            ModelConflict, MigrationRefused, Refused, Conflict, NotFound: it may not be installed.
        """
        async with runner.transaction(self._owner, reading=True) as connection:
            state = await self._load(connection, bundle, organizations)
        owner_uid = state.addon.owner_uid if state.addon is not None else ""
        preflight.check_bundle(bundle, state, organizations, owner_uid=owner_uid, allow_downgrade=allow_downgrade)
        pending = await asyncio.to_thread(pending_migrations, bundle, state, organizations)
        await self._check_code(bundle, state)
        return await asyncio.to_thread(build_plan, bundle, pending, state, organizations)

    async def rehearse(self, bundle: Bundle, organizations: Sequence[uuid.UUID], plan: Plan | None = None) -> Rehearsal:
        """Try the bundle's pending migrations on a copy of the addon's schema, which is gone afterwards.

        What `plan` refuses is expected to be asked before; with it, tables that the installer itself writes anew are
        counted, too.

        Raises:
            Unavailable: it cannot be tried now.
        """
        async with runner.transaction(self._owner, reading=True) as connection:
            state = await self._load(connection, bundle, organizations)
        if state.dialect != "postgresql":
            return Rehearsal()
        async with self._rehearsing:
            return await self._rehearse(bundle, organizations, state, plan)

    async def _rehearse(
        self, bundle: Bundle, organizations: Sequence[uuid.UUID], state: State, plan: Plan | None
    ) -> Rehearsal:
        url = self._owner.direct_url
        counted = await rehearsal.rewritten(url, plan) if plan is not None else Rehearsal()
        pending = await asyncio.to_thread(pending_migrations, bundle, state, organizations)
        if not pending:
            return counted
        # Those that are there come first: an empty schema has nothing to lose.
        schema = min(pending, key=lambda name: not state.schema(name).exists)
        others = sum(state.schema(name).exists for name in pending if name != schema)
        tried = await rehearsal.rehearse(url, bundle.manifest.key, schema, pending[schema], others=others)
        return replace(tried, impacts=(*tried.impacts, *counted.impacts), risks=(*tried.risks, *counted.risks))

    async def sweep(self) -> int:
        """Take away the copies of rehearsals that were killed. Returns of how many addons."""
        return await scratch.sweep(self._owner.direct_url) if self._owner.dialect == "postgresql" else 0

    async def install(
        self,
        content: bytes,
        signature: Signature | None,
        *,
        trusted: TrustedKeys,
        organizations: Sequence[uuid.UUID],
        owner_uid: str = "",
        mode: str = "inherit",
        grants: Sequence[Capability] | None = None,
        settings: Mapping[str, Any] | None = None,
        source: str = "bundle",
        progress: Callable[[str], None] = _nothing,
        allow_downgrade: bool = False,
        force: bool = False,
        secrets: Mapping[uuid.UUID, bytes] | None = None,
        asker: Asker = Asker.OWNER,
    ) -> InstallReport:
        """Make `organizations` have what the bundle says, and those that have the addon already, too.

        `owner_uid` is the uid of the Addon resource that wants it, '' for a request or a host. `grants` are the
        accepted capabilities, None accepts all that are declared. `settings` go to every one of `organizations`.
        `mode` and `grants` are the addon's owner's to say: once it is installed, those of another `asker` do not count
        (`metacore.installer.standing`).
        `secrets` (32 bytes each) are those that new installations shall have; others get one that is made.
        Running it again changes nothing, but with `force` the registry's revision rises, and every kernel loads anew.

        Raises:
            SignatureRefused, BundleRefused, ManifestInvalid: the bundle is not one that may be installed.
            KeyOwned, ModelConflict, MigrationRefused, Refused, Conflict, NotFound: nor is it here.
            InstallFailed: a step failed; `step` names it. Earlier steps stand, this one left nothing behind.
            Unavailable: a lock was not given in time: try again.
        """
        if mode not in MODES or source not in SOURCES:
            raise InvalidInput(f"mode must be one of {MODES} and source one of {SOURCES}, not {mode!r} and {source!r}")
        verified = await asyncio.to_thread(verify, content, signature, trusted)
        bundle = await asyncio.to_thread(read_bundle, content)
        wish = Wish(
            content=content,
            bundle=bundle,
            signature=signature,
            signer=verified.signer,
            owner_uid=owner_uid,
            mode=mode,
            source=source,
            grants=bundle.manifest.capabilities if grants is None else tuple(grants),
            settings=dict(settings or {}),
            secrets=dict(secrets or {}),
        )
        check_settings(bundle.manifest, wish.settings)
        wanted = tuple(dict.fromkeys(organizations))
        async with runner.transaction(self._owner, reading=True) as connection:
            state = await self._load(connection, bundle, wanted)
            revision = await register.current_revision(connection)
        preflight.check_bundle(bundle, state, wanted, owner_uid=owner_uid, allow_downgrade=allow_downgrade)
        wish = standing.settle(wish, state.addon, asker)
        pending = await asyncio.to_thread(pending_migrations, bundle, state, wanted)
        await self._check_code(bundle, state)
        changes = changed_settings(wish, state, wanted, self._sealer)
        differs = register.differs(wish, state)
        registering = bool(changes) or differs or force
        plan = await asyncio.to_thread(build_plan, bundle, pending, state, wanted, registering=registering)
        standing.spare_others(plan, state, wanted, asker)
        if not plan.changed:
            return InstallReport(plan.addon_key, plan.version, plan.digest, wish.signer, revision, changed=False)
        report = await self._carry_out(
            plan, wish, wanted, state, asker=asker, allow_downgrade=allow_downgrade, progress=progress
        )
        return replace(report, did=named(plan, changes, differs=differs))

    async def _check_code(self, bundle: Bundle, state: State) -> None:
        """Scan an addon's module, unless the very same bundle is installed already."""
        if state.addon is None or state.addon.digest != bundle.digest:
            await asyncio.to_thread(check_wasm, bundle)

    async def enable(self, key: str, organization: uuid.UUID) -> int:
        """Serve the addon to an organization. Returns the registry's revision. NotFound when it is not installed."""
        return await lifecycle.set_status(self._owner, key, organization, "enabled")

    async def disable(self, key: str, organization: uuid.UUID) -> int:
        """Stop serving it; data stays. Returns the registry's revision. NotFound when it is not installed."""
        return await lifecycle.set_status(self._owner, key, organization, "disabled")

    async def uninstall(self, key: str, organization: uuid.UUID, *, drop: bool, owner_uid: str | None = None) -> int:
        """Take the addon from an organization, with `drop` its data, too, and nobody else's. Returns the registry's
        revision.

        Its uninstall handlers run first, in a kernel, for a while. With an `owner_uid` only when that is whose the
        addon is: '' for a tenant's request.

        Raises:
            NotFound: it is not installed there. Conflict: another installed addon requires it. KeyOwned.
        """
        places, role = (organization,), self._kernel_role
        await lifecycle.check_uninstall(self._owner, key, places, owner_uid=owner_uid, kernel_role=role)
        await farewell.say(self._owner, key, places, seconds=self._farewell_seconds)
        return await lifecycle.uninstall(self._owner, key, places, drop=drop, owner_uid=owner_uid, kernel_role=role)

    async def remove(self, key: str, *, drop: bool, owner_uid: str = "") -> int:
        """Take the addon from everybody and free its key. Returns the registry's revision; unknown keys are fine.

        With `drop` all of its data goes, also what organizations kept that left before.

        Raises:
            KeyOwned: somebody else claimed the key. Conflict: another installed addon requires it.
        """
        if await lifecycle.check_remove(self._owner, key, owner_uid=owner_uid, kernel_role=self._kernel_role):
            await farewell.say(self._owner, key, None, seconds=self._farewell_seconds)
        return await lifecycle.remove(self._owner, key, drop=drop, owner_uid=owner_uid, kernel_role=self._kernel_role)

    async def rotate_secret(self, key: str, organization: uuid.UUID, secret: bytes | None = None) -> str:
        """A new secret for an installation (`secret`, or one that is made), in hex; the old one is void at once.

        Raises:
            NotFound: it is not installed.
        """
        return await lifecycle.rotate_secret(self._owner, key, organization, self._sealer, secret)

    async def stored_secrets(self, key: str) -> Mapping[uuid.UUID, StoredSecret]:
        """What the database knows of the installations' secrets, by organization."""
        return await lifecycle.stored_secrets(self._owner, key, self._sealer)

    async def fence(self, key: str, reason: str) -> int:
        """Stop serving the addon anywhere because of `reason`; '' lifts it. Data stays. Returns the revision."""
        return await lifecycle.fence(self._owner, key, reason)

    async def _carry_out(
        self,
        plan: Plan,
        wish: Wish,
        organizations: Sequence[uuid.UUID],
        state: State,
        *,
        asker: Asker,
        allow_downgrade: bool,
        progress: Callable[[str], None],
    ) -> InstallReport:
        bundle = wish.bundle
        progress("claim")
        self._point("before claim")
        attempt = await runner.patiently(
            lambda: self._claim(
                plan, wish, organizations, state.addon_role, asker=asker, allow_downgrade=allow_downgrade
            ),
            step="claim",
        )
        self._point("after claim")
        run = Runner(
            self._owner,
            plan.addon_key,
            attempt,
            bundle.digest,
            role=state.addon_role,
            guests=lambda connection: self._guests(connection, bundle),
            point=self._point,
            progress=progress,
        )
        try:
            ran = []
            steps = [step for step in plan.steps if step.kind not in (StepKind.CLAIM, StepKind.INSTALL)]
            if plan.migrates:
                # The addon's SQL runs first; then the tables are looked at again, for what it really made of them.
                last = max(place for place, step in enumerate(steps) if step.kind is StepKind.MIGRATION)
                for step in steps[: last + 1]:
                    await run.run(step)
                    ran.append(step)
                await runner.patiently(run.close_login, step="close login")
                async with runner.transaction(self._owner, reading=True) as connection:
                    state = await self._load(connection, bundle, organizations)
                plan = await asyncio.to_thread(build_plan, bundle, {}, state, organizations, registering=True)
                steps = [step for step in plan.steps if step.kind not in (StepKind.CLAIM, StepKind.INSTALL)]
            for step in steps:
                await run.run(step)
                ran.append(step)
            changes = changed_settings(wish, state, organizations, self._sealer)
            reshaped = any(step.kind in RESHAPING for step in ran)

            async def finish(connection: AsyncConnection) -> tuple[int, dict[uuid.UUID, str]]:
                if connection.dialect.name == "postgresql":
                    await guest_roles.lock(await driver_of(connection))
                done = await register.register(
                    connection,
                    wish,
                    joining=plan.organizations,
                    settings=changes,
                    sealer=self._sealer,
                    reshaped=reshaped,
                )
                await self._guests(connection, bundle)
                return done

            revision, made = await run.transact("install", finish)
        finally:
            await run.close()
        return InstallReport(
            plan.addon_key, plan.version, plan.digest, wish.signer, revision, changed=True, secrets=made
        )

    async def _claim(
        self,
        plan: Plan,
        wish: Wish,
        organizations: Sequence[uuid.UUID],
        role: str,
        *,
        asker: Asker,
        allow_downgrade: bool,
    ) -> int:
        """Alone with the addon, look once more at who holds what, and begin."""
        key = plan.addon_key
        try:
            async with runner.locked(self._owner, key) as connection:
                state = await self._load(connection, wish.bundle, organizations)
                preflight.check_bundle(
                    wish.bundle, state, organizations, owner_uid=wish.owner_uid, allow_downgrade=allow_downgrade
                )
                standing.check_still(wish, plan, state, organizations, asker)
                await belongings.spare_kept(connection, plan, state, organizations, asker)
                attempt = await register.claim(connection, wish)
                if state.dialect == "postgresql":
                    await migration_role.copy_marks(connection, key)
                if state.addon_role_exists:
                    # A process that was killed may have left it open.
                    await migration_role.close_login(connection, state.addon_role)
                self._point("inside claim")
                return attempt
        except DBAPIError as error:
            if sqlstate(error) == "55P03" and role:
                # A migration of a process that is gone may still run; it holds the addon's lock.
                async with runner.transaction(self._owner) as connection:
                    await migration_role.end_sessions(connection, role)
            raise

    async def _guests(self, connection: AsyncConnection, bundle: Bundle) -> None:
        if connection.dialect.name == "postgresql":
            driver = await driver_of(connection)
            await guest_roles.sync(driver, guest_roles.need_of(bundle.manifest), self._kernel_role)

    async def _load(self, connection: AsyncConnection, bundle: Bundle, organizations: Sequence[uuid.UUID]) -> State:
        manifest, dialect = bundle.manifest, connection.dialect.name

        def schemas(installed: Collection[uuid.UUID]) -> list[str]:
            everybody = tuple(dict.fromkeys((*installed, *organizations)))
            return [target.schema for target in targets_of(manifest, everybody, dialect)]

        state = await observe.load_state(
            connection,
            manifest.key,
            organizations=organizations,
            schemas=schemas,
            kernel_role=self._kernel_role,
            host_models=self._host_models(),
            functions=bool(bundle.migrations),
        )
        if state.addon is not None and state.addon.version != manifest.version:
            state = await observe.load_requirements(connection, state)
        if dialect == "postgresql":
            need = guest_roles.need_of(manifest)
            lacking = await guest_roles.pending(await driver_of(connection), need, self._kernel_role)
            state = replace(state, guests=lacking)
        return state
