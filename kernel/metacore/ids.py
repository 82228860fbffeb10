"""Identifiers that must not be mixed, and how new ones are made.

Every id is a UUIDv4. Organization ids must stay v4: the first eight hex digits name a tenant's schema, and only
random ids spread over that space.
"""

from __future__ import annotations

import uuid
from typing import NewType

from metacore.errors import InvalidInput

OrganizationId = NewType("OrganizationId", uuid.UUID)
UserId = NewType("UserId", uuid.UUID)
SessionId = NewType("SessionId", uuid.UUID)
RowId = NewType("RowId", uuid.UUID)

KERNEL_ADDON_KEY = "kernel"
"""The addon key under which models and events of the host itself appear."""


def new_uuid() -> uuid.UUID:
    return uuid.uuid4()


def parse_uuid(text: str, what: str = "id") -> uuid.UUID:
    """The UUID that `text` spells in the 36-character form.

    Raises:
        InvalidInput: anything else, naming `what`; braces, URNs and bare hex are refused so that one row has one URL.
    """
    if len(text) == 36:
        try:
            return uuid.UUID(text)
        except ValueError:
            pass
    raise InvalidInput(f"invalid {what}: expected a UUID", code="invalid_id")
