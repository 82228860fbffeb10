"""Make the database hold what the bundle and the spec say, in the organizations that the spec means."""

from __future__ import annotations

from collections.abc import Sequence

from metacore.errors import (
    Conflict,
    InstallFailed,
    KeyOwned,
    ModelConflict,
    NotWired,
    Refused,
    SignatureRefused,
    Unavailable,
)
from metacore.installer.report import CONFIGURED, JOINED, RECORDED
from metacore.installer.standing import superseded
from metacore_operator.outcomes import ConditionType, Done, Outcome, Reason, Stalled, Waiting
from metacore_operator.steps import secrets
from metacore_operator.steps.context import Context


async def run(context: Context) -> Outcome:
    try:
        return await _install(context)
    except KeyOwned as error:
        return Stalled(Reason.KEY_OWNED, error.message)
    except ModelConflict as error:
        return Stalled(Reason.MODEL_CONFLICT, error.message)
    except SignatureRefused as error:
        return Stalled(Reason.SIGNATURE_REFUSED, error.message)
    except NotWired as error:
        return Stalled(Reason.SETTINGS_REFUSED, error.message)
    except InstallFailed as error:
        return Waiting(Reason.INSTALL_FAILED, f"step {error.step}: {error.message}")
    except Refused as error:
        return Stalled(Reason.PLAN_REFUSED, error.message)
    except Conflict as error:
        if error.code == "required":
            return Waiting(Reason.NEEDED_BY_OTHERS, error.message)
        if superseded(error):
            return Waiting(Reason.INSTALL_FAILED, error.message)
        return Stalled(Reason.PLAN_REFUSED, error.message)
    except Unavailable as error:
        return Waiting(Reason.INSTALL_FAILED, error.message)


async def _install(context: Context) -> Outcome:
    assert context.fetched is not None and context.bundle is not None
    addon, installer, chosen = context.addon, context.ports.installer, context.chosen
    try:
        given = await secrets.prepare(context)
    except (Unavailable, Refused) as error:
        return Waiting(Reason.REFERENCE_UNAVAILABLE, error.message)
    report = await installer.install(
        context.fetched.content,
        context.signature,
        trusted=context.ports.trusted(),
        organizations=chosen.organizations,
        owner_uid=addon.metadata.uid,
        mode=addon.spec.mode,
        grants=context.grants,
        settings=context.settings,
        progress=context.ports.progress,
        allow_downgrade=context.allow_downgrade,
        # Nothing left out means the source, too: the wish stays open until that can be asked.
        force=addon.forced and not context.without_source,
        secrets=given,
    )
    context.mended = mended(context, report.did)
    await secrets.settle(context, given)
    await _leave(context)
    await _switch(context)
    context.installed_now = True
    told = f"version {report.version} is installed in {_counted(len(chosen.organizations))}"
    more = _hidden(context)
    more += f"; its secrets are in the database only: {context.unkept}" if context.unkept else ""
    if chosen.missing:
        names = ", ".join(repr(name) for name in chosen.missing)
        return Waiting(Reason.ORGANIZATIONS_MISSING, f"{told}; there is no organization {names}{more}", proceed=True)
    if not addon.spec.enabled:
        return Done(Reason.DISABLED, f"{told} and switched off by the spec{more}")
    return Done(Reason.INSTALLED, f"{told}{more}")


def _counted(organizations: int) -> str:
    return f"{organizations} organization{'s' * (organizations != 1)}"


def mended(context: Context, did: Sequence[str]) -> tuple[str, ...]:
    """What of the work had been done before: this spec and this bundle were installed once, and somebody undid it."""
    addon, bundle, installed = context.addon, context.bundle, context.installed
    before = addon.status.condition(ConditionType.INSTALLED)
    if bundle is None or installed is None or before is None or before.observed_generation != addon.metadata.generation:
        return ()
    if not installed.digest == addon.status.digest == bundle.digest:
        return ()
    expected: set[str] = set()
    joined: tuple[str, ...] = ()
    if len(context.chosen.organizations) != addon.status.organizations.desired:
        expected.add(JOINED)
        # Rows that a new organization gets were never there.
        joined = tuple(str(item) for item in context.chosen.organizations if item not in installed.organizations)
    if addon.spec.settings_from:
        expected.add(CONFIGURED)
    if installed.fenced_reason or (context.verified is not None and installed.signer != context.verified.signer):
        expected.add(RECORDED)
    return tuple(item for item in did if not item.startswith(tuple(expected)) and not item.endswith(joined))


async def _leave(context: Context) -> None:
    """Organizations that the spec no longer means lose the addon, their data as `deletionPolicy` says.

    One that only cannot be seen (tenancy rules hide it) keeps it, and while a name has no organization nobody loses
    anything: a rule or a name may be wrong, and data that was dropped does not come back.
    """
    if context.installed is None or context.chosen.missing:
        return
    drop = context.addon.spec.deletion_policy == "Drop"
    for organization in context.installed.organizations:
        if organization in context.visible and organization not in context.chosen.organizations:
            await context.ports.installer.uninstall(context.addon.key, organization, drop=drop)


def _hidden(context: Context) -> str:
    """What to tell of organizations that have the addon and may not be targeted (any more)."""
    count = len(context.installed.organizations.keys() - context.visible) if context.installed is not None else 0
    if not count:
        return ""
    return f"; {count} more {'has' if count == 1 else 'have'} it and may not be targeted from here, so it stays there"


async def _switch(context: Context) -> None:
    """Switch off everywhere when the spec says so, and on again when it no longer does.

    While it says enabled a tenant's own choice stands, so only what the spec itself had switched off comes back. That
    it had is remembered in the status, whatever became of the reconciles in between.
    """
    installer, key = context.ports.installer, context.addon.key
    installed = await context.ports.state.installed(key)
    if installed is None:
        return
    enabled = context.addon.spec.enabled
    status = context.addon.status
    before = status.condition(ConditionType.INSTALLED)
    # The condition tells it of operators before this field.
    if enabled and not status.disabled_by_spec and (before is None or before.reason != Reason.DISABLED):
        return
    context.disabled_by_spec = True
    for organization in context.chosen.organizations:
        if installed.organizations.get(organization) is (not enabled):
            await (installer.enable if enabled else installer.disable)(key, organization)
    context.disabled_by_spec = not enabled
