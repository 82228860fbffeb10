"""What stands when an addon that is installed is installed again: its mode and its grants hold for every organization,
so they are not for one tenant to set anew. Nor may one tenant's bundle take away or write over what others have
stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from metacore.capabilities.grants import missing
from metacore.errors import Conflict, Problem, Refused
from metacore.installer.register import Wish
from metacore.installer.state import AddonRow, State
from metacore.installer.steps import Plan, Risk, RiskKind

MOST_NAMED = 5


class Asker(StrEnum):
    """Who wants an installation. An owner (an Addon, a host) says what the mode and the grants are; a tenant and an
    administering organization only bring a bundle, and an administering one may thereby approve what it asks for; so
    does a host that installs what is linked into it for one organization more."""

    OWNER = "owner"
    ADMINISTRATOR = "administrator"
    TENANT = "tenant"


def settle(wish: Wish, addon: AddonRow | None, asker: Asker) -> Wish:
    """The wish as it may come true. A first installation is granted what it declares; afterwards the mode stays, the
    same bundle keeps its grants and its fence, and another one is granted what it declares of what was granted.

    Raises:
        Refused: with the code `capabilities`, when a tenant's bundle asks for more; `problems` name it.
    """
    if asker is Asker.OWNER or addon is None or not addon.digest:
        return wish
    bundle = wish.bundle
    if addon.digest == bundle.digest:
        return replace(wish, mode=addon.mode, grants=addon.grants, fenced_reason=addon.fenced_reason)
    asked = bundle.manifest.capabilities
    new = missing(addon.key, asked, addon.grants)
    if new and asker is Asker.TENANT:
        shown = ", ".join(f"{capability.kind} {capability.target}" for capability in new[:MOST_NAMED])
        more = f" and {len(new) - MOST_NAMED} more" if len(new) > MOST_NAMED else ""
        raise Refused(
            f"version {bundle.manifest.version} of addon {addon.key!r} asks for {shown}{more}, which version"
            f" {addon.version} was not granted: who administers this installation has to install it",
            code="capabilities",
            problems=[
                Problem("capabilities", "not_granted", f"{capability.kind} {capability.target} was not granted")
                for capability in new
            ],
        )
    return replace(wish, mode=addon.mode, grants=asked)


def check_still(wish: Wish, plan: Plan, state: State, organizations: Sequence[uuid.UUID], asker: Asker) -> None:
    """Whether `wish`, which `settle` gave, and its `plan` still stand now that the addon's lock is held.

    Raises:
        Conflict: with the code `superseded`, when its owner decided otherwise meanwhile.
        Refused: as `spare_others`, when another organization joined meanwhile.
    """
    now = settle(wish, state.addon, asker)
    if (now.mode, now.grants, now.fenced_reason) != (wish.mode, wish.grants, wish.fenced_reason):
        raise Conflict(f"addon {wish.bundle.manifest.key!r} was changed just now: try again", code="superseded")
    spare_others(plan, state, organizations, asker)


def superseded(error: BaseException) -> bool:
    """Whether an installation gave way to a newer one of the same addon."""
    return isinstance(error, Conflict) and error.code == "superseded"


def spare_others(plan: Plan, state: State, organizations: Sequence[uuid.UUID], asker: Asker) -> None:
    """Whether a tenant's bundle leaves alone what other organizations have in the addon: a shared schema holds
    everybody's rows, and an upgrade migrates the schemas of all who have it. An owner accepts a loss by a waiver, and
    writes over values as its upgrade needs it; who administers the installation accepts both by bringing the bundle.

    Raises:
        Refused: with the code `data_at_risk`; `problems` name each migration, the statement and what it takes away
            or writes over.
    """
    others = state.installed.keys() - set(organizations)
    risks = losses_of_others(plan, state, organizations, asker) if others else []
    if risks:
        whose = f"{len(others)} more organization{'s have' if len(others) > 1 else ' has'} the addon"
        raise taking_away(plan, risks, whose)


def losses_of_others(plan: Plan, state: State, organizations: Sequence[uuid.UUID], asker: Asker) -> list[Risk]:
    """What a tenant's bundle takes away or writes over in schemas that are not only its own."""
    if asker is not Asker.TENANT:
        return []
    risks = (*plan.data_at_risk, *plan.data_rewritten)
    return [risk for risk in risks if state.schema(risk.subject).organization_id not in organizations]


def taking_away(plan: Plan, risks: Sequence[Risk], whose: str) -> Refused:
    """The refusal of a plan that takes away or writes over what somebody else has stored; `whose` says who that is."""
    by_place = {risk.message: risk.kind.value for risk in risks}
    places = tuple(by_place)
    more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    does = {RiskKind.DATA_LOSS.value: "takes away", RiskKind.DATA_REWRITE.value: "writes over"}
    codes = tuple(code for code in does if code in by_place.values())
    words = " and ".join(does[code] for code in codes)
    return Refused(
        f"version {plan.version} of addon {plan.addon_key!r} {words} what is stored ({', '.join(codes)}):"
        f" {'; '.join(places[:MOST_NAMED])}{more}; {whose}, so who administers this installation has to install it",
        code="data_at_risk",
        problems=[Problem(place.partition(" ")[0], code, place) for place, code in by_place.items()],
    )
