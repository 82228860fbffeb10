"""The secrets of installations are kept where people find them before the database knows them, so that no kill can lose
the only copy. What the database holds counts afterwards: a tenant may rotate a secret through the API, too. Where the
operator has no right to keep them, the database alone has them, sealed, and the Addon says so.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping

from metacore.errors import PermissionDenied, Unavailable
from metacore.installer.register import SECRET_BYTES
from metacore_operator.resources.addon import ROTATE_SECRETS
from metacore_operator.steps.context import Context, KeptSecrets


async def prepare(context: Context) -> Mapping[uuid.UUID, bytes]:
    """Keep a secret for every organization that is about to get the addon, and new ones where somebody asks for them.

    Raises:
        Unavailable, Refused: they cannot be kept; then nothing may be installed either.
    """
    store, addon = context.ports.secrets, context.addon
    if store is None:
        return {}
    try:
        kept = await store.read(addon)
    except PermissionDenied as error:
        if addon.rotating:
            # New secrets that nobody could read would only shut out who has the old ones.
            raise Unavailable(f"{error.message}, so none are rotated") from error
        context.unkept = error.message
        return {}
    there = context.installed.organizations if context.installed is not None else {}
    values = {item: value for item, value in kept.values.items() if item in context.chosen.organizations}
    rotation = kept.rotation
    if addon.rotating and rotation != addon.asked(ROTATE_SECRETS):
        # Told by the same write: after a kill the next reconcile goes on with these and makes no others.
        rotation = addon.asked(ROTATE_SECRETS)
        values = {item: secrets.token_bytes(SECRET_BYTES) for item in values}
    for organization in context.chosen.organizations:
        if organization not in values and (organization not in there or addon.rotating):
            values[organization] = secrets.token_bytes(SECRET_BYTES)
    if KeptSecrets(values, rotation) != kept:
        await store.write(addon, KeptSecrets(values, rotation))
    return values


async def settle(context: Context, given: Mapping[uuid.UUID, bytes]) -> None:
    """Bring the database and what is kept in line after the installation.

    Raises:
        Unavailable, Refused: they cannot be kept.
    """
    store, addon = context.ports.secrets, context.addon
    if store is None or context.unkept:
        return
    stored = await context.ports.installer.stored_secrets(addon.key)
    values = dict(given)
    for organization, secret in stored.items():
        if organization not in context.chosen.organizations:
            continue
        mine = values.get(organization)
        if mine is not None and secret.is_of(mine):
            continue
        if mine is not None and addon.rotating:
            await context.ports.installer.rotate_secret(addon.key, organization, mine)
        elif secret.value is not None:
            values[organization] = secret.value
        else:
            # Rotated by somebody else, and sealed for nobody: a wrong secret is worse than none.
            values.pop(organization, None)
    if values != given:
        kept = await store.read(addon)
        await store.write(addon, KeptSecrets(values, kept.rotation))
    context.rotated = addon.rotating
