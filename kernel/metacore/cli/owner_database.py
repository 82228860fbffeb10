"""Reaching the database as its owner, for commands that look across organizations."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from metacore.cli import places
from metacore.cli.dev_secrets import known_secrets
from metacore.cli.environment import read_settings
from metacore.db.database import Database
from metacore.db.roles import OWNER_ROLE
from metacore.errors import Misconfigured, Unavailable

DATABASE = "metacore"
"""The database of `metacore dev`."""


async def open_owner_database(data: Path | None) -> Database:
    """The database of METACORE_OWNER_DATABASE_URL, or of the `metacore dev` that runs on `data` (or on the user's data
    folder when neither is given).

    Raises:
        Misconfigured: there is nothing to go by, or the database refuses.
        Unavailable: no `metacore dev` runs on that folder now.
    """
    url = "" if data is not None else read_settings().owner_database_url.get_secret_value()
    if url:
        return await Database.connect(url, pool_size=2, application_name="metacore-cli")
    folder = (data or places.data_home()).expanduser().absolute()
    url = _url_of(folder)
    if not url:
        hint = "" if data is not None else "set METACORE_OWNER_DATABASE_URL to the database of the owner role, or "
        raise Misconfigured(f"{folder} holds no data of `metacore dev`: {hint}name its folder with --data")
    database = Database(url, pool_size=2, application_name="metacore-cli")
    try:
        await database.open()
    except Misconfigured as error:
        await database.close()
        if isinstance(error.__cause__, OSError):
            raise Unavailable(f"no `metacore dev` runs on {folder}: start it, then ask again") from error
        raise
    return database


def _url_of(folder: Path) -> str:
    secrets = known_secrets(folder / "secrets.json")
    try:
        port = (folder / "postgres" / "port").read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Misconfigured(f"cannot read {error.filename}: {error.strerror}") from error
    if secrets is None or not port.isdigit():
        return ""
    return f"postgresql://{OWNER_ROLE}:{quote(secrets.owner_password, safe='')}@127.0.0.1:{port}/{DATABASE}"
