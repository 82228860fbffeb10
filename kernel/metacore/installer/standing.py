"""What stands when an addon that is installed is installed again: its mode and its grants hold for every organization,
so they are not for one tenant to set anew.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from metacore.capabilities.grants import missing
from metacore.errors import Conflict, Problem, Refused
from metacore.installer.register import Wish
from metacore.installer.state import AddonRow

MOST_NAMED = 5


class Asker(StrEnum):
    """Who wants an installation. An owner (an Addon, a host) says what the mode and the grants are; a tenant and an
    administering organization only bring a bundle, and an administering one may thereby approve what it asks for."""

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


def check_still(wish: Wish, addon: AddonRow | None, asker: Asker) -> None:
    """Whether `wish`, which `settle` gave, still stands now that the addon's lock is held.

    Raises:
        Conflict: with the code `superseded`, when its owner decided otherwise meanwhile.
    """
    now = settle(wish, addon, asker)
    if (now.mode, now.grants, now.fenced_reason) != (wish.mode, wish.grants, wish.fenced_reason):
        raise Conflict(f"addon {wish.bundle.manifest.key!r} was changed just now: try again", code="superseded")
