"""The parts of an addon that run: frontend, backend, lifecycle, schedules, webhooks, tools, connectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from metacore.errors import InvalidInput
from metacore.manifest import names, timing
from metacore.manifest.handlers import check_handler, need_export, read_handler, read_url
from metacore.manifest.model import Backend, Connector, Frontend, InboundWebhook, Schedule
from metacore.manifest.ranges import parse_range
from metacore.manifest.settings import read_settings
from metacore.manifest.walk import Node, join, kind_of, refuse_repeats, shown

FORMATS, LAYOUTS = ("federation", "script"), ("shell", "immersive")
RUNTIMES = ("webhook", "wasm", "binary")
WASM_ENTRY = "backend/backend.wasm"
MAX_MEMORY_MB, MAX_TIMEOUT_MS = 4_096, 600_000
GUEST_MEMORY_MB, GUEST_TIMEOUT_MS = 512, 60_000
"""What a guest gets at most, whatever its manifest asks for."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_TOOL_SECONDS = 600
VERIFICATIONS = ("hmac-sha256",)
LIFECYCLE = ("install", "uninstall", "enable", "disable")
ROW_EVENTS = tuple(f"{when}_{verb}" for when in ("before", "after") for verb in ("create", "update", "delete"))
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_HASH = r"sha(?:256|384|512)-[A-Za-z0-9+/]{43,88}={0,2}"
_INTEGRITY = re.compile(rf"{_HASH}(?: {_HASH})*")


def read_frontend(root: Node, addon_key: str) -> Frontend | None:
    node = root.node("frontend")
    if node is None:
        return None
    frontend = Frontend(
        entry=node.text("entry", required=True, limit=2_000),
        format=cast("Literal['federation', 'script']", node.text("format", "federation", choices=FORMATS)),
        expose=node.text("expose"),
        integrity=node.text("integrity", pattern=_INTEGRITY, form="must be a hash such as sha384-…"),
        container=node.text(
            "container", f"metacore_{addon_key}", pattern=re.compile(r"[A-Za-z_$][\w$]*"), form="must be an identifier"
        ),
        layout=cast("Literal['shell', 'immersive']", node.text("layout", "shell", choices=LAYOUTS)),
    )
    entry = frontend.entry
    if "\\" in entry or ".." in entry.split("/") or re.match(r"(?!https?:)[A-Za-z][A-Za-z0-9+.-]*:", entry):
        node.refuse("entry", f"{shown(entry)} must be a path in the bundle or a URL", "path")
    node.warn_unknown()
    return frontend


def read_backend(root: Node) -> Backend | None:
    node = root.node("backend")
    if node is None:
        return None
    runtime = node.text("runtime", "webhook", choices=RUNTIMES)
    entry = node.text("entry", WASM_ENTRY if runtime == "wasm" else "", limit=500)
    if entry.startswith("/") or "\\" in entry or ".." in entry.split("/"):
        node.refuse("entry", f"{shown(entry)} must be a path in the bundle", "path")
    backend = Backend(
        runtime=cast("Literal['webhook', 'wasm', 'binary']", runtime),
        entry=entry,
        url=read_url(node),
        exports=node.texts("exports", pattern=names.EXPORT, form=names.EXPORT_FORM),
        memory_limit_mb=node.whole("memory_limit_mb", 64, low=1, high=MAX_MEMORY_MB),
        timeout_ms=node.whole("timeout_ms", 10_000, low=1, high=MAX_TIMEOUT_MS),
    )
    if len(set(backend.exports)) != len(backend.exports):
        node.refuse("exports", "names a function twice", "duplicate")
    if runtime == "wasm":
        for key, asked, most in (
            ("memory_limit_mb", backend.memory_limit_mb, GUEST_MEMORY_MB),
            ("timeout_ms", backend.timeout_ms, GUEST_TIMEOUT_MS),
        ):
            if asked > most:
                node.warn(key, f"a module gets {most} at most", "ceiling")
    node.warn_unknown()
    return backend


def read_lifecycle(root: Node, backend: Backend | None) -> dict[str, Any]:
    """v3's `lifecycle`: per event a function, a URL path or a handler, and the upgrade steps."""
    node = root.node("lifecycle")
    if node is None:
        return {}
    found: dict[str, Any] = {}
    for event in LIFECYCLE:
        value = node.raw(event)
        if value is None or value == "":
            continue
        items = value if isinstance(value, list | tuple) else [value]
        path = join(node.path, event)
        places = [join(path, index) for index in range(len(items))] if items is value else [path]
        found[event] = [
            _lifecycle_handler(Node({event: item}, node.path, node.report), event, place, item, backend)
            for item, place in zip(items, places, strict=True)
        ]
    steps = [_upgrade(inner, backend) for inner in node.nodes("upgrade")]
    if steps:
        found["upgrade"] = steps
    node.warn_unknown()
    return found


def read_lifecycle_hooks(root: Node, backend: Backend | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """v2's `lifecycle_hooks`: those of the addon's life in the shape of v3, and those around rows as written."""
    node = root.node("lifecycle_hooks")
    if node is None:
        return {}, {}
    lifecycle: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for name in node.value:
        items = node.nodes(name)
        for inner in items:
            target = inner.node("target") or inner
            kind = target.text("type", required=True)
            event = inner.text("event")
            if name in (*LIFECYCLE, *ROW_EVENTS, "upgrade") and event and event != name:
                inner.refuse("event", f"{shown(event)} contradicts {shown(name)}, under which it stands", "event")
            if name not in (*LIFECYCLE, *ROW_EVENTS, "upgrade") and event not in ROW_EVENTS:
                inner.refuse("event", f"{shown(event)} is not one of {', '.join(ROW_EVENTS)}", "choice")
            if inner.flag("async") and not (event or name).startswith("after_"):
                inner.refuse("async", "is only possible after an event", "async")
            if kind in ("wasm", "wasm_call"):
                need_export(target, "function", target.text("function") or target.text("export"), backend)
            elif kind == "webhook":
                target.text("url", required=True)
                read_url(target)
        if name in LIFECYCLE:
            lifecycle[name] = [_flat_target(inner) for inner in items]
        else:
            rows[name] = [dict(inner.value) for inner in items]
    return lifecycle, rows


def read_schedules(root: Node, backend: Backend | None) -> tuple[Schedule, ...]:
    found: list[tuple[Schedule, Node]] = []
    for node in root.nodes("schedules"):
        every = node.text("every", required=True, limit=200)
        if every:
            try:
                timing.check(every)
            except InvalidInput as error:
                node.refuse("every", error.message, "schedule")
        key = node.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM)
        do = read_handler(node, "do", backend, required=True)
        found.append((Schedule(key=key, every=every, do=do or "noop"), node))
        node.warn_unknown()
    refuse_repeats([(schedule.key, node) for schedule, node in found], "key", "schedule")
    return tuple(schedule for schedule, _ in found)


def read_webhooks(root: Node, backend: Backend | None) -> tuple[InboundWebhook, ...]:
    found: list[tuple[InboundWebhook, Node]] = []
    for node in root.nodes("webhooks"):
        path = node.text("path", required=True, limit=500)
        if (path and not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+/?", path)) or ".." in path.split("/"):
            node.refuse("path", f"{shown(path)} must be a path such as /webhooks/orders", "path")
        verify = node.text("verify")
        verify = "" if verify == "none" else verify
        if verify and verify not in VERIFICATIONS:
            node.refuse("verify", f"{shown(verify)} is not one of {', '.join(VERIFICATIONS)}", "choice")
        if verify and not node.text("secret_ref"):
            node.refuse("secret_ref", "is required to verify a signature", "required")
        found.append(
            (
                InboundWebhook(
                    key=node.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM),
                    path=path,
                    verify=verify,
                    secret_ref=node.text("secret_ref"),
                    do=read_handler(node, "do", backend),
                ),
                node,
            )
        )
        node.warn_unknown()
    refuse_repeats([(webhook.key, node) for webhook, node in found], "key", "webhook")
    refuse_repeats([(webhook.path, node) for webhook, node in found], "path", "webhook path")
    return tuple(webhook for webhook, _ in found)


def read_tools(node: Node, backend: Backend | None) -> tuple[dict[str, Any], ...]:
    """Tools as written, with `id` and `method` filled in (v3 calls the id `key`)."""
    found: list[dict[str, Any]] = []
    named: list[tuple[str, Node]] = []
    for inner in node.nodes("tools"):
        word = "id" if inner.has("id") or not inner.has("key") else "key"
        name = inner.text(word, required=True, pattern=names.NAME, form=names.NAME_FORM)
        inner.text("name")
        inner.text("description")
        inner.text("category")
        method = inner.text("method", "POST").upper()
        if method not in METHODS:
            inner.refuse("method", f"{shown(method)} is not one of {', '.join(METHODS)}", "choice")
        read_url(inner, "endpoint")
        inner.whole("timeout", 0, low=0, high=MAX_TOOL_SECONDS)
        schema = inner.raw("input_schema")
        if schema is not None and not isinstance(schema, list | tuple | Mapping):
            inner.refuse("input_schema", f"must be an array or an object, not {kind_of(schema)}", "type")
        handler = inner.node("handler")
        if handler is not None:
            check_handler(handler, backend)
        inner.texts("trigger_keywords")
        inner.texts("trigger_intents")
        named.append((name, inner))
        found.append({**inner.value, "id": name, "method": method})
    refuse_repeats(named, "id", "tool")
    return tuple(found)


def read_connectors(root: Node, backend: Backend | None) -> tuple[Connector, ...]:
    found: list[tuple[Connector, Node]] = []
    for node in root.nodes("connectors"):
        test = node.text("test_export")
        if test and backend is not None and backend.runtime == "wasm":
            need_export(node, "test_export", test, backend)
        connector = Connector(
            key=node.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM),
            label=node.text("label"),
            description=node.text("description"),
            auth=node.text("auth"),
            base_url=read_url(node, "base_url"),
            header=node.text("header", pattern=_HEADER, form="must be the name of a header"),
            credentials=read_settings(node, "credentials"),
            test_export=test,
        )
        found.append((connector, node))
        node.warn_unknown()
    refuse_repeats([(connector.key, node) for connector, node in found], "key", "connector")
    return tuple(connector for connector, _ in found)


def read_subscriptions(node: Node, backend: Backend | None) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for inner in node.nodes("subscriptions"):
        event = inner.text("event", required=True)
        if event and event != "*" and not names.EVENT.fullmatch(event.removesuffix(".*")):
            inner.refuse("event", f"{shown(event)} {names.EVENT_FORM}", "pattern")
        read_handler(inner, "handler", backend, required=True)
        found.append(dict(inner.value))
    return tuple(found)


def read_events(node: Node) -> tuple[str, ...]:
    """`events[]`: names, or objects with a name."""
    found: list[str] = []
    for path, item in node.members("events"):
        name = item.get("name") if isinstance(item, Mapping) else item
        if not isinstance(name, str) or not names.EVENT.fullmatch(name):
            node.report.refuse(path, "pattern", f"{shown(name)} {names.EVENT_FORM}")
        elif name in found:
            node.report.refuse(path, "duplicate", f"event {shown(name)} is declared twice")
        else:
            found.append(name)
    return tuple(found)


def _lifecycle_handler(node: Node, event: str, path: str, value: Any, backend: Backend | None) -> dict[str, Any]:
    if isinstance(value, Mapping):
        inner = Node(value, path, node.report)
        kind, function, url = check_handler(inner, backend)
        return {**value, "type": kind, "function": function, "url": url}
    if not isinstance(value, str):
        node.report.refuse(path, "type", f"must be a function, a path or a handler, not {kind_of(value)}")
        return {"type": "noop", "function": "", "url": ""}
    if value.startswith(("/", "http://", "https://")):
        return {"type": "webhook", "function": "", "url": value}
    if backend is not None and backend.runtime == "wasm":
        need_export(node, event, value, backend)
        return {"type": "wasm", "function": value.removeprefix("wasm:"), "url": ""}
    return {"type": "compiled", "function": value.removeprefix("compiled:"), "url": ""}


def _upgrade(node: Node, backend: Backend | None) -> dict[str, Any]:
    written = node.text("from", required=True)
    if written:
        try:
            parse_range(written)
        except InvalidInput as error:
            node.refuse("from", error.message, "version_range")
    kind = node.text("type", "wasm", choices=("wasm", "sql", "webhook", "compiled"))
    function = node.text("function", required=True)
    if kind == "wasm" and function:
        need_export(node, "function", function, backend)
    node.warn_unknown()
    return {"from": written, "type": kind, "function": function}


def _flat_target(node: Node) -> dict[str, Any]:
    target = node.value.get("target")
    inner: Mapping[str, Any] = target if isinstance(target, Mapping) else node.value
    kind = str(inner.get("type", ""))
    return {
        **{key: value for key, value in node.value.items() if key != "target"},
        "type": "wasm" if kind == "wasm_call" else kind,
        "function": str(inner.get("function") or inner.get("export") or ""),
        "url": str(inner.get("url") or ""),
    }
