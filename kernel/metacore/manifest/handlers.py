"""What runs when something happens: `wasm:<export>`, `webhook:<url or key>`, `compiled:<function>`, or an object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from metacore.manifest import names
from metacore.manifest.model import Backend
from metacore.manifest.walk import Node, join, kind_of, shown

TYPES = frozenset({"wasm", "webhook", "compiled", "connector", "noop"})
MAX_URL = 2_000
_SPELLED = re.compile(r"(wasm|webhook|compiled|connector|noop)(?::(.+))?")


def url_problem(url: str) -> str:
    """What is wrong with a URL that the kernel would call, '' when nothing is: http, https, or a path after `/`."""
    if len(url) > MAX_URL or any(character <= " " or character == "\x7f" for character in url):
        return f"{shown(url)} is not a URL: it is too long or holds spaces"
    if url.startswith("/"):
        return "" if not url.startswith("//") and "\\" not in url else f"{shown(url)} must be a path or a full URL"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return f"{shown(url)} must be a URL with http or https, or a path that starts with /"
    return "" if not parts.username and not parts.password else f"{shown(url)} must not carry a user or password"


def read_url(node: Node, key: str = "url") -> str:
    url = node.text(key)
    if url and (problem := url_problem(url)):
        node.refuse(key, problem, "url")
        return ""
    return url


def read_handler(
    node: Node, key: str, backend: Backend | None, *, required: bool = False
) -> dict[str, Any] | str | None:
    """The handler at `key`, as written; None where there is none."""
    value = node.raw(key)
    if value is None or value == "":
        if required:
            node.refuse(key, "is required", "required")
        return None
    if isinstance(value, str):
        found = _SPELLED.fullmatch(value)
        if found is None or (found[2] is None and found[1] != "noop"):
            node.refuse(
                key, f"{shown(value)} must be wasm:<export>, webhook:<url>, compiled:<function> or noop", "handler"
            )
        elif found[1] == "wasm":
            need_export(node, key, found[2], backend)
        return value
    if not isinstance(value, Mapping):
        node.refuse(key, f"must be a handler, not {kind_of(value)}", "type")
        return None
    inner = Node(value, join(node.path, key), node.report)
    check_handler(inner, backend)
    return dict(value)


def check_handler(node: Node, backend: Backend | None) -> tuple[str, str, str]:
    """Type, function and URL of a handler object `{type, function|export, url}`."""
    kind = node.text("type", required=True, choices=TYPES)
    function = node.text("function") or node.text("export")
    word = "function" if node.has("function") else "export"
    url = read_url(node)
    if kind == "wasm":
        if not function:
            node.refuse("function", "is required for wasm: the export to call", "required")
        else:
            need_export(node, word, function, backend)
    elif kind == "connector" and not function and not url:
        node.refuse("function", "is required for a connector", "required")
    elif kind == "webhook" and function:
        node.refuse(word, "is not allowed for a webhook, which has a url", "handler")
    return kind, function, url


def need_export(node: Node, key: str, function: str, backend: Backend | None) -> None:
    """Report a wasm function that the backend does not export."""
    name = function.removeprefix("wasm:")
    if not names.EXPORT.fullmatch(name):
        node.refuse(key, f"{shown(name)} {names.EXPORT_FORM}", "pattern")
    elif backend is None or backend.runtime != "wasm":
        node.refuse(key, f"{shown(name)} needs a backend of runtime wasm that exports it", "export")
    elif name not in backend.exports:
        node.refuse(key, f"{shown(name)} is not listed in backend.exports", "export")
