"""What an addon may ask for (contract 11): capability kinds and the targets that each can have. Pure words, no runtime.

`metacore.capabilities` decides and records; this module only says whether a manifest's request can be granted at all.
"""

from __future__ import annotations

import re

KINDS = frozenset({"db:read", "db:write", "http:fetch", "event:emit", "event:subscribe", "connector:read"})

_PART = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_TABLE = re.compile(rf"{_PART}(\.{_PART}){{0,2}}(\.\*)?")
_WORDS = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,7}(\.\*)?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9]\d{0,4}")

COUNTRY_SUFFIXES = frozenset(
    {"ac", "asso", "co", "com", "edu", "gob", "gov", "gouv", "go", "info", "mil", "ne", "net", "nom", "or", "org"}
)
"""Second labels under which country registries sell names (`co.uk`, `com.mx`): `*` above them would be everybody."""


def target_problem(kind: str, target: str) -> str:
    """What is wrong with `target` for a capability of `kind`, '' when nothing is.

    http:fetch wants a host or host:port of at least two labels, with at most one leading `*.` above a registrable
    domain; db:* a table or `prefix.*`; connector:read a key or `prefix.*`; event:* also `*`.
    """
    if kind not in KINDS:
        return f"{kind[:40]!r} is not a capability: use one of {', '.join(sorted(KINDS))}"
    if not target:
        return "is required"
    if kind == "http:fetch":
        return _host_problem(target)
    if target == "*":
        return "" if kind.startswith("event:") else "a bare * is allowed for events only"
    pattern = _TABLE if kind.startswith("db:") else _WORDS
    return "" if pattern.fullmatch(target) else f"{target[:80]!r} is neither a name nor a prefix.*"


def _host_problem(target: str) -> str:
    name = f"{target[:80]!r}"
    if "/" in target or "@" in target:
        return f"{name} must be a host or host:port, without scheme, path or user"
    host, colon, port = target.partition(":")
    if colon and not (_PORT.fullmatch(port) and int(port) <= 65_535):
        return f"{name} has no port from 1 to 65535 after the colon"
    starred = host.startswith("*.")
    labels = host.removeprefix("*.").lower().split(".")
    if "*" in host.removeprefix("*."):
        return f"{name} may have one * only, as its whole first label"
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return f"{name} is not a host name"
    if len(labels) < 2:
        return f"{name} needs at least two labels" if not starred else f"{name} stands above a whole top-level domain"
    if labels[-1].isdigit():
        return f"{name} is an address; name a host"
    if starred and len(labels) == 2 and len(labels[1]) == 2 and labels[0] in COUNTRY_SUFFIXES:
        return f"{name} stands above a whole registry, not above a registrable domain"
    return ""
