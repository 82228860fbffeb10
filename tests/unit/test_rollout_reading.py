"""What ConfigMap, Deployment, pods and annotation mean."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from metacore.capabilities.access import Mode
from metacore_operator.rollout.record import Record, Refusal, read_record, write_record
from metacore_operator.rollout.sight import read_sight
from metacore_operator.rollout.wish import LONGEST_TEXT, read_wish
from metacore_operator.rollout.words import ALARMING, Phase, RolloutReason

NOW = datetime.datetime(2026, 3, 1, 9, 0, tzinfo=datetime.UTC)
PAGE = Path(__file__).parents[2] / "docs" / "mode-rollout.md"
CODE = "".join(
    path.read_text("utf-8")
    for path in (Path(__file__).parents[2] / "operator" / "metacore_operator" / "rollout").glob("*.py")
    if path.name != "words.py"
)


def config_map(text: str | None, **annotations: str) -> dict[str, Any]:
    data = {} if text is None else {"data": {"METACORE_ENFORCE": text}}
    return {"metadata": {"name": "shop-config", "annotations": annotations}, **data}


@pytest.mark.parametrize("text", ["1", "true", "YES", " enforce\n"])
def test_words_that_enforce(text: str) -> None:
    assert read_wish(config_map(text), "shop-config").mode is Mode.ENFORCE


@pytest.mark.parametrize("text", [None, "", "0", "False", "no", "shadow"])
def test_words_that_do_not(text: str | None) -> None:
    assert read_wish(config_map(text), "shop-config").mode is Mode.SHADOW


@pytest.mark.parametrize("text", ["2", "on", "enforced", "1 # later"])
def test_other_words_are_no_wish_and_are_named(text: str) -> None:
    wish = read_wish(config_map(text), "shop-config")
    assert (wish.mode, wish.reason) == (None, RolloutReason.WISH_UNKNOWN)
    assert f"METACORE_ENFORCE in the ConfigMap shop-config is {text!r}" in wish.problem


def test_a_huge_entry_is_cut() -> None:
    wish = read_wish(config_map("x" * 1_000_000), "shop-config")
    assert len(wish.text) == LONGEST_TEXT
    assert len(wish.problem) < 300


def test_no_config_map_is_said() -> None:
    wish = read_wish(None, "shop-config")
    assert (wish.mode, wish.absent) == (None, True)
    assert "no ConfigMap shop-config" in wish.problem


def test_a_record_survives_the_annotation() -> None:
    refusal = Refusal(reason=RolloutReason.PODS_FAILING, message="m")
    record = Record(
        phase=Phase.CANARY, stamp="enforce", former="", since=NOW, watched=NOW, wish="1", asked="a", refusal=refusal
    )
    assert read_record(write_record(record)) == record
    assert len(write_record(record)) < 1_024


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase":"Settled"}', '{"phase":"Refused","stamp":"","former":""}'])
def test_a_record_that_cannot_be_understood_is_none(text: str) -> None:
    assert read_record(text) is None


def deployment(stamp: str | None = None, status: Mapping[str, Any] = {}) -> dict[str, Any]:
    annotations = {} if stamp is None else {"annotations": {"metacore.dev/mode": stamp}}
    return {
        "metadata": {"generation": 4},
        "spec": {"replicas": 2, "template": {"metadata": annotations}},
        "status": {"observedGeneration": 4, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, **status},
    }


def a_pod(
    name: str, stamp: str | None = None, *, ready: bool = True, age: float = 100.0, container: Any = None
) -> dict[str, Any]:
    made = (NOW - datetime.timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    annotations = {} if stamp is None else {"annotations": {"metacore.dev/mode": stamp}}
    status = {"conditions": [{"type": "Ready", "status": str(ready)}], "containerStatuses": [container or {}]}
    return {"metadata": {"name": name, "creationTimestamp": made, **annotations}, "status": status}


def test_the_deployment_as_the_server_shows_it() -> None:
    sight = read_sight(deployment(), [a_pod("a"), a_pod("b")], {"a": "shadow", "b": "shadow"}, NOW)
    assert sight.complete(Mode.SHADOW)
    assert not sight.complete(Mode.ENFORCE)
    assert (sight.deadline, sight.words) == (600.0, "2 shadow")


def test_a_deployment_whose_controller_has_said_nothing_yet() -> None:
    fresh = deployment()
    del fresh["status"]
    sight = read_sight(fresh, [], {}, NOW)
    assert (sight.seen, sight.rolled, sight.available, sight.words) == (False, False, 0, "none")


@pytest.mark.parametrize(
    "status",
    [{"observedGeneration": 3}, {"replicas": 3}, {"updatedReplicas": 1}, {"availableReplicas": 1}],
)
def test_what_is_not_rolled_out(status: dict[str, int]) -> None:
    assert not read_sight(deployment(status=status), [], {}, NOW).rolled


def test_a_deadline_that_has_passed_is_dated() -> None:
    condition = {"type": "Progressing", "status": "False", "lastUpdateTime": "2026-03-01T08:59:00Z"}
    exceeded = deployment(status={"conditions": [{**condition, "reason": "ProgressDeadlineExceeded"}]})
    assert read_sight(exceeded, [], {}, NOW).exceeded_at == NOW - datetime.timedelta(minutes=1)
    fine = deployment(status={"conditions": [{**condition, "reason": "NewReplicaSetAvailable"}]})
    assert read_sight(fine, [], {}, NOW).exceeded_at is None


def test_heartbeats_say_the_mode_and_nobody_knows_without_them() -> None:
    pods = [a_pod("a", "enforce"), a_pod("b", "enforce"), a_pod("c", "1", ready=False)]
    sight = read_sight(deployment("enforce"), pods, {"a": "enforce", "b": "shadow", "other": "enforce"}, NOW)
    assert [pod.observed for pod in sight.pods] == [Mode.ENFORCE, Mode.SHADOW, None]
    assert [pod.mode for pod in sight.pods] == [Mode.ENFORCE] * 3
    assert sight.words == "1 enforce, 1 shadow, 1 starting"
    assert read_sight(deployment(), pods, None, NOW).heard is False


@pytest.mark.parametrize(
    ("container", "age", "problem"),
    [
        ({"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}, 30, "ErrImagePull: not found"),
        ({"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}, 29, ""),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, 3_600, ""),
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1}, 60, ""),
        (
            {
                "name": "kernel",
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "restartCount": 2,
                "lastState": {"terminated": {"exitCode": 3}},
            },
            60,
            "kernel ended 2 times, at last with exit code 3",
        ),
        (
            {
                "name": "kernel",
                "restartCount": 4,
                "lastState": {"terminated": {"exitCode": 2, "message": "starting\nerror: X is no number\n"}},
            },
            60,
            "kernel ended 4 times, at last with exit code 2: error: X is no number",
        ),
        ({"name": "kernel", "state": {"running": {}}, "restartCount": 3}, 60, "kernel ended 3 times"),
        ({"name": "kernel", "state": {"running": {}}, "restartCount": 2}, 60, ""),
    ],
)
def test_what_counts_as_failing(container: dict[str, Any], age: float, problem: str) -> None:
    (pod,) = read_sight(deployment(), [a_pod("a", ready=False, age=age, container=container)], {}, NOW).pods
    assert pod.problem == problem


@pytest.mark.parametrize("word", [*Phase, *RolloutReason])
def test_the_word_is_documented_and_used(word: Phase | RolloutReason) -> None:
    assert re.search(rf"^\| `{word.value}` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert f"{type(word).__name__}.{word.name}" in CODE


def test_alarming_reasons_are_reasons() -> None:
    assert set(RolloutReason) >= ALARMING
