"""Request headers and methods: what callers may set, and what stays behind when a redirect leads to another origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from metacore.errors import InvalidInput

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 32 * 1024
"""All names and values together; servers take less (nginx 8 KiB a line, 32 KiB in all)."""

OURS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""They frame the message or steer the connection, so the broker alone sets them; `proxy-*` likewise."""

HARMLESS: Final = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})
"""What goes along to another origin: any other header may be a credential, under whatever name."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
_METHOD = re.compile(r"[A-Z]{1,20}")
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})


def checked_method(method: str) -> str:
    """The method in upper case; '' is GET.

    Raises:
        InvalidInput: no method, or one that makes a tunnel or echoes credentials.
    """
    name = (method or "GET").upper()
    if _METHOD.fullmatch(name) is None or name in _REFUSED_METHODS:
        raise InvalidInput(f"method {method[:20]!r} cannot be sent", code="invalid_method")
    return name


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The same with names in lower case.

    Raises:
        InvalidInput: a name or value that could break the message, one that is the broker's, or too many.
    """
    checked: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if _NAME.fullmatch(name) is None:
            raise InvalidInput(f"{name[:64]!r} is no name of a header", code="invalid_header")
        if lower in OURS or lower.startswith("proxy-"):
            raise InvalidInput(f"header {name[:64]!r} cannot be set", code="invalid_header")
        if lower in checked:
            raise InvalidInput(f"header {name[:64]!r} is given twice", code="invalid_header")
        if _VALUE.fullmatch(value) is None:
            raise InvalidInput(
                f"header {name[:64]!r} holds a line break or a character outside Latin-1", code="invalid_header"
            )
        checked[lower] = value.strip(" \t")
    if len(checked) > MAX_HEADERS or sum(len(n) + len(v) for n, v in checked.items()) > MAX_HEADER_BYTES:
        raise InvalidInput(
            f"at most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes of them can be sent", code="invalid_header"
        )
    return checked
