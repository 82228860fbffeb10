"""What an email, a name, a role, a status and a password may be. Pure; every refusal names the rule."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from metacore.errors import InvalidInput, Problem

OWNER: Final = "owner"
ADMIN: Final = "admin"
AGENT: Final = "agent"
"""The roles that the kernel knows; hosts add their own strings."""

ACTIVE: Final = "active"
DISABLED: Final = "disabled"
STATUSES: Final = (ACTIVE, DISABLED)

MIN_PASSWORD = 10
MAX_PASSWORD = 1024
MAX_EMAIL = 254
"""The longest address that SMTP can carry (RFC 5321, 4.5.3.1)."""
MAX_NAME = 255

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)*")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def normalize_email(text: str) -> str:
    """`text` trimmed and lower-cased: the form that is stored and compared.

    Raises:
        InvalidInput: not of the form `name@host`, longer than 254 characters, or with characters that do not print.
    """
    email = text.strip().lower()
    if len(email) > MAX_EMAIL or not email.isprintable() or _EMAIL.fullmatch(email) is None:
        _refuse("email", "invalid_email", f"expected an address such as ada@example.com, up to {MAX_EMAIL} characters")
    return email


def check_name(text: str, field: str = "name") -> str:
    """`text` trimmed.

    Raises:
        InvalidInput: empty, longer than 255 characters, or with characters that do not print.
    """
    name = text.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        _refuse(field, "invalid_name", f"expected 1 to {MAX_NAME} printable characters")
    return name


def check_role(text: str) -> str:
    """Raises:
    InvalidInput: not a letter followed by up to 63 letters, digits, `_` and `-`.
    """
    if _ROLE.fullmatch(text) is None:
        _refuse("role", "invalid_role", "expected a letter, then up to 63 letters, digits, _ and -")
    return text


def check_status(text: str) -> str:
    """Raises:
    InvalidInput: neither `active` nor `disabled`.
    """
    if text not in STATUSES:
        _refuse("status", "invalid_status", f"expected one of {', '.join(STATUSES)}")
    return text


def check_password(text: str) -> str:
    """The password, untouched.

    Raises:
        InvalidInput: shorter than 10 or longer than 1024 characters; the password is never in the message.
    """
    if len(text) < MIN_PASSWORD:
        _refuse("password", "password_too_short", f"a password needs at least {MIN_PASSWORD} characters")
    if len(text) > MAX_PASSWORD:
        _refuse("password", "password_too_long", f"a password has at most {MAX_PASSWORD} characters")
    return text


def _refuse(field: str, code: str, message: str) -> NoReturn:
    raise InvalidInput(f"{field}: {message}", code=code, problems=[Problem(field, code, message)])
