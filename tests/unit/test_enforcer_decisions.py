"""The decision over modes, and who hears of what was not granted."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore import logs
from metacore.capabilities.access import Access, CapabilityKind, Decision, Gate, Mode
from metacore.capabilities.enforcer import Enforcer, Violation
from metacore.capabilities.recorder import BURST_LINES, VIOLATION_EVENT, ViolationRecorder
from metacore.capabilities.tally import OTHERS, Tally, key_of
from metacore.errors import PermissionDenied
from metacore.manifest.model import Capability, Manifest
from metacore.metrics import Metrics
from metacore.registry import LiveAddon, Registry

ACME = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
NOON = 1_800_000_000.0


class Heard:
    """A recorder that keeps what it hears."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def record(self, violation: Violation) -> None:
        self.violations.append(violation)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def addon(key: str = "shop", *, mode: str = "inherit", fenced: str = "", grants: Any = ()) -> LiveAddon:
    return LiveAddon(
        key=key,
        version="1.0.0",
        digest="0" * 64,
        manifest=Manifest(api="v3", key=key, name=key, version="1.0.0"),
        mode=mode,
        grants=tuple(Capability(kind=kind, target=target) for kind, target in grants),
        fenced_reason=fenced,
    )


def registry_of(*addons: LiveAddon) -> Registry:
    registry = Registry()
    registry.replace(1, {item.key: item for item in addons}, {})
    return registry


def asked(kind: str = "db:read", target: str = "addon_crm.contacts", key: str = "shop") -> Access:
    return Access(key, kind, target, ACME, caller="tester")


GRANT = (("db:read", "addon_crm.contacts"),)


@pytest.mark.parametrize("enforce", [False, True])
@pytest.mark.parametrize("own", ["inherit", "enforce"])
@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("fenced", [False, True])
def test_the_decision_over_modes(enforce: bool, own: str, granted: bool, fenced: bool) -> None:
    heard = Heard()
    held = addon(mode=own, grants=GRANT if granted else (), fenced="untrusted" if fenced else "")
    enforcer = Enforcer(registry_of(held), heard, mode=Mode.ENFORCE if enforce else Mode.SHADOW)
    effective = Mode.ENFORCE if enforce or own == "enforce" else Mode.SHADOW
    assert enforcer.mode_of("shop") is effective
    has_it = granted and not fenced
    refuses = Mode.ENFORCE if fenced or effective is Mode.ENFORCE else Mode.SHADOW
    decision = enforcer.decide(asked())
    if has_it:
        assert decision == Decision(allowed=True, granted=True, mode=effective)
        assert heard.violations == []
    else:
        assert decision == Decision(allowed=refuses is Mode.SHADOW, granted=False, mode=refuses)
        assert [(item.access, item.mode, item.forbidden) for item in heard.violations] == [(asked(), refuses, False)]


def test_the_enforcer_is_the_gate_that_rooms_ask() -> None:
    gate: Gate = Enforcer(registry_of(), Heard())
    assert gate.mode_of("nobody") is Mode.SHADOW


@pytest.mark.parametrize("access", [asked(key="nobody"), asked(kind="db:drop"), asked(kind="", target="")])
def test_an_unknown_addon_or_kind_is_a_violation(access: Access) -> None:
    heard = Heard()
    enforcer = Enforcer(registry_of(addon(grants=GRANT)), heard)
    assert enforcer.decide(access) == Decision(allowed=True, granted=False, mode=Mode.SHADOW)
    enforcer.mode = Mode.ENFORCE
    assert not enforcer.decide(access).allowed
    assert len(heard.violations) == 2


def test_the_kernel_is_trusted_and_its_own_schema_is_no_addons() -> None:
    heard = Heard()
    enforcer = Enforcer(registry_of(addon()), heard, mode=Mode.ENFORCE)
    assert enforcer.decide(asked(key="kernel")).allowed
    assert enforcer.decide(asked(target="addon_shop.orders")).granted
    assert heard.violations == []


def test_require_names_what_was_not_granted_and_passes_what_was() -> None:
    enforcer = Enforcer(registry_of(addon(grants=GRANT)), Heard(), mode=Mode.ENFORCE)
    assert enforcer.require(asked()).granted
    with pytest.raises(PermissionDenied, match=r"was not granted db:write 'addon_crm\.contacts'") as refused:
        enforcer.require(asked(kind=CapabilityKind.DB_WRITE, target="addon_crm_aaaaaaaa.contacts"))
    assert refused.value.code == "forbidden"


def test_require_lets_pass_in_shadow() -> None:
    assert Enforcer(registry_of(addon()), Heard()).require(asked()) == Decision(True, False, Mode.SHADOW)


def test_the_mode_changes_between_two_decisions_and_asking_alone_records_nothing() -> None:
    heard = Heard()
    enforcer = Enforcer(registry_of(addon()), heard)
    assert not enforcer.covers(asked()) and heard.violations == []
    assert enforcer.decide(asked()).allowed
    enforcer.mode = Mode.ENFORCE
    assert not enforcer.decide(asked()).allowed
    enforcer.mode = Mode.SHADOW
    assert enforcer.decide(asked()).allowed


def test_grants_follow_the_registry() -> None:
    registry = registry_of(addon())
    enforcer = Enforcer(registry, Heard(), mode=Mode.ENFORCE)
    assert not enforcer.decide(asked()).allowed
    registry.replace(2, {"shop": addon(grants=GRANT)}, {})
    assert enforcer.decide(asked()).allowed
    registry.replace(3, {"shop": addon(grants=GRANT, fenced="untrusted")}, {})
    assert not enforcer.decide(asked()).allowed
    registry.replace(4, {}, {})
    assert not enforcer.decide(asked()).allowed


def test_what_a_caller_refused_by_itself_is_recorded_as_forbidden() -> None:
    heard = Heard()
    enforcer = Enforcer(registry_of(addon()), heard)
    enforcer.record_refused(asked("http:fetch", "Metadata.Internal:443"), "a metadata address")
    (violation,) = heard.violations
    assert violation.forbidden and violation.reason == "a metadata address"
    assert violation.access.target == "metadata.internal"


class Lines:
    """What was logged while the test ran."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root, told = logging.getLogger(), Lines()
    level = root.level
    logs.configure("json", "info", told.stream)
    yield told
    root.handlers = [handler for handler in root.handlers if handler.get_name() != "metacore"]
    root.setLevel(level)


def test_every_violation_is_counted_and_hooked_and_logged_with_the_fields_of_the_contract(lines: Lines) -> None:
    metrics, heard = Metrics(process=False), Heard()
    recorder = ViolationRecorder(metrics)
    end = recorder.on_violation(heard.record)
    enforcer = Enforcer(registry_of(addon()), recorder, now=Clock())
    enforcer.decide(asked())
    (line,) = lines.told()
    assert {name: line[name] for name in line if name not in {"timestamp", "logger"}} == {
        "level": "warn",
        "event": VIOLATION_EVENT,
        "category": "enforcer",
        "mode": "shadow",
        "addon": "shop",
        "kind": "db:read",
        "target": "addon_crm.contacts",
        "organization": str(ACME),
        "caller": "tester",
    }
    assert VIOLATION_EVENT == "metacore.capability.violation"
    assert b'violations_total{addon="shop",kind="db:read",mode="shadow"} 1.0' in metrics.render()
    assert [item.access for item in heard.violations] == [asked()]
    end()
    enforcer.decide(asked())
    assert len(heard.violations) == 1


def test_repeats_are_counted_and_told_once_a_minute(lines: Lines) -> None:
    metrics, clock = Metrics(process=False), Clock()
    enforcer = Enforcer(registry_of(addon()), ViolationRecorder(metrics), now=clock)
    for _ in range(500):
        enforcer.decide(asked())
    assert len(lines.told()) == 1
    clock.now += 61
    enforcer.decide(asked())
    assert [line.get("repeated") for line in lines.told()] == [None, 499]
    assert b'violations_total{addon="shop",kind="db:read",mode="shadow"} 501.0' in metrics.render()


def test_invented_targets_fill_neither_the_log_nor_the_memory(lines: Lines) -> None:
    metrics, clock = Metrics(process=False), Clock()
    recorder = ViolationRecorder(metrics, Tally(keys_per_addon=50))
    enforcer = Enforcer(registry_of(addon()), recorder, now=clock)
    for number in range(5_000):
        enforcer.decide(asked(target=f"addon_crm.t{number}"))
    assert len(lines.told()) == BURST_LINES
    counts = recorder.tally.drain()
    assert len(counts) == 51
    assert sum(count.count for count in counts) == 5_000
    assert next(count.count for count in counts if count.key.target == OTHERS) == 4_950
    clock.now += 10
    enforcer.decide(asked(target="addon_crm.later"))
    assert lines.told()[-1]["unsaid"] == 4_900


def test_a_hook_that_fails_stops_neither_the_others_nor_the_operation(lines: Lines) -> None:
    heard = Heard()
    recorder = ViolationRecorder()

    def broken(_violation: Violation) -> None:
        raise RuntimeError("broken")

    recorder.on_violation(broken)
    recorder.on_violation(heard.record)
    assert Enforcer(registry_of(addon()), recorder).decide(asked()).allowed
    assert len(heard.violations) == 1
    assert "enforcer.hook_failed" in {line["event"] for line in lines.told()}


def test_an_unknown_kind_makes_no_label_of_its_own_and_no_control_character_survives(lines: Lines) -> None:
    metrics = Metrics(process=False)
    recorder = ViolationRecorder(metrics)
    enforcer = Enforcer(registry_of(addon()), recorder)
    enforcer.decide(Access("shop", "x" * 500, "a\x00b\nc\ud800" + "y" * 500, ACME, caller="z" * 500))
    assert b'kind="unknown"' in metrics.render()
    (count,) = recorder.tally.drain()
    assert count.key.target.startswith("a�b�c�y") and len(count.key.target) == 255
    assert (len(count.key.kind), len(count.key.caller)) == (32, 128)


def test_what_could_not_be_written_is_taken_back_and_what_has_no_room_is_told() -> None:
    recorder = ViolationRecorder(tally=Tally(keys_per_addon=10, most_keys=2))
    enforcer = Enforcer(registry_of(addon()), recorder, now=Clock())
    for target in ("addon_crm.a", "addon_crm.b", "addon_crm.a"):
        enforcer.decide(asked(target=target))
    taken = recorder.tally.drain()
    assert {count.key.target: count.count for count in taken} == {"addon_crm.a": 2, "addon_crm.b": 1}
    enforcer.decide(asked(target="addon_crm.a"))
    assert recorder.tally.restore(taken) == 0
    assert {count.key.target: count.count for count in recorder.tally.drain()} == {"addon_crm.a": 3, "addon_crm.b": 1}
    metrics = Metrics(process=False)
    full = ViolationRecorder(metrics, Tally(keys_per_addon=10, most_keys=1))
    enforcer = Enforcer(registry_of(addon()), full, now=Clock())
    for target in ("addon_crm.a", "addon_crm.b", "addon_crm.c"):
        enforcer.decide(asked(target=target))
    assert b"metacore_capability_violations_dropped_total 2.0" in metrics.render()


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 2), st.sampled_from(["add", "drain", "fail"])),
    max_size=60,
)


@given(STEPS, st.integers(1, 4), st.integers(1, 8))
def test_nothing_is_lost_that_is_not_told_and_the_memory_has_its_bound(
    steps: list[tuple[int, int, int, str]], keys_per_addon: int, most_keys: int
) -> None:
    tally = Tally(keys_per_addon=keys_per_addon, most_keys=most_keys)
    recorded = written = dropped = 0
    for name, target, hour, what in steps:
        access = Access(f"addon{name}", "db:read", f"addon_crm.t{target}", ACME)
        at = NOON + hour * 3_600
        recorded += 1
        dropped += not tally.add(key_of(Violation(access, Mode.SHADOW, at)), at)
        if what == "drain":
            written += sum(count.count for count in tally.drain())
        elif what == "fail":
            dropped += tally.restore(tally.drain())
    rest = tally.drain()
    assert len(rest) <= most_keys
    assert recorded == written + dropped + sum(count.count for count in rest)
    assert tally.drain() == []


def test_the_next_hour_has_room_again() -> None:
    clock = Clock()
    recorder = ViolationRecorder(tally=Tally(keys_per_addon=1))
    enforcer = Enforcer(registry_of(addon()), recorder, now=clock)
    enforcer.decide(asked(target="addon_crm.a"))
    enforcer.decide(asked(target="addon_crm.b"))
    assert {count.key.target for count in recorder.tally.drain()} == {"addon_crm.a", OTHERS}
    clock.now += 3_600
    enforcer.decide(asked(target="addon_crm.b"))
    assert {count.key.target for count in recorder.tally.drain()} == {"addon_crm.b"}
