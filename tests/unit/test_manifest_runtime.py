"""What runs and what may be asked for: actions, backend, frontend, lifecycle, schedules, webhooks, tools, settings,
navigation, capabilities."""

from __future__ import annotations

from typing import Any

import pytest
from tests.manifests import Json, problems, read, v2, v3, warnings

from metacore.manifest.capabilities import KINDS, target_problem
from metacore.manifest.model import ActionDefinition, Option, Setting
from metacore.manifest.setting_values import problem_of

WASM: Json = {"runtime": "wasm", "exports": ["go", "on_install"]}


def v2_action(**action: Any) -> Json:
    return v2(backend=WASM, actions={"tickets": [{"key": "go", **action}]})


def v3_action(**action: Any) -> Json:
    return v3(backend=WASM, contributions={"actions": [{"key": "go", "target_model": "Order", **action}]})


def only_action(manifest: Json) -> ActionDefinition:
    (action,) = read(manifest).actions
    return action


@pytest.mark.parametrize(
    ("trigger", "stored"),
    [
        ({}, ("", "", "", False)),
        ({"trigger": {"type": "wasm", "export": "go"}}, ("wasm", "go", "", False)),
        ({"trigger": {"type": "wasm", "export": "go", "run_in_tx": True}}, ("wasm", "go", "", True)),
        ({"trigger": "wasm", "export": "go", "run_in_tx": True}, ("wasm", "go", "", True)),
        ({"trigger": {"type": "webhook", "url": "https://a.example/x"}}, ("webhook", "", "https://a.example/x", False)),
        ({"trigger": {"type": "webhook"}}, ("webhook", "", "", False)),
        ({"trigger": {"type": "noop"}}, ("noop", "", "", False)),
        ({"trigger": {"type": "compiled"}}, ("compiled", "", "", False)),
    ],
)
def test_triggers_of_v2(trigger: Json, stored: tuple[Any, ...]) -> None:
    action = only_action(v2_action(**trigger))
    assert (action.trigger, action.function, action.url, action.run_in_tx) == stored


def test_an_action_of_v3_keeps_what_its_author_said() -> None:
    action = only_action(
        v3_action(
            label="Go",
            icon="Play",
            handler={"type": "wasm", "function": "go", "run_in_tx": True},
            placement="row",
            requires_state=["new"],
            confirm=True,
            confirm_message="Sure?",
            fields=[{"key": "note", "type": "text"}],
            modal="shop.go",
            idempotency={"key_field": "note"},
        )
    )
    assert (action.model, action.key, action.label, action.icon) == ("Order", "go", "Go", "Play")
    assert (action.trigger, action.function, action.run_in_tx, action.placement) == ("wasm", "go", True, "row")
    assert (action.requires_state, action.confirm, action.confirm_message) == (("new",), True, "Sure?")
    assert (action.fields[0]["key"], action.modal, action.idempotency_key_field) == ("note", "shop.go", "note")


def test_an_action_names_its_model_by_key_or_table() -> None:
    assert only_action(v3_action(target_model="orders", handler={"type": "noop"})).model == "Order"
    assert only_action(v3_action(target_model=None, handler={"type": "noop"})).model == ""


@pytest.mark.parametrize(
    ("action", "path", "code"),
    [
        ({"key": None}, "key", "required"),
        ({"key": "has space"}, "key", "pattern"),
        ({"trigger": {"type": "wasm"}}, "trigger.function", "required"),
        ({"trigger": {"type": "wasm", "export": "other"}}, "trigger.export", "export"),
        ({"trigger": {"type": "wasm", "export": "no no"}}, "trigger.export", "pattern"),
        ({"trigger": {"type": "webhook", "run_in_tx": True}}, "trigger.run_in_tx", "run_in_tx"),
        ({"trigger": {"type": "webhook", "export": "go"}}, "trigger.export", "handler"),
        ({"trigger": {"type": "noop", "run_in_tx": True}}, "trigger.run_in_tx", "run_in_tx"),
        ({"trigger": {"type": "teleport"}}, "trigger.type", "choice"),
        ({"trigger": {}}, "trigger.type", "required"),
        ({"trigger": "teleport"}, "trigger", "choice"),
        ({"trigger": "wasm"}, "export", "required"),
        ({"trigger": "webhook", "run_in_tx": True}, "run_in_tx", "run_in_tx"),
        ({"run_in_tx": True}, "run_in_tx", "run_in_tx"),
        ({"trigger": 5}, "trigger", "type"),
        ({"trigger": {"type": "webhook", "url": "gopher://x"}}, "trigger.url", "url"),
        ({"trigger": {"type": "webhook", "url": "https://u:p@x.example"}}, "trigger.url", "url"),
        (
            {"trigger": {"type": "wasm", "export": "go", "run_in_tx": True}, "placement": "table"},
            "placement",
            "run_in_tx",
        ),
        ({"placement": "corner"}, "placement", "choice"),
        ({"linkUrl": "javascript:alert(1)"}, "linkUrl", "url"),
        ({"fields": [{"label": "x"}]}, "fields[0].key", "required"),
        ({"fields": [{"key": "a"}, {"key": "a"}]}, "fields[1].key", "duplicate"),
        ({"fields": [{"key": "a"}], "steps": [{"title": "x"}]}, "steps", "fields"),
        ({"requiresState": "open"}, "requiresState", "type"),
        ({"idempotency": {}}, "idempotency.key_field", "required"),
    ],
)
def test_what_is_wrong_with_an_action(action: Json, path: str, code: str) -> None:
    assert (f"manifest.actions.tickets[0].{path}", code) in problems(v2_action(**action))


def test_a_wasm_action_needs_a_wasm_backend() -> None:
    for backend in (None, {"runtime": "webhook", "url": "https://a.example"}):
        manifest = v2(
            actions={"tickets": [{"key": "go", "trigger": {"type": "wasm", "export": "go"}}]}, backend=backend
        )
        assert problems(manifest) == [("manifest.actions.tickets[0].trigger.export", "export")]


def test_actions_belong_to_models_of_the_manifest() -> None:
    assert problems(v2(actions={"nowhere": []})) == [("manifest.actions.nowhere", "unknown_model")]
    assert problems(v2(actions={"invoices": []}, extensions=[{"model": "invoices"}])) == []
    nowhere = v3_action(target_model="Nowhere", handler={"type": "noop"})
    assert problems(nowhere) == [("manifest.contributions.actions[0].target_model", "unknown_model")]
    assert problems(v3_action(target_model="people.Person", handler={"type": "noop"})) == []


def test_actions_of_a_model_are_told_apart() -> None:
    assert problems(v2(actions={"tickets": [{"key": "a"}, {"key": "a"}]})) == [
        ("manifest.actions.tickets[1].key", "duplicate")
    ]


def test_backend_and_frontend_have_their_defaults() -> None:
    manifest = read(v3(backend=WASM, frontend={"entry": "remoteEntry.js"}))
    assert manifest.backend is not None and manifest.frontend is not None
    assert (manifest.backend.entry, manifest.backend.exports) == ("backend/backend.wasm", ("go", "on_install"))
    assert (manifest.backend.memory_limit_mb, manifest.backend.timeout_ms) == (64, 10_000)
    assert (manifest.frontend.format, manifest.frontend.container) == ("federation", "metacore_shop")


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"backend": {"runtime": "python"}}, "backend.runtime", "choice"),
        ({"backend": {"runtime": "wasm", "entry": "/etc/passwd"}}, "backend.entry", "path"),
        ({"backend": {"runtime": "wasm", "entry": "a/../../b"}}, "backend.entry", "path"),
        ({"backend": {"runtime": "wasm", "exports": ["a", "a"]}}, "backend.exports", "duplicate"),
        ({"backend": {"runtime": "wasm", "exports": ["a b"]}}, "backend.exports[0]", "pattern"),
        ({"backend": {"memory_limit_mb": 0}}, "backend.memory_limit_mb", "range"),
        ({"backend": {"timeout_ms": "fast"}}, "backend.timeout_ms", "type"),
        ({"backend": {"url": "localhost"}}, "backend.url", "url"),
        ({"frontend": {}}, "frontend.entry", "required"),
        ({"frontend": {"entry": "../x.js"}}, "frontend.entry", "path"),
        ({"frontend": {"entry": "javascript:x"}}, "frontend.entry", "path"),
        ({"frontend": {"entry": "a.js", "format": "iframe"}}, "frontend.format", "choice"),
        ({"frontend": {"entry": "a.js", "layout": "wide"}}, "frontend.layout", "choice"),
        ({"frontend": {"entry": "a.js", "container": "a-b"}}, "frontend.container", "pattern"),
        ({"frontend": {"entry": "a.js", "integrity": "md5-x"}}, "frontend.integrity", "pattern"),
        ({"lifecycle": {"install": "go"}, "backend": {"runtime": "wasm"}}, "lifecycle.install", "export"),
        ({"lifecycle": {"install": 5}}, "lifecycle.install", "type"),
        (
            {"lifecycle": {"upgrade": [{"from": "x.y", "type": "sql", "function": "a"}]}},
            "lifecycle.upgrade[0].from",
            "version_range",
        ),
        (
            {"lifecycle": {"upgrade": [{"from": "*", "type": "perl", "function": "a"}]}},
            "lifecycle.upgrade[0].type",
            "choice",
        ),
        ({"schedules": [{"key": "a", "every": "often", "do": "noop"}]}, "schedules[0].every", "schedule"),
        ({"schedules": [{"key": "a", "every": "0m", "do": "noop"}]}, "schedules[0].every", "schedule"),
        ({"schedules": [{"key": "a", "every": "5m"}]}, "schedules[0].do", "required"),
        ({"schedules": [{"key": "a", "every": "5m", "do": "wasm:nope"}]}, "schedules[0].do", "export"),
        ({"schedules": [{"key": "a", "every": "5m", "do": "noop"}] * 2}, "schedules[1].key", "duplicate"),
        ({"webhooks": [{"key": "a", "path": "no-slash"}]}, "webhooks[0].path", "path"),
        ({"webhooks": [{"key": "a", "path": "/a/../b"}]}, "webhooks[0].path", "path"),
        (
            {"webhooks": [{"key": "a", "path": "/a", "verify": "md5", "secret_ref": "x.y"}]},
            "webhooks[0].verify",
            "choice",
        ),
        ({"webhooks": [{"key": "a", "path": "/a", "verify": "hmac-sha256"}]}, "webhooks[0].secret_ref", "required"),
        ({"webhooks": [{"key": "a", "path": "/a"}, {"key": "b", "path": "/a"}]}, "webhooks[1].path", "duplicate"),
        ({"connectors": [{"label": "x"}]}, "connectors[0].key", "required"),
        (
            {"connectors": [{"key": "a", "credentials": [{"type": "secret"}]}]},
            "connectors[0].credentials[0].key",
            "required",
        ),
        ({"contributions": {"tools": [{"description": "x"}]}}, "contributions.tools[0].id", "required"),
        (
            {"contributions": {"subscriptions": [{"event": "a.b"}]}},
            "contributions.subscriptions[0].handler",
            "required",
        ),
        ({"contributions": {"dashboard": [{"title": "x"}]}}, "contributions.dashboard[0].key", "required"),
    ],
)
def test_what_is_wrong_with_the_running_parts(changes: Json, path: str, code: str) -> None:
    assert (f"manifest.{path}", code) in problems(v3(**changes))


@pytest.mark.parametrize("every", ["30s", "5m", "1h30m", "7d", "*/5 * * * *", "0 6 * * MON-FRI", "@daily"])
def test_schedules_are_durations_or_cron(every: str) -> None:
    assert read(v3(schedules=[{"key": "a", "every": every, "do": "webhook:/x"}])).schedules[0].every == every


def test_lifecycle_handlers_have_one_shape() -> None:
    manifest = read(
        v3(
            backend=WASM,
            lifecycle={
                "install": "on_install",
                "enable": "/hooks/enable",
                "disable": {"type": "webhook", "url": "https://a.example/x"},
                "upgrade": [{"from": "<2.0.0", "type": "wasm", "function": "go"}],
            },
        )
    )
    assert manifest.lifecycle["install"] == [{"type": "wasm", "function": "on_install", "url": ""}]
    assert manifest.lifecycle["enable"] == [{"type": "webhook", "function": "", "url": "/hooks/enable"}]
    assert manifest.lifecycle["disable"][0]["url"] == "https://a.example/x"
    assert manifest.lifecycle["upgrade"] == [{"from": "<2.0.0", "type": "wasm", "function": "go"}]
    assert read(v3(lifecycle={"install": "Install"})).lifecycle["install"][0]["type"] == "compiled"


@pytest.mark.parametrize(
    ("hook", "path", "code"),
    [
        (
            {"after_create": [{"target": {"type": "wasm", "function": "nope"}}]},
            "after_create[0].target.function",
            "export",
        ),
        ({"after_create": [{"target": {"type": "webhook"}}]}, "after_create[0].target.url", "required"),
        ({"after_create": [{"event": "install", "target": {"type": "prompt"}}]}, "after_create[0].event", "event"),
        ({"before_create": [{"target": {"type": "prompt"}, "async": True}]}, "before_create[0].async", "async"),
        ({"tickets": [{"event": "sometimes", "target": {"type": "prompt"}}]}, "tickets[0].event", "choice"),
        ({"install": [5]}, "install[0]", "type"),
    ],
)
def test_what_is_wrong_with_lifecycle_hooks(hook: Json, path: str, code: str) -> None:
    assert (f"manifest.lifecycle_hooks.{path}", code) in problems(v2(backend=WASM, lifecycle_hooks=hook))


@pytest.mark.parametrize(
    ("tool", "path", "code"),
    [
        ({"id": None}, "id", "required"),
        ({"method": "FETCH"}, "method", "choice"),
        ({"endpoint": "ftp://x"}, "endpoint", "url"),
        ({"timeout": -1}, "timeout", "range"),
        ({"input_schema": "x"}, "input_schema", "type"),
        ({"trigger_keywords": [5]}, "trigger_keywords[0]", "type"),
    ],
)
def test_what_is_wrong_with_a_tool(tool: Json, path: str, code: str) -> None:
    assert (f"manifest.tools[0].{path}", code) in problems(v2(tools=[{"id": "make", **tool}]))


def test_settings_of_both_versions() -> None:
    (first, second) = read(
        v3(
            settings=[
                {"key": "api_key", "type": "secret", "required": True, "description": "d", "validation": "^k"},
                {"key": "days", "type": "integer", "default": 3},
            ]
        )
    ).settings
    assert (first.secret, first.required, first.description, first.validation) == (True, True, "d", "^k")
    assert (second.secret, second.default_value) == (False, 3)


@pytest.mark.parametrize(
    ("setting", "path", "code"),
    [
        ({"key": None}, "key", "required"),
        ({"type": "integer", "default_value": "3"}, "default_value", "type"),
        ({"type": "integer", "default_value": True}, "default_value", "type"),
        ({"type": "integer", "default": 2.5}, "default", "type"),
        ({"type": "boolean", "default_value": 1}, "default_value", "type"),
        ({"type": "select"}, "options", "required"),
        ({"type": "select", "options": ["a"], "default_value": "b"}, "default_value", "choice"),
        ({"type": "secret", "default_value": "hunter2"}, "default_value", "secret"),
        ({"secret": "yes"}, "secret", "type"),
    ],
)
def test_what_is_wrong_with_a_setting(setting: Json, path: str, code: str) -> None:
    assert (f"manifest.settings[0].{path}", code) in problems(v2(settings=[{"key": "a", **setting}]))


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("integer", 3, ""),
        ("int", 3.0, ""),
        ("integer", 1.5, "'level' must be a whole number"),
        ("integer", True, "'level' must be a number"),
        ("number", 1.5, ""),
        ("multi_select", ["a", "b"], ""),
        ("multi_select", [], ""),
        ("multi_select", "a", ""),
        ("multi_select", ["a", "c"], "'level' must be an array of a, b"),
        ("multi_select", {"a": 1}, "'level' must be an array of a, b"),
        ("select", ["a"], "'level' must be one of a, b"),
        ("select", "b", ""),
    ],
)
def test_values_that_a_setting_takes(kind: str, value: Any, problem: str) -> None:
    options = (Option(value="a", label="A"), Option(value="b", label="B")) if "select" in kind else ()
    found = problem_of(Setting(key="level", type=kind, options=options), "level", value)
    assert (found.message if found is not None else "") == problem


def test_an_action_that_would_run_nothing_is_a_warning() -> None:
    at = "manifest.actions.tickets[0]"
    assert (f"{at}.key", "no_handler") in warnings(v2(actions={"tickets": [{"key": "go"}]}))
    assert (f"{at}.trigger", "no_url") in warnings(v2(actions={"tickets": [{"key": "go", "trigger": "webhook"}]}))
    at = "manifest.contributions.actions[0]"
    webhook = {"key": "go", "target_model": "Order", "handler": {"type": "webhook", "url": "/go"}}
    assert (f"{at}.handler", "no_url") in warnings(v3(contributions={"actions": [webhook]}))
    somewhere = [
        v2(actions={"tickets": [{"key": "go"}]}, hooks={"tickets::go": "/go"}),
        v2(actions={"tickets": [{"key": "go"}]}, backend={"url": "https://a.example"}),
        v2(actions={"tickets": [{"key": "go", "linkUrl": "/there"}]}),
        v3(backend={"url": "https://a.example"}, contributions={"actions": [webhook]}),
        v3(contributions={"actions": [{**webhook, "handler": {"type": "webhook", "url": "https://a.example/go"}}]}),
        v3(contributions={"actions": [{**webhook, "handler": {"type": "noop"}}]}),
    ]
    for manifest in somewhere:
        assert not {"no_url", "no_handler"} & {code for _, code in warnings(manifest)}, manifest


def test_a_module_that_asks_for_more_than_there_is_is_a_warning() -> None:
    asked = {"runtime": "wasm", "memory_limit_mb": 513, "timeout_ms": 60_001}
    told = {("manifest.backend.memory_limit_mb", "ceiling"), ("manifest.backend.timeout_ms", "ceiling")}
    assert told <= set(warnings(v3(backend=asked)))
    assert not told & set(warnings(v3(backend={**asked, "memory_limit_mb": 512, "timeout_ms": 60_000})))
    assert not told & set(warnings(v3(backend={**asked, "runtime": "webhook"})))


def test_what_a_connector_says_beyond_the_contract_is_a_warning() -> None:
    assert ("manifest.connectors[0].bogus", "unknown_key") in warnings(v3(connectors=[{"key": "bank", "bogus": 1}]))


def test_settings_are_told_apart() -> None:
    assert problems(v2(settings=[{"key": "a"}, {"key": "a"}])) == [("manifest.settings[1].key", "duplicate")]


def navigation(**item: Any) -> Json:
    return v3(contributions={"navigation": [{"title": "g", "items": [{"title": "t", **item}]}]})


@pytest.mark.parametrize(
    ("item", "path", "code"),
    [
        ({"title": None}, "title", "required"),
        ({"url": "javascript:alert(1)"}, "url", "url"),
        ({"url": " JavaScript:alert(1)"}, "url", "url"),
        ({"model": "a b"}, "model", "pattern"),
        ({"view_type": "kanban", "model": "Order"}, "group_by", "required"),
        ({"view_type": "kanban", "model": "Order", "group_by": "nope"}, "group_by", "unknown_column"),
        ({"view_type": "carousel"}, "view_type", "choice"),
        (
            {"items": [{"title": "a", "items": [{"title": "b", "items": [{"title": "c", "items": []}]}]}]},
            "items[0].items[0].items[0].items",
            "too_deep",
        ),
    ],
)
def test_what_is_wrong_with_navigation(item: Json, path: str, code: str) -> None:
    assert (f"manifest.contributions.navigation[0].items[0].{path}", code) in problems(navigation(**item))


def test_navigation_to_a_model_that_is_not_here_is_a_warning() -> None:
    path = "manifest.contributions.navigation[0].items[0].model"
    assert (path, "unknown_model") in warnings(navigation(model="Elsewhere"))
    assert (path, "unknown_model") not in warnings(navigation(model="people.Person"))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("db:read", "users"),
        ("db:read", "addon_people.persons"),
        ("db:write", "addon_shop.*"),
        ("event:emit", "order.paid"),
        ("event:emit", "*"),
        ("event:subscribe", "people.*"),
        ("event:subscribe", "*"),
        ("connector:read", "github"),
        ("connector:read", "git.*"),
        ("http:fetch", "api.example.com"),
        ("http:fetch", "api.example.com:8443"),
        ("http:fetch", "example.com"),
        ("http:fetch", "*.example.com"),
        ("http:fetch", "*.example.co.uk"),
        ("http:fetch", "*.api.example.com:443"),
        ("http:fetch", "API.Example.com"),
        ("http:fetch", "xn--bcher-kva.example"),
    ],
)
def test_capabilities_that_can_be_granted(kind: str, target: str) -> None:
    assert target_problem(kind, target) == ""
    assert problems(v2(capabilities=[{"kind": kind, "target": target}])) == []


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("db:read", "*"),
        ("db:write", "*.*"),
        ("db:read", "users; drop"),
        ("db:read", "users*"),
        ("event:emit", "a b"),
        ("event:emit", "a.*.b"),
        ("connector:read", "*"),
        ("http:fetch", "*"),
        ("http:fetch", "*.*"),
        ("http:fetch", "*.com"),
        ("http:fetch", "example"),
        ("http:fetch", "*.co.uk"),
        ("http:fetch", "*.com.mx"),
        ("http:fetch", "*.*.example.com"),
        ("http:fetch", "a.*.example.com"),
        ("http:fetch", "api*.example.com"),
        ("http:fetch", "https://api.example.com"),
        ("http:fetch", "api.example.com/path"),
        ("http:fetch", "user@example.com"),
        ("http:fetch", "example.com:0"),
        ("http:fetch", "example.com:99999"),
        ("http:fetch", "example.com:"),
        ("http:fetch", "127.0.0.1"),
        ("http:fetch", "169.254.169.254"),
        ("http:fetch", "[::1]"),
        ("http:fetch", "localhost"),
        ("http:fetch", ".example.com"),
        ("http:fetch", "example.com."),
        ("http:fetch", "exa mple.com"),
        ("http:fetch", "-a.example.com"),
        ("http:fetch", "a" * 64 + ".com"),
    ],
)
def test_capabilities_that_nobody_gets(kind: str, target: str) -> None:
    assert target_problem(kind, target) != ""
    assert problems(v2(capabilities=[{"kind": kind, "target": target}])) == [
        ("manifest.capabilities[0].target", "target")
    ]


@pytest.mark.parametrize("kind", ["db:drop", "fs:read", "", "HTTP:FETCH", 5])
def test_the_kinds_of_capabilities_are_closed(kind: Any) -> None:
    found = problems(v3(capabilities=[{"kind": kind, "target": "users"}]))
    assert [field for field, _ in found] == ["manifest.capabilities[0].kind"]
    assert len(KINDS) == 6
