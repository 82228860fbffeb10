"""Actions: what a user can do to a row or a table beyond create, read, update and delete."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

from metacore.manifest import names
from metacore.manifest.handlers import TYPES, check_handler, need_export, read_url
from metacore.manifest.model import ActionDefinition, Backend
from metacore.manifest.scope import Scope
from metacore.manifest.walk import Node, join, kind_of, refuse_repeats, shown

PLACEMENTS = ("row", "table", "create")
RESERVED = frozenset({"create", "read", "update", "delete", "import"})
"""Keys that would share a capability with the row operations: `<model>.<key>`."""
Trigger = tuple[str, str, str, bool]
"""Type, function, URL, run_in_tx."""


def read_v2_actions(
    root: Node, scope: Scope, backend: Backend | None, extended: Collection[str]
) -> tuple[ActionDefinition, ...]:
    """`actions{model: [...]}`. `extended` are models of others that the addon extends; any further one is refused."""
    node = root.node("actions")
    if node is None:
        return ()
    hooks = root.value.get("hooks")
    hooked = frozenset(hooks) if isinstance(hooks, Mapping) else frozenset()
    found: list[ActionDefinition] = []
    for name in node.value:
        model = scope.find(name)
        if model is None:
            _unknown(node, name, name, extended)
        items = [_action(inner, model.key if model is not None else name, backend) for inner in node.nodes(name)]
        names_of_model = {name} if model is None else {name, model.key, model.table}
        for action, inner in items:
            if not any(f"{each}::{action.key}" in hooked for each in names_of_model):
                _warn_nowhere(inner, action, backend)
        refuse_repeats([(action.key, inner) for action, inner in items], "key", "action")
        found.extend(action for action, _ in items)
    return tuple(found)


def read_v3_actions(
    contributions: Node, scope: Scope, backend: Backend | None, extended: Collection[str]
) -> tuple[ActionDefinition, ...]:
    """`contributions.actions[]`, each with its `target_model`; one without belongs to the addon as a whole."""
    found: list[tuple[ActionDefinition, Node]] = []
    for inner in contributions.nodes("actions"):
        target = inner.text("target_model")
        model = scope.find(target) if target else None
        if target and model is None:
            _unknown(inner, "target_model", target, extended)
        found.append(_action(inner, model.key if model is not None else target, backend))
        _warn_nowhere(inner, found[-1][0], backend)
    refuse_repeats(
        [(f"{action.model}.{action.key}" if action.key else "", node) for action, node in found], "key", "action"
    )
    return tuple(action for action, _ in found)


def _warn_nowhere(node: Node, action: ActionDefinition, backend: Backend | None) -> None:
    """An action whose call would have no address: it is valid, and runs nothing when somebody calls it."""
    if backend is not None and backend.url:
        return
    if action.trigger == "webhook" and not action.url.startswith("http"):
        node.warn("trigger" if node.has("trigger") else "handler", "its URL needs a backend.url to stand on", "no_url")
    elif not action.trigger and not action.link_url and action.key:
        node.warn("key", "nothing runs: there is no handler, no hook and no backend.url", "no_handler")


def _unknown(node: Node, key: str, model: str, extended: Collection[str]) -> None:
    if "." in model or model in extended:
        node.warn(key, f"{shown(model)} is a model of another addon or of the host", "foreign_model")
    else:
        node.refuse(key, f"{shown(model)} is not a model of this manifest", "unknown_model")


def _action(node: Node, model: str, backend: Backend | None) -> tuple[ActionDefinition, Node]:
    key = node.text("key", required=True, pattern=names.NAME, form=names.NAME_FORM)
    if key in RESERVED:
        node.warn("key", f"{shown(key)} shares its permission with the row operation of that name", "reserved")
    kind, function, url, run_in_tx = _trigger(node, backend)
    placement = node.text("placement", choices=PLACEMENTS)
    if node.flag("isCollection") and not placement:
        placement = "table"
    if run_in_tx and placement in ("table", "create"):
        node.refuse("placement", "an action that runs in a transaction works on one row", "run_in_tx")
    idempotency = node.node("idempotency")
    confirm = node.raw("confirm")
    action = ActionDefinition(
        key=key,
        model=model,
        name=node.text("name"),
        label=node.text("label"),
        type=node.text("type"),
        link_url=node.text("linkUrl") or node.text("link_url"),
        condition=node.raw("condition"),
        placement=cast("Literal['', 'row', 'table', 'create']", placement),
        trigger=cast("Literal['', 'wasm', 'webhook', 'compiled', 'connector', 'noop']", kind),
        function=function,
        url=url,
        run_in_tx=run_in_tx,
        requires_state=node.texts("requires_state") or node.texts("requiresState"),
        confirm=isinstance(confirm, str) or node.flag("confirm"),
        confirm_message=confirm
        if isinstance(confirm, str)
        else node.text("confirm_message") or node.text("confirmMessage"),
        fields=_fields(node, "fields"),
        steps=tuple(dict(inner.value) for inner in node.nodes("steps")),
        modal=node.text("modal"),
        icon=node.text("icon"),
        css_class=node.text("class") or node.text("css_class"),
        color=node.text("color"),
        idempotency_key_field=idempotency.text("key_field", required=True) if idempotency is not None else "",
    )
    if action.fields and action.steps:
        node.refuse("steps", "is not allowed beside fields", "fields")
    for inner in node.nodes("steps"):
        _fields(inner, "fields")
    if action.link_url and action.link_url.split(":")[0].strip().lower() in ("javascript", "data", "vbscript"):
        node.refuse("linkUrl", f"{shown(action.link_url)} is not a link", "url")
    node.warn_unknown()
    return action, node


def _trigger(node: Node, backend: Backend | None) -> Trigger:
    """`trigger` of v2 (a word or an object), `handler` of v3; type '' where neither is given."""
    written = node.raw("trigger")
    key = "trigger" if written not in (None, "") else "handler"
    written = node.raw(key)
    if written in (None, ""):
        if node.flag("run_in_tx"):
            node.refuse("run_in_tx", "is only possible with a wasm trigger", "run_in_tx")
        return "", "", "", False
    if isinstance(written, str):
        return _worded(node, key, written, backend)
    if not isinstance(written, Mapping):
        node.refuse(key, f"must be an object, not {kind_of(written)}", "type")
        return "", "", "", False
    inner = Node(written, join(node.path, key), node.report)
    kind, function, url = check_handler(inner, backend)
    run_in_tx = inner.flag("run_in_tx") or node.flag("run_in_tx")
    inner.warn_unknown()
    if run_in_tx and kind != "wasm":
        inner.refuse("run_in_tx", f"is only possible with a wasm trigger, not with {kind or 'none'}", "run_in_tx")
    return kind, function, url, run_in_tx and kind == "wasm"


def _worded(node: Node, key: str, kind: str, backend: Backend | None) -> Trigger:
    """A trigger given as one word, with `export`, `url` and `run_in_tx` beside it."""
    if kind not in TYPES:
        node.refuse(key, f"{shown(kind)} is not one of {', '.join(sorted(TYPES))}", "choice")
        return "", "", "", False
    function, url = node.text("export") or node.text("function"), read_url(node)
    run_in_tx = node.flag("run_in_tx")
    if kind == "wasm":
        if function:
            need_export(node, "export", function, backend)
        else:
            node.refuse("export", "is required for a wasm trigger", "required")
    elif run_in_tx:
        node.refuse("run_in_tx", f"is only possible with a wasm trigger, not with {kind}", "run_in_tx")
    elif kind == "webhook" and function:
        node.refuse("export", "is not allowed for a webhook, which has a url", "handler")
    return kind, function, url, run_in_tx and kind == "wasm"


def _fields(node: Node, key: str) -> tuple[dict[str, Any], ...]:
    """The inputs of a form, as written; each has a key (v2 also says name)."""
    named: list[tuple[str, Node]] = []
    found: list[dict[str, Any]] = []
    for inner in node.nodes(key):
        name = inner.text("key") or inner.text("name")
        if not name:
            inner.refuse("key", "is required", "required")
        named.append((name, inner))
        found.append(dict(inner.value) if "key" in inner.value else {"key": name, **inner.value})
    refuse_repeats(named, "key", "field")
    return tuple(found)
