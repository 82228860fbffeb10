"""How the target of an operation is spelled, so that a grant, a decision and a record mean the same thing by it."""

from __future__ import annotations

import uuid
from typing import Final

from metacore.capabilities.access import CapabilityKind
from metacore.manifest.names import TENANT_SUFFIX

DEFAULT_PORTS: Final = frozenset({80, 443})
"""What a host without a port stands for: http and https where everybody expects them."""

DATABASE_KINDS: Final = frozenset({CapabilityKind.DB_READ, CapabilityKind.DB_WRITE})

_PUBLIC: Final = "public."
_SUFFIX: Final = 9
"""`_` and eight hex digits, the end of a tenant schema's name (contract 10)."""


def own_schema(addon_key: str) -> str:
    return f"addon_{addon_key}"


def host_target(host: str, port: int) -> str:
    """The target of a request to `host` (a name, or an address without brackets)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def canonical(kind: str, target: str, organization_id: uuid.UUID | None) -> str:
    """`target` as a manifest would name it: what two tenants, or two ways of writing, do alike has one name.

    A table in a tenant's schema is named under its addon's shared name when the schema is that organization's own;
    another tenant's keeps its name, which no manifest grants. `public.` is left out. Hosts are in lower case, without
    a final dot and without a default port.
    """
    if kind in DATABASE_KINDS:
        return _table(target, organization_id)
    if kind == CapabilityKind.HTTP_FETCH:
        host, port = split_host(target)
        return host if port is None or port in DEFAULT_PORTS else f"{host}:{port}"
    return target


def split_host(target: str) -> tuple[str, int | None]:
    """Host and port of an http:fetch target; a port that is none belongs to the host, so that nothing matches it."""
    host, colon, digits = target.rpartition(":")
    if colon and digits.isascii() and digits.isdecimal() and len(digits) <= 5:
        return host.lower().removesuffix("."), int(digits)
    return target.lower().removesuffix("."), None


def _table(target: str, organization_id: uuid.UUID | None) -> str:
    if target.startswith("addon_"):
        schema, dot, table = target.partition(".")
        if (
            dot
            and TENANT_SUFFIX.fullmatch(schema)
            and (organization_id is None or schema.endswith(organization_id.hex[:8]))
        ):
            return f"{schema[:-_SUFFIX]}.{table}"
        return target
    return target.removeprefix(_PUBLIC)
