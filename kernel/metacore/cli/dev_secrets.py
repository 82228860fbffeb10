"""What `metacore dev` makes once and keeps beside the data: passwords and keys, and the first owner's login."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from metacore.errors import Misconfigured

Document = TypeVar("Document", bound=BaseModel)

OWNER_EMAIL = "owner@example.com"


class DevSecrets(BaseModel):
    """`secrets.json`: all of it is random, none of it is ever printed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    owner_password: str
    kernel_password: str
    jwt_secret: str
    master_key: str


class OwnerLogin(BaseModel):
    """`owner.json`: for people and scripts that log in. `url` follows the port of the last start."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str
    email: str
    password: str


def load_secrets(file: Path) -> DevSecrets:
    """The secrets in `file`, made at the first call.

    Raises:
        Misconfigured: the file is there and cannot be understood; it is never replaced, since the data depends on it.
    """
    known = known_secrets(file)
    if known is not None:
        return known
    made = DevSecrets(
        owner_password=secrets.token_urlsafe(32),
        kernel_password=secrets.token_urlsafe(32),
        jwt_secret=secrets.token_urlsafe(48),
        master_key=secrets.token_hex(32),
    )
    write_private(file, made.model_dump())
    return made


def known_secrets(file: Path) -> DevSecrets | None:
    """The secrets in `file`; None when they were never made.

    Raises:
        Misconfigured: the file is there and cannot be read or understood.
    """
    return _read(file, DevSecrets)


def load_login(file: Path, url: str) -> OwnerLogin:
    """The first owner's login as it stands in `file`, or a new one, with today's `url`; it is written when it differs.

    Raises:
        Misconfigured: the file is there and cannot be understood.
    """
    known = _read(file, OwnerLogin)
    login = (
        known.model_copy(update={"url": url})
        if known is not None
        else OwnerLogin(url=url, email=OWNER_EMAIL, password=secrets.token_urlsafe(15))
    )
    if login != known:
        write_private(file, login.model_dump())
    return login


def write_private(file: Path, document: Any) -> None:
    """Write JSON that only we may read, so that a crash leaves the old file or the new one."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as writer:
        json.dump(document, writer, indent=2)
        writer.write("\n")
        writer.flush()
        os.fsync(writer.fileno())
    temporary.replace(file)


def _read(file: Path, kind: type[Document]) -> Document | None:
    try:
        return kind.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Misconfigured(f"cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"]) or "JSON"
        raise Misconfigured(
            f"{file} cannot be understood ({place}); mend it, or start with another data folder"
        ) from None
