"""One reconcile of one Addon: which outcome each situation has, and what is asked of the installer."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from nacl.signing import SigningKey

from metacore.bundle.read import Bundle, read_bundle
from metacore.bundle.signature import Signature, TrustedKeys, sign
from metacore.bundle.write import write_bundle
from metacore.errors import Conflict, InstallFailed, KeyOwned, ModelConflict, Refused, Unavailable
from metacore.installer.execute import InstallReport
from metacore.installer.lifecycle import StoredSecret
from metacore.installer.plan import Plan, Risk, Step
from metacore.installer.steps import Impact, Rehearsal, RiskKind, StepKind
from metacore.manifest.model import Capability, Requirement
from metacore_operator.conditions import LONGEST_MESSAGE, Summary
from metacore_operator.outcomes import Done, Reason, Stalled, Waiting
from metacore_operator.resources.addon import FORCE, PAUSE, REQUESTED_AT, Addon, parse_addon
from metacore_operator.resources.spec import SourceKind
from metacore_operator.resources.status import Phase
from metacore_operator.sources.source import Fetched, Look, Stored, nothing_stored
from metacore_operator.steps.context import Ports
from metacore_operator.steps.fence import Fencing, Reverification, TrustFollowing
from metacore_operator.steps.reconcile import reconcile, remove
from metacore_operator.steps.state import (
    InstalledAddon,
    Kernel,
    Loaded,
    OpenHandler,
    Pulse,
    StoredBundle,
    Tenant,
    Violations,
)

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
ACME, GLOBEX = uuid.UUID(int=1), uuid.UUID(int=2)
UID = "00000000-0000-4000-8000-00000000000a"


def bundle_of(version: str = "1.0.0", **manifest: Any) -> bytes:
    document = {
        "apiVersion": "asteby.com/v3",
        "kind": "Addon",
        "metadata": {"key": "tickets", "name": "Tickets", "version": version},
        **manifest,
    }
    return write_bundle({"manifest.json": json.dumps(document).encode()})


def addon_of(**spec: Any) -> Addon:
    return parse_addon(
        {
            "apiVersion": "metacore.dev/v1alpha1",
            "kind": "Addon",
            "metadata": {"name": "tickets", "uid": UID},
            "spec": {"source": {"path": "tickets.tar.gz"}, "organizations": {"all": True}, **spec},
        }
    )


class World:
    """A source, a database and kernels, in memory. `refusal` is what the installer answers with."""

    def __init__(self, content: bytes = b"", *, signer: SigningKey | None = KEY) -> None:
        self.content = content or bundle_of()
        self.signature: bytes | None = None
        self.sign(signer)
        self.trusted = TrustedKeys((bytes(KEY.verify_key),))
        self.calls: list[tuple[Any, ...]] = []
        self.wish: dict[str, Any] = {}
        self.how: dict[str, bool] = {}
        self.did: tuple[str, ...] = ()
        self.others: dict[str, InstalledAddon] = {}
        self.handlers: list[OpenHandler] = []
        self.away: bool | Unavailable = False
        self.asked: list[Look] = []
        self.known: bytes | None = None
        self.rehearsed = 0
        self.rehearsal = Rehearsal()
        self.secrets: dict[uuid.UUID, bytes] = {}
        self.opens = True
        self.refusal: Exception | None = None
        self.plan_refusal: Exception | None = None
        self.planned: tuple[Step, ...] = ()
        self.risks: tuple[Risk, ...] = ()
        self.row: InstalledAddon | None = None
        self.stored: dict[str, StoredBundle] = {}
        self.pods: dict[str, str] = {"kernel-0": ""}
        self.ports = Ports(sources={SourceKind.PATH: self}, trusted=lambda: self.trusted, installer=self, state=self)

    def sign(self, signer: SigningKey | None) -> None:
        self.signature = json.dumps(sign(self.content, signer).as_json()).encode() if signer is not None else None

    # Source

    async def fetch(self, addon: Addon, stored: Stored = nothing_stored, *, look: Look = Look.CHEAP) -> Fetched:
        self.asked.append(look)
        self.known = await stored(hashlib.sha256(self.content).hexdigest())
        if isinstance(self.away, Unavailable):
            raise self.away
        if self.away:
            raise Unavailable("the registry does not answer")
        return Fetched(self.content, self.signature, "tickets.tar.gz")

    # Installer

    async def rehearse(self, bundle: Bundle, organizations: Sequence[uuid.UUID], plan: Plan | None = None) -> Rehearsal:
        self.rehearsed += 1
        return self.rehearsal

    async def plan(self, bundle: Bundle, organizations: Sequence[uuid.UUID], *, allow_downgrade: bool = False) -> Plan:
        if self.plan_refusal is not None:
            raise self.plan_refusal
        return Plan("tickets", bundle.manifest.version, bundle.digest, self.planned, self.risks)

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
        progress: Callable[[str], None] = print,
        allow_downgrade: bool = False,
        force: bool = False,
        secrets: Mapping[uuid.UUID, bytes] | None = None,
    ) -> InstallReport:
        if self.refusal is not None:
            raise self.refusal
        bundle = read_bundle(content)
        self.calls.append(("install", bundle.manifest.version, tuple(organizations)))
        self.wish = {"owner_uid": owner_uid, "mode": mode, "grants": grants, "settings": settings}
        self.how = {"force": force, "allow_downgrade": allow_downgrade}
        before = self.row.organizations if self.row is not None else {}
        self.row = InstalledAddon(
            key="tickets",
            owner_uid=owner_uid,
            digest=bundle.digest,
            version=bundle.manifest.version,
            signer=bytes(KEY.verify_key).hex(),
            source=source,
            fenced_reason="",
            schema_revision=1,
            organizations={**before, **{item: before.get(item, True) for item in organizations}},
            mode=mode,
            grants=tuple(grants or ()),
        )
        for organization in organizations:
            self.secrets.setdefault(organization, (secrets or {}).get(organization, b"made"))
        self.stored[bundle.digest] = StoredBundle("tickets", content, signature)
        self.pods = dict.fromkeys(self.pods, bundle.digest)
        return InstallReport("tickets", bundle.manifest.version, bundle.digest, "", 1, changed=True, did=self.did)

    async def stored_secrets(self, key: str) -> Mapping[uuid.UUID, StoredSecret]:
        return {
            organization: StoredSecret(hashlib.sha256(secret).hexdigest(), secret if self.opens else None)
            for organization, secret in self.secrets.items()
        }

    async def rotate_secret(self, key: str, organization: uuid.UUID, secret: bytes | None = None) -> str:
        self.secrets[organization] = secret or b"rotated"
        return self.secrets[organization].hex()

    async def enable(self, key: str, organization: uuid.UUID) -> int:
        return self._switch("enable", organization, True)

    async def disable(self, key: str, organization: uuid.UUID) -> int:
        return self._switch("disable", organization, False)

    def _switch(self, word: str, organization: uuid.UUID, enabled: bool) -> int:
        assert self.row is not None
        self.calls.append((word, organization))
        self.row = replace(self.row, organizations={**self.row.organizations, organization: enabled})
        return 1

    async def uninstall(self, key: str, organization: uuid.UUID, *, drop: bool) -> int:
        assert self.row is not None
        self.calls.append(("uninstall", organization, drop))
        rest = {item: enabled for item, enabled in self.row.organizations.items() if item != organization}
        self.row = replace(self.row, organizations=rest)
        return 1

    async def remove(self, key: str, *, drop: bool, owner_uid: str = "") -> int:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(("remove", key, drop, owner_uid))
        self.row = None
        return 1

    async def fence(self, key: str, reason: str) -> int:
        assert self.row is not None
        self.calls.append(("fence", key, reason))
        self.row = replace(self.row, fenced_reason=reason)
        return 1

    # State

    async def tenants(self) -> Sequence[Tenant]:
        return [Tenant(item, name, {"name": name}) for item, name in ((ACME, "Acme"), (GLOBEX, "Globex"))]

    async def kernels(self) -> Sequence[Kernel]:
        return [
            Kernel(pod, "shadow", "1", 1, {"tickets": Loaded(loaded.removesuffix("!"), "boom" * loaded.endswith("!"))})
            for pod, loaded in self.pods.items()
        ]

    async def installed(self, key: str) -> InstalledAddon | None:
        return self.others.get(key, self.row if key == "tickets" else None)

    async def installed_keys(self) -> Sequence[str]:
        return ["tickets"] if self.row is not None else []

    async def bundle(self, digest: str) -> StoredBundle | None:
        return self.stored.get(digest)

    async def violations(self, key: str) -> Violations:
        return Violations(3, 40)

    async def open_handlers(self, key: str) -> Sequence[OpenHandler]:
        return self.handlers

    async def pulse(self) -> Pulse:
        return Pulse(None, {})

    # What tests do

    async def reconcile(self, addon: Addon | None = None) -> Summary:
        moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        return await reconcile(addon or addon_of(), self.ports, now=lambda: moment)


def after(summary: Summary, annotations: Mapping[str, str] | None = None, **spec: Any) -> Addon:
    """The Addon as the next reconcile gets it."""
    addon = addon_of(**spec)
    metadata = addon.metadata.model_copy(update={"annotations": dict(annotations or {})})
    return addon.model_copy(update={"status": summary.status, "metadata": metadata})


def other_addon(key: str, version: str = "1.0.0", *, fenced: str = "", organizations: Any = (ACME, GLOBEX)) -> Any:
    """Another addon that is installed."""
    return InstalledAddon(key, "u", "d" * 64, version, "", "bundle", fenced, 1, dict.fromkeys(organizations, True))


def text(summary: Summary) -> str:
    condition = summary.status.condition("Ready")
    assert condition is not None
    return condition.message


async def test_a_signed_bundle_is_installed_for_everybody_and_ready() -> None:
    world = World(bundle_of(settings=[{"key": "a", "type": "number"}]))

    summary = await world.reconcile(addon_of(mode="enforce", settings={"a": 1}))

    assert isinstance(summary.decisive, Done)
    assert world.calls == [("install", "1.0.0", (ACME, GLOBEX))]
    assert world.wish == {"owner_uid": UID, "mode": "enforce", "grants": (), "settings": {"a": 1}}
    status = summary.status
    assert (status.version, status.phase, status.key) == ("1.0.0", Phase.READY, "tickets")
    assert (status.organizations.desired, status.organizations.installed) == (2, 2)
    assert (status.violations.day, status.violations.total) == (3, 40)
    assert (status.kernels.live, status.kernels.acknowledged, status.observed_mode) == (1, 1, "enforce")
    assert [entry.version for entry in status.history] == ["1.0.0"]


@pytest.mark.parametrize(
    "spec",
    [
        {"source": {"http": {"url": "https://example.com/a"}}},
        {"source": {"oci": {"ref": "a"}}},
        {"signature": {"secretRef": {"name": "a"}}},
    ],
)
async def test_sources_that_this_process_does_not_have_are_stalled(spec: dict[str, Any]) -> None:
    summary = await World().reconcile(addon_of(**spec))

    assert isinstance(summary.decisive, Stalled)
    assert summary.decisive.reason is Reason.SOURCE_UNSUPPORTED


async def test_a_flipped_byte_is_refused_and_the_old_version_stays() -> None:
    world = World()
    ready = await world.reconcile()
    world.content = bundle_of("1.1.0")
    world.sign(KEY)
    world.content = world.content[:-9] + bytes([world.content[-9] ^ 1]) + world.content[-8:]

    summary = await world.reconcile(after(ready))

    assert summary.decisive.reason is Reason.SIGNATURE_REFUSED
    assert "tickets.tar.gz: the signature is for digest" in text(summary)
    assert summary.status.version == "1.0.0"
    assert world.calls == [("install", "1.0.0", (ACME, GLOBEX))]
    assert summary.status.condition("Served").status == "True"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("signer", "content", "spec", "reason"),
    [
        (None, bundle_of(), {}, Reason.SIGNATURE_REFUSED),
        (OTHER, bundle_of(), {}, Reason.SIGNATURE_REFUSED),
        (KEY, bundle_of(), {"signature": {"value": "{}"}}, Reason.SIGNATURE_REFUSED),
        (KEY, bundle_of(), {"digest": "0" * 64}, Reason.DIGEST_MISMATCH),
        (KEY, bundle_of(), {"key": "orders"}, Reason.KEY_MISMATCH),
        (KEY, bundle_of("2.0.0"), {"version": "<2.0.0"}, Reason.VERSION_MISMATCH),
        (KEY, bundle_of(nonsense=1), {}, Reason.BUNDLE_INVALID),
        (
            KEY,
            bundle_of(compatibility={"requires": [{"key": "kernel", "version": ">=9.0.0"}]}),
            {},
            Reason.KERNEL_INCOMPATIBLE,
        ),
    ],
)
async def test_what_may_not_be_installed_is_stalled_before_anything_is_planned(
    signer: SigningKey | None, content: bytes, spec: dict[str, Any], reason: Reason
) -> None:
    world = World(content, signer=signer)

    summary = await world.reconcile(addon_of(**spec))

    assert isinstance(summary.decisive, Stalled)
    assert summary.decisive.reason is reason
    assert world.calls == []
    assert summary.status.condition("Verified").status == "False"  # type: ignore[union-attr]
    assert summary.status.condition("Installed") is None


async def test_a_signature_given_in_the_spec_counts_instead_of_the_one_beside_the_bundle() -> None:
    world = World(signer=OTHER)
    value = json.dumps(sign(world.content, KEY).as_json())

    assert isinstance((await world.reconcile(addon_of(signature={"value": value}))).decisive, Done)


async def test_unsigned_bundles_need_to_be_allowed() -> None:
    world = World(signer=None)
    world.trusted = TrustedKeys((), allow_unsigned=True)

    summary = await world.reconcile()

    assert isinstance(summary.decisive, Done)
    assert summary.status.condition("Verified").reason == "UnsignedAllowed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("refusal", "kind", "reason"),
    [
        (ModelConflict("model 'Ticket' is served by addon 'x'"), Stalled, Reason.MODEL_CONFLICT),
        (Refused("no"), Stalled, Reason.PLAN_REFUSED),
        (Unavailable("no database"), Waiting, Reason.STEP_FAILED),
        (RuntimeError("secret detail"), Waiting, Reason.STEP_FAILED),
    ],
)
async def test_a_refused_plan_installs_nothing(refusal: Exception, kind: type, reason: Reason) -> None:
    world = World()
    world.plan_refusal = refusal

    summary = await world.reconcile()

    assert isinstance(summary.decisive, kind)
    assert summary.decisive.reason is reason
    assert world.calls == []
    assert "secret detail" not in text(summary)


@pytest.mark.parametrize(
    ("refusal", "kind", "reason"),
    [
        (KeyOwned("taken"), Stalled, Reason.KEY_OWNED),
        (InstallFailed("it broke", step="table a.b"), Waiting, Reason.INSTALL_FAILED),
        (Unavailable("a lock was not given"), Waiting, Reason.INSTALL_FAILED),
        (Refused("a rule"), Stalled, Reason.PLAN_REFUSED),
    ],
)
async def test_a_failed_installation_says_what_and_goes_on_where_that_helps(
    refusal: Exception, kind: type, reason: Reason
) -> None:
    world = World()
    world.refusal = refusal

    summary = await world.reconcile()

    assert isinstance(summary.decisive, kind)
    assert summary.decisive.reason is reason
    assert "table a.b" in text(summary) or not isinstance(refusal, InstallFailed)


async def test_data_at_risk_needs_a_waiver_that_names_the_version() -> None:
    world = World()
    world.risks = (
        Risk(RiskKind.DATA_LOSS, "addon_tickets", "migrations/0002_x.sql:1 drops column a.b and its values"),
    )

    stalled = await world.reconcile()
    wrong = await world.reconcile(addon_of(preflight={"waivers": ["data_loss@0.9.0"]}))

    assert stalled.decisive.reason is Reason.DATA_AT_RISK
    assert wrong.decisive.reason is Reason.DATA_AT_RISK
    assert "drops column a.b" in text(stalled) and "data_loss@1.0.0" in text(stalled)
    for waiver in ("data_loss@1.0.0", "data_loss"):
        assert isinstance((await world.reconcile(addon_of(preflight={"waivers": [waiver]}))).decisive, Done)


async def test_what_an_upgrade_writes_over_is_told_and_needs_no_waiver() -> None:
    world = World()
    world.risks = (Risk(RiskKind.DATA_REWRITE, "addon_tickets", "migrations/0002_x.sql:1 writes over notes.body"),)
    world.planned = (Step("table addon_tickets.notes", StepKind.TABLE, schema="addon_tickets"),)

    condition = (await world.reconcile()).status.condition("PreflightPassed")

    assert condition is not None and condition.status == "True"
    assert "0002_x.sql:1 writes over notes.body" in condition.message


async def test_a_schema_that_the_plan_makes_holds_no_data_at_risk() -> None:
    world = World()
    world.risks = (Risk(RiskKind.DATA_LOSS, "addon_tickets", "deletes rows"), Risk(RiskKind.KEPT, "a", "stays"))
    world.planned = (Step("schema addon_tickets", StepKind.SCHEMA, schema="addon_tickets"),)

    assert world.calls == []
    assert (await world.reconcile()).status.condition("PreflightPassed").status == "True"  # type: ignore[union-attr]


async def test_a_key_that_somebody_else_claimed_is_told_before_anything_is_asked() -> None:
    world = World()
    await world.reconcile()
    assert world.row is not None
    world.row = replace(world.row, owner_uid="")
    world.calls.clear()

    summary = await world.reconcile()

    assert summary.decisive.reason is Reason.KEY_OWNED
    assert "through the API" in text(summary)
    assert world.calls == []
    assert summary.status.version == "", "what belongs to somebody else is not told as one's own"


ASKS = [{"kind": "db:read", "target": "orders.items", "reason": "totals"}]


async def test_declared_capabilities_are_granted() -> None:
    world = World(bundle_of(capabilities=ASKS))

    await world.reconcile()

    assert [(item.kind, item.target) for item in world.wish["grants"]] == [("db:read", "orders.items")]


@pytest.mark.parametrize("accept", ["Declared", "Listed"])
async def test_an_upgrade_that_asks_for_more_waits_and_names_it(accept: str) -> None:
    world = World()
    listed = {"accept": accept, "list": []}
    ready = await world.reconcile(addon_of(capabilities=listed))
    assert isinstance(ready.decisive, Done)
    world.content = bundle_of("1.1.0", capabilities=ASKS)
    world.sign(KEY)

    waiting = await world.reconcile(after(ready, capabilities=listed))

    assert isinstance(waiting.decisive, Waiting)
    assert waiting.decisive.reason is Reason.CAPABILITIES_PENDING
    assert "db:read orders.items" in text(waiting) and "version 1.0.0 serves on" in text(waiting)
    assert waiting.status.condition("CapabilitiesAccepted").status == "False"  # type: ignore[union-attr]
    assert waiting.status.version == "1.0.0"
    accepted = {"accept": accept, "list": [{"kind": "db:read", "target": "orders.*"}]}
    assert (await world.reconcile(after(waiting, capabilities=accepted))).status.version == "1.1.0"


async def test_grants_that_were_changed_from_outside_are_put_back_and_not_asked_for() -> None:
    world = World(bundle_of(capabilities=ASKS))
    ready = await world.reconcile()
    assert world.row is not None
    world.row = replace(world.row, grants=())

    summary = await world.reconcile(after(ready))

    assert isinstance(summary.decisive, Done)
    assert [item.target for item in world.wish["grants"]] == ["orders.items"]


async def test_what_is_no_longer_listed_is_taken_back_from_the_installed_version() -> None:
    world = World(bundle_of(capabilities=ASKS))
    ready = await world.reconcile()

    summary = await world.reconcile(after(ready, capabilities={"accept": "Listed", "list": []}))

    assert summary.decisive.reason is Reason.CAPABILITIES_PENDING
    assert world.wish["grants"] == ()
    assert summary.status.condition("Served").status == "True"  # type: ignore[union-attr]


async def test_an_organization_that_is_no_longer_meant_loses_the_addon() -> None:
    world = World()
    ready = await world.reconcile()

    await world.reconcile(after(ready, organizations={"names": ["Acme"]}, deletionPolicy="Drop"))

    assert world.calls[1:] == [("install", "1.0.0", (ACME,)), ("uninstall", GLOBEX, True)]


async def test_nobody_loses_an_addon_because_a_name_or_a_rule_is_wrong() -> None:
    world = World()
    ready = await world.reconcile()

    renamed = await world.reconcile(after(ready, organizations={"names": ["Acme", "Globexx"]}, deletionPolicy="Drop"))
    assert renamed.decisive.reason is Reason.ORGANIZATIONS_MISSING
    visible = [tenant for tenant in await world.tenants() if tenant.id == ACME]

    async def hidden() -> Sequence[Tenant]:
        return visible

    world.tenants = hidden  # type: ignore[method-assign]
    kept = await world.reconcile(after(renamed, deletionPolicy="Drop"))

    assert [call for call in world.calls if call[0] == "uninstall"] == []
    assert isinstance(kept.decisive, Done)
    assert "1 more has it and may not be targeted" in kept.status.condition("Installed").message  # type: ignore[union-attr]


async def test_what_the_spec_switched_off_comes_back_whatever_happened_in_between() -> None:
    world = World()
    off = await world.reconcile(addon_of(enabled=False, organizations={"names": ["Acme", "Initech"]}))
    assert off.decisive.reason is Reason.ORGANIZATIONS_MISSING
    assert world.row is not None and world.row.organizations[ACME] is False
    world.refusal = Unavailable("the lock is held")
    failed = await world.reconcile(after(off, organizations={"names": ["Acme"]}))
    assert failed.decisive.reason is Reason.INSTALL_FAILED
    world.refusal = None

    on = await world.reconcile(after(failed, organizations={"names": ["Acme"]}))

    assert isinstance(on.decisive, Done)
    assert world.row.organizations[ACME] is True
    assert on.status.disabled_by_spec is False


async def test_what_could_not_be_looked_at_stays_in_the_status_as_it_was() -> None:
    world = World()
    ready = await world.reconcile()

    async def broken(_key: str) -> InstalledAddon | None:
        raise ConnectionError("gone")

    seen = await world.installed("tickets")
    answers = [seen]

    async def once(key: str) -> InstalledAddon | None:
        return answers.pop() if answers else await broken(key)

    world.installed = once  # type: ignore[method-assign]
    failed = await world.reconcile(after(ready))

    assert not isinstance(failed.decisive, Done)
    assert (failed.status.version, failed.status.digest) == ("1.0.0", ready.status.digest)
    assert failed.status.kernels == ready.status.kernels


async def test_missing_organizations_are_waited_for_while_the_others_are_served() -> None:
    world = World()

    summary = await world.reconcile(addon_of(organizations={"names": ["Acme", "Initech"]}))

    assert summary.decisive.reason is Reason.ORGANIZATIONS_MISSING
    assert "'Initech'" in text(summary)
    assert world.calls == [("install", "1.0.0", (ACME,))]
    assert summary.status.condition("Served").status == "True"  # type: ignore[union-attr]
    assert (summary.status.organizations.desired, summary.status.organizations.installed) == (2, 1)


async def test_disabling_and_enabling_by_the_spec_respects_what_a_tenant_switched_off() -> None:
    world = World()
    ready = await world.reconcile()
    await world.disable("tickets", ACME)
    world.calls.clear()

    same = await world.reconcile(after(ready))
    assert [call for call in world.calls if call[0] != "install"] == []
    off = await world.reconcile(after(same, enabled=False))
    assert ("disable", GLOBEX) in world.calls and ("disable", ACME) not in world.calls
    assert off.status.condition("Installed").reason == "Disabled"  # type: ignore[union-attr]
    await world.reconcile(after(off))
    assert {call for call in world.calls if call[0] == "enable"} == {("enable", ACME), ("enable", GLOBEX)}


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ({}, Reason.NO_KERNELS),
        ({"a": "current", "b": ""}, Reason.KERNELS_PENDING),
        ({"a": "current", "b": "f" * 64}, Reason.KERNELS_PENDING),
        ({"a": "current", "b": "current!"}, Reason.KERNEL_ERROR),
    ],
)
async def test_ready_needs_every_live_kernel(
    pods: dict[str, str], reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    await world.reconcile()
    assert world.row is not None
    digest = world.row.digest
    real = world.install

    async def install(*arguments: Any, **named: Any) -> InstallReport:
        report = await real(*arguments, **named)
        world.pods = {pod: loaded.replace("current", digest) for pod, loaded in pods.items()}
        return report

    monkeypatch.setattr(world, "install", install)
    summary = await world.reconcile()

    assert isinstance(summary.decisive, Waiting)
    assert summary.decisive.reason is reason
    assert summary.status.condition("Installed").status == "True"  # type: ignore[union-attr]
    assert summary.status.kernels.live == len(pods)
    assert summary.status.kernels.acknowledged == sum(loaded == "current" for loaded in pods.values())


@pytest.mark.parametrize(
    ("handlers", "reason", "words"),
    [
        ([("install", 0, "", False)], Reason.HANDLERS_PENDING, "the install handler has not run yet in organization"),
        (
            [("enable", 0, "", False), ("install", 3, "broken: no table", False)],
            Reason.HANDLER_FAILED,
            "broken: no table (3 tries so far)",
        ),
        (
            [("install", 2, "a", False), ("upgrade", 8, "timeout", True), ("upgrade", 0, "", False)],
            Reason.HANDLER_FAILED,
            "and 1 more: timeout (8 tries, given up)",
        ),
    ],
)
async def test_ready_waits_for_the_addon_s_own_handlers(
    handlers: list[tuple[str, int, str, bool]], reason: Reason, words: str
) -> None:
    world = World()
    world.handlers = [OpenHandler(event, ACME, tries, error, up) for event, tries, error, up in handlers]

    summary = await world.reconcile()

    assert isinstance(summary.decisive, Waiting)
    assert summary.decisive.reason is reason
    assert words in text(summary)
    assert str(ACME) in text(summary)
    assert summary.status.condition("Served").status == "False"  # type: ignore[union-attr]
    world.handlers = []
    assert isinstance((await world.reconcile(after(summary))).decisive, Done)


async def test_what_the_database_lost_is_drift() -> None:
    world = World()
    ready = await world.reconcile()
    world.planned = (Step("table addon_tickets.tickets", StepKind.TABLE),)

    summary = await world.reconcile(after(ready))

    assert summary.decisive.reason is Reason.DRIFT_FOUND
    assert "table addon_tickets.tickets" in text(summary)
    assert summary.status.condition("Drifted").status == "True"  # type: ignore[union-attr]


async def test_suspended_nothing_is_touched() -> None:
    world = World()
    ready = await world.reconcile()
    world.content = bundle_of("1.1.0")
    world.calls.clear()

    summary = await world.reconcile(after(ready, suspend=True))

    assert world.calls == []
    assert summary.status.phase is Phase.SUSPENDED
    assert summary.status.version == "1.0.0"


async def test_the_key_of_an_installed_addon_cannot_change() -> None:
    world = World()
    ready = await world.reconcile()

    summary = await world.reconcile(after(ready, key="support"))

    assert summary.decisive.reason is Reason.KEY_MISMATCH
    assert "'tickets' to 'support'" in text(summary)


@pytest.mark.parametrize(("policy", "drop"), [("Retain", False), ("Drop", True)])
async def test_removing_follows_the_deletion_policy(policy: str, drop: bool) -> None:
    world = World()
    await world.reconcile()

    outcome = await remove(addon_of(deletionPolicy=policy), world.ports)

    assert outcome.reason is Reason.REMOVED
    assert world.calls[-1] == ("remove", "tickets", drop, UID)


async def test_removing_what_belongs_to_another_leaves_it_and_a_failure_is_tried_again() -> None:
    world = World()
    world.refusal = KeyOwned("taken")
    assert isinstance(await remove(addon_of(), world.ports), Done)

    world.refusal = Unavailable("later")
    assert isinstance(await remove(addon_of(), world.ports), Waiting)


async def reverified(world: World) -> tuple[Fencing, ...]:
    told: list[Fencing] = []
    again = Reverification(world.ports)
    again.want()
    await again.run(told.append)
    assert not again.due
    return tuple(told)


class Following:
    """What follows the trust of a world, and what it wanted to be looked at again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.changed = False
        self.wanted: list[frozenset[str] | None] = []
        self.trust = TrustFollowing(world.ports, self.reload, self.wanted.append)

    async def reload(self) -> bool:
        return self.changed


async def test_a_runner_holds_what_is_installed_against_the_trust_of_its_start() -> None:
    world = World()
    await world.reconcile()
    following = Following(world)
    await following.trust.run()
    assert following.wanted == []
    world.trusted = TrustedKeys((bytes(OTHER.verify_key),))
    await following.trust.run()
    assert following.wanted == [], "it was looked at, and nothing was said to have changed"
    for start in (Following(world).trust.run, Following(world).trust.verify):
        await start()
        assert world.row is not None and world.row.fenced_reason == "untrusted"
        world.row = replace(world.row, fenced_reason="")


async def test_trust_that_changed_fences_first_and_then_has_all_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.reconcile()
    following = Following(world)
    await following.trust.run()
    world.trusted, following.changed = TrustedKeys((bytes(OTHER.verify_key),)), True
    await following.trust.run()
    assert following.wanted == [frozenset({"tickets"}), None]
    world.trusted = TrustedKeys((bytes(KEY.verify_key),))
    await following.trust.run()
    assert following.wanted == [frozenset({"tickets"}), None] * 2
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("addon.f")]
    assert told == ["addon.fenced", "addon.freed"]


async def test_trust_that_cannot_be_held_against_all_has_all_looked_at_and_goes_on_later() -> None:
    world = World()
    await world.reconcile()
    following = Following(world)
    await following.trust.run()

    class Away(World):
        async def installed_keys(self) -> Sequence[str]:
            raise Unavailable("the database is away")

    world.__class__ = Away
    world.trusted, following.changed = TrustedKeys((bytes(OTHER.verify_key),)), True
    with pytest.raises(Unavailable):
        await following.trust.run()
    assert following.wanted == [None]
    world.__class__, following.changed = World, False
    await following.trust.run()
    assert following.wanted == [None, frozenset({"tickets"})]
    assert world.row is not None and world.row.fenced_reason == "untrusted"


async def test_an_addon_that_cannot_be_looked_at_keeps_no_other_from_being_fenced() -> None:
    world = World()
    await world.reconcile()
    world.trusted = TrustedKeys((bytes(OTHER.verify_key),))
    busy = asyncio.Event()

    class Two(World):
        """Another addon, first in the alphabet, is in the middle of its migration."""

        async def installed_keys(self) -> Sequence[str]:
            return ["a_busy_one", "tickets"]

        async def installed(self, key: str) -> InstalledAddon | None:
            if key == "a_busy_one" and not busy.is_set():
                await busy.wait()
            return await World.installed(self, key)

    world.__class__ = Two
    told: list[Fencing] = []
    again = Reverification(world.ports, look_seconds=0.05)
    again.want()
    with pytest.raises(Unavailable, match="a_busy_one"):
        await again.run(told.append)
    assert told == [Fencing("tickets", "untrusted")]
    assert again.due

    busy.set()
    await again.run(told.append)
    assert not again.due and len(told) == 1


async def test_a_bundle_that_cannot_be_read_any_more_is_fenced() -> None:
    world = World()
    await world.reconcile()
    assert world.row is not None
    stored = world.stored[world.row.digest]
    world.stored[world.row.digest] = replace(stored, content=b"no archive")

    assert [change.addon_key for change in await reverified(world)] == ["tickets"]


async def test_trust_that_is_withdrawn_fences_and_trust_that_returns_frees() -> None:
    world = World()
    await world.reconcile()
    assert await reverified(world) == ()

    world.trusted = TrustedKeys((bytes(OTHER.verify_key),))
    assert await reverified(world) == (Fencing("tickets", "untrusted"),)
    assert await reverified(world) == (), "it is told once"
    fenced = await world.reconcile()
    assert fenced.decisive.reason is Reason.KEY_REVOKED
    assert fenced.status.condition("Verified").reason == "KeyRevoked"  # type: ignore[union-attr]
    assert "the installed version 1.0.0" in text(fenced)

    world.away = True
    unfetched = await world.reconcile(after(fenced))
    assert unfetched.decisive.reason is Reason.KEY_REVOKED, "a source that is away hides no revoked key"
    world.away = False

    world.trusted = TrustedKeys((bytes(KEY.verify_key),))
    assert await reverified(world) == (Fencing("tickets", ""),)


async def test_a_fence_is_seen_though_the_source_is_fine() -> None:
    world = World()
    ready = await world.reconcile()
    await world.fence("tickets", "untrusted")

    async def keep(*_arguments: Any, **_named: Any) -> InstallReport:
        return InstallReport("tickets", "1.0.0", "", "", 1, changed=False)

    world.install = keep  # type: ignore[method-assign]
    summary = await world.reconcile(after(ready))

    assert summary.decisive.reason is Reason.KEY_REVOKED
    assert summary.status.condition("Served").status == "False"  # type: ignore[union-attr]
    assert summary.status.condition("Drifted").status == "False"  # type: ignore[union-attr]


async def test_what_was_undone_from_outside_is_put_back_and_told_once() -> None:
    world = World()
    ready = await world.reconcile()
    world.did = ("table addon_tickets.tickets",)

    mended = await world.reconcile(after(ready))

    condition = mended.status.condition("Drifted")
    assert condition is not None and (condition.status, condition.reason) == ("False", "DriftMended")
    assert "table addon_tickets.tickets" in condition.message
    assert [(event.type, event.reason) for event in mended.events] == [("Warning", Reason.DRIFT_MENDED)]
    world.did = ()
    calm = await world.reconcile(after(mended))
    assert calm.events == () and calm.status.condition("Drifted") == condition, "it stays to be read"
    world.did = ("protect addon_tickets.tickets",)
    again = await world.reconcile(after(calm))
    assert "protect" in again.events[0].message


async def test_the_first_installation_and_a_new_organization_are_no_drift() -> None:
    world = World()
    world.did = ("table addon_tickets.tickets", f"installation of {ACME}")
    first = await world.reconcile(addon_of(organizations={"names": ["Acme"]}))
    assert first.status.condition("Drifted").reason == "NoDrift"  # type: ignore[union-attr]

    world.did = (f"installation of {GLOBEX}",)
    counts = first.status.model_copy(update={"digest": world.row.digest})  # type: ignore[union-attr]
    addon = after(first).model_copy(update={"status": counts})
    joined = await world.reconcile(addon)

    assert joined.status.condition("Drifted").reason == "NoDrift"  # type: ignore[union-attr]


REQUIRES: dict[str, Any] = {"compatibility": {"requires": [{"key": "contacts", "version": ">=1.2.0"}]}}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "which is not installed"),
        (other_addon("contacts", "1.1.0"), "and version 1.1.0 is installed"),
        (other_addon("contacts", "1.2.0", fenced="untrusted"), "which is fenced"),
        (other_addon("contacts", "1.2.0", organizations=(ACME,)), f"which organization {GLOBEX} does not have"),
    ],
)
async def test_what_a_bundle_requires_is_waited_for(other: InstalledAddon | None, words: str) -> None:
    world = World(bundle_of(**REQUIRES))
    if other is not None:
        world.others["contacts"] = other

    waiting = await world.reconcile()

    assert isinstance(waiting.decisive, Waiting)
    assert waiting.decisive.reason is Reason.DEPENDENCY_PENDING
    assert "'contacts' >=1.2.0" in text(waiting) and words in text(waiting)
    assert waiting.status.condition("PreflightPassed").status == "False"  # type: ignore[union-attr]
    assert world.calls == []
    assert world.ports.demands.dependents({"contacts"}) == {"tickets"}
    world.others["contacts"] = other_addon("contacts", "1.2.0")
    assert isinstance((await world.reconcile()).decisive, Done)


async def test_addons_that_require_each_other_are_told_the_circle() -> None:
    world = World(bundle_of(**REQUIRES))
    world.ports.demands.note("contacts", [Requirement(key="files"), Requirement(key="tickets")])
    world.ports.demands.note("files", [Requirement(key="contacts")])

    summary = await world.reconcile()

    assert isinstance(summary.decisive, Stalled)
    assert summary.decisive.reason is Reason.DEPENDENCY_CYCLE
    assert "tickets → contacts → tickets" in text(summary)


async def test_an_addon_that_others_require_is_not_removed_and_says_who() -> None:
    world = World()
    world.refusal = Conflict("addon 'orders' requires 'tickets': remove it first", code="required")

    outcome = await remove(addon_of(), world.ports)

    assert isinstance(outcome, Waiting)
    assert outcome.reason is Reason.NEEDED_BY_OTHERS
    assert "'orders'" in outcome.message


async def test_pinning_an_older_digest_goes_back_without_the_source() -> None:
    world = World()
    ready = await world.reconcile()
    old = ready.status.digest
    world.content = bundle_of("1.1.0")
    world.sign(KEY)
    newer = await world.reconcile(after(ready))
    world.away = True

    back = await world.reconcile(after(newer, digest=old))

    assert isinstance(back.decisive, Done)
    assert (back.status.version, back.status.digest) == ("1.0.0", old)
    assert world.how["allow_downgrade"]
    assert [entry.version for entry in back.status.history] == ["1.0.0", "1.1.0", "1.0.0"]


async def test_a_pinned_bundle_that_was_signed_again_gets_the_new_signature_when_somebody_asks() -> None:
    world = World()
    ready = await world.reconcile()
    pinned: dict[str, Any] = {"digest": ready.status.digest}
    held = await world.reconcile(after(ready, **pinned))
    world.trusted = TrustedKeys((bytes(KEY.verify_key), bytes(OTHER.verify_key)))
    world.sign(OTHER)
    unasked = await world.reconcile(after(held, **pinned))
    assert "signed by " + bytes(KEY.verify_key).hex()[:12] in unasked.status.condition("Verified").message  # type: ignore[union-attr]

    asked = await world.reconcile(after(unasked, {REQUESTED_AT: "now"}, **pinned))
    assert "signed by " + bytes(OTHER.verify_key).hex()[:12] in asked.status.condition("Verified").message  # type: ignore[union-attr]

    world.content = bundle_of("1.1.0")
    world.sign(KEY)
    moved_on = await world.reconcile(after(asked, {REQUESTED_AT: "later"}, **pinned))
    assert isinstance(moved_on.decisive, Done)
    assert moved_on.status.digest == ready.status.digest


async def test_what_an_older_operator_switched_off_is_switched_on_again() -> None:
    world = World()
    off = await world.reconcile(addon_of(enabled=False))
    assert world.row is not None and not any(world.row.organizations.values())
    old_status = off.status.model_copy(update={"disabled_by_spec": False})

    await world.reconcile(after(replace(off, status=old_status)))

    assert all(world.row.organizations.values())


async def test_a_pinned_bundle_of_another_addon_is_not_taken_from_the_database() -> None:
    world = World()
    ready = await world.reconcile()
    world.stored[ready.status.digest] = replace(world.stored[ready.status.digest], addon_key="orders")
    world.away = True

    summary = await world.reconcile(after(ready, digest=ready.status.digest))

    assert summary.decisive.reason is Reason.SOURCE_UNAVAILABLE


async def test_what_people_ask_for_by_annotation_is_echoed_when_it_was_done() -> None:
    world = World()
    ready = await world.reconcile()
    asked = {REQUESTED_AT: "12:00", FORCE: "one"}
    world.away = True

    failed = await world.reconcile(after(ready, asked))
    assert failed.status.last_handled_requested_at == "12:00"
    assert failed.status.last_handled_force == "", "it did not come to an installation"

    world.away = False
    done = await world.reconcile(after(failed, asked))
    assert world.how["force"] and done.status.last_handled_force == "one"
    await world.reconcile(after(done, asked))
    assert not world.how["force"], "one value, one time"
    await world.reconcile(after(done, {FORCE: "x" * 100_000}))
    assert world.how["force"]


async def test_a_paused_addon_is_left_alone_and_says_by_what() -> None:
    world = World()
    ready = await world.reconcile()
    world.calls.clear()

    summary = await world.reconcile(after(ready, {PAUSE: "true", REQUESTED_AT: "now"}))

    assert world.calls == [] and summary.status.phase is Phase.SUSPENDED
    assert PAUSE in summary.events[0].message
    assert summary.status.last_handled_requested_at == "now"


async def test_messages_in_a_status_are_bounded() -> None:
    world = World()
    world.plan_refusal = Refused("x" * 100_000)

    summary = await world.reconcile()

    assert len(text(summary)) == LONGEST_MESSAGE
    assert all(len(event.message) <= LONGEST_MESSAGE for event in summary.events)


MIGRATION = Step("migration addon_tickets 0002", StepKind.MIGRATION, schema="addon_tickets")
IMPACT = Impact(
    "0002_x.sql:1", "ALTER TABLE", "addon_tickets.a", "AccessExclusiveLock", rewrites=True, scans=True, rows=3
)


async def test_migrations_are_tried_before_and_what_was_seen_is_told() -> None:
    world = World()
    world.planned = (MIGRATION,)
    world.rehearsal = Rehearsal(impacts=(IMPACT,), notes=("addon_tickets.a: tried with some of its rows",))

    summary = await world.reconcile()

    condition = summary.status.condition("PreflightPassed")
    assert condition is not None and condition.status == "True"
    assert (
        "0002_x.sql:1 ALTER TABLE of addon_tickets.a (AccessExclusiveLock, written anew, 3 rows)" in condition.message
    )
    assert "tried with some of its rows" in condition.message


async def test_a_migration_that_failed_on_the_copy_is_not_run() -> None:
    world = World()
    world.planned = (MIGRATION,)
    world.rehearsal = Rehearsal(failure="migrations/0002_x.sql:1: could not create unique index")

    stalled = await world.reconcile()

    assert isinstance(stalled.decisive, Stalled) and stalled.decisive.reason is Reason.REHEARSAL_FAILED
    assert "could not create unique index" in text(stalled) and world.calls == []
    again = await world.reconcile(after(stalled))
    assert again.decisive.reason is Reason.REHEARSAL_FAILED and world.rehearsed == 1, "it is not tried every minute"
    await world.reconcile(after(again, {FORCE: "look again"}))
    assert world.rehearsed == 2


@pytest.mark.parametrize("code", ["rewrite", "lock"])
async def test_what_keeps_others_waiting_needs_a_waiver_of_its_code(code: str) -> None:
    world = World()
    world.planned = (MIGRATION,)
    world.rehearsal = Rehearsal(risks=(Risk(RiskKind(code), "addon_tickets.a", "addon_tickets.a is locked for long"),))

    stalled = await world.reconcile(addon_of(preflight={"waivers": ["data_loss"]}))

    assert stalled.decisive.reason is Reason.MIGRATION_RISKY
    assert "is locked for long" in text(stalled) and f"{code}@1.0.0" in text(stalled)
    accepted = await world.reconcile(addon_of(preflight={"waivers": [f"{code}@1.0.0"]}))
    assert accepted.status.condition("PreflightPassed").status == "True"  # type: ignore[union-attr]
    assert world.calls[0][0] == "install"


async def test_without_migrations_nothing_is_tried() -> None:
    world = World()
    await world.reconcile()
    assert world.rehearsed == 0


async def test_a_source_is_told_what_is_installed_already_and_nothing_else() -> None:
    world = World()
    ready = await world.reconcile()
    assert world.known is None
    await world.reconcile(after(ready))
    assert world.known == world.content
    assert world.row is not None
    world.row = replace(world.row, owner_uid="somebody else")
    await world.reconcile(after(ready))
    assert world.known is None
