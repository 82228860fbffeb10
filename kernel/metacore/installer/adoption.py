"""Handing an installed addon over to another Addon resource: after a cluster was rebuilt, every Addon has a new uid."""

from __future__ import annotations

from sqlalchemy import select, update

from metacore.db.database import Database
from metacore.errors import Conflict, InvalidInput, NotFound
from metacore.installer import runner
from metacore.orm.tables import Addon

LONGEST_UID = 64


async def adopt(owner: Database, key: str, uid: str, *, holder: str | None = None) -> str:
    """Let the Addon resource with this `uid` own addon `key` from now on; '' gives it to API requests and hosts.

    With `holder` only while that uid owns it. Returns who owned it. Nothing of the addon changes. This is for
    administrators: whoever owns an addon may upgrade it for every organization, and drop its data.

    Raises:
        NotFound: there is no such addon. Conflict: somebody else owns it than `holder`.
        InvalidInput: a uid of more than 64 characters. Unavailable: it is being installed just now.
    """
    if len(uid) > LONGEST_UID:
        raise InvalidInput(f"a uid has at most {LONGEST_UID} characters")

    async def once() -> str:
        async with runner.locked(owner, key) as connection:
            row = (await connection.execute(select(Addon.owner_uid).where(Addon.key == key))).one_or_none()
            if row is None:
                raise NotFound(f"there is no addon {key!r}", code="unknown_addon")
            if holder is not None and row.owner_uid != holder:
                raise Conflict(f"addon {key!r} is owned by {row.owner_uid or 'nobody'!r}, not by {holder!r}")
            await connection.execute(update(Addon).where(Addon.key == key).values(owner_uid=uid))
            return str(row.owner_uid)

    return await runner.patiently(once, step="adopt")
