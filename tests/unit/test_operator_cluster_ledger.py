"""What is a new wish of an Addon, and what is only an echo of the operator's own writing."""

from __future__ import annotations

from typing import Any

from metacore_operator.cluster.ledger import Ledger, read_record
from metacore_operator.resources.addon import PAUSE, REQUESTED_AT
from metacore_operator.resources.status import AddonStatus, Phase

FINALIZER = "metacore.dev/addon"
SPEC: dict[str, Any] = {"source": {"configMap": {"name": "a", "key": "b"}}, "organizations": {"all": True}}


def document(
    spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **metadata: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "metacore.dev/v1alpha1",
        "kind": "Addon",
        "metadata": {
            "name": "tickets",
            "namespace": "team",
            "uid": "u1",
            "generation": 1,
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
            "finalizers": [FINALIZER],
            **metadata,
        },
        "spec": SPEC if spec is None else spec,
        **({"status": status} if status is not None else {}),
    }


def test_an_object_that_was_never_seen_is_wanted_and_its_echo_is_not() -> None:
    ledger = Ledger(FINALIZER)
    assert ledger.see(document()) == ("team/tickets", True)
    assert ledger.see(document(resourceVersion="8", annotations={"somebody": "else"})) == ("team/tickets", False)


def test_a_generation_a_request_a_pause_and_the_finalizer_are_wishes() -> None:
    ledger = Ledger(FINALIZER)
    ledger.see(document(finalizers=[]))
    record = ledger.get("team/tickets")
    assert record is not None and not record.held
    for changed in (
        document(),
        document(generation=2),
        document(generation=2, annotations={REQUESTED_AT: "now"}),
        document(generation=2, annotations={REQUESTED_AT: "now", PAUSE: "true"}),
        document(generation=2, deletionTimestamp="2026-01-01T00:00:00Z"),
        document(uid="u2"),
    ):
        assert ledger.see(changed)[1]
        assert not ledger.see(changed)[1]


def test_the_status_that_was_written_last_wins_over_one_that_is_seen() -> None:
    ledger = Ledger(FINALIZER)
    ledger.see(document(status={"phase": "Waiting"}))
    ledger.set_status("team/tickets", "u1", AddonStatus(phase=Phase.READY))
    ledger.see(document(status={"phase": "Progressing"}))
    record = ledger.get("team/tickets")
    assert record is not None and record.addon.status.phase is Phase.READY


def test_another_object_of_the_same_name_begins_anew() -> None:
    ledger = Ledger(FINALIZER)
    ledger.see(document())
    ledger.set_status("team/tickets", "u1", AddonStatus(phase=Phase.READY))
    ledger.see(document(uid="u2"))
    ledger.set_status("team/tickets", "u1", AddonStatus(phase=Phase.STALLED))
    record = ledger.get("team/tickets")
    assert record is not None and record.addon.status.phase is Phase.PENDING
    assert not ledger.forget("team/tickets", "u1")
    assert ledger.forget("team/tickets", "u2")


def test_a_spec_that_cannot_be_understood_keeps_the_one_before_and_says_why() -> None:
    ledger = Ledger(FINALIZER)
    ledger.see(document())
    ledger.see(document({**SPEC, "version": "a few"}, generation=2))
    record = ledger.get("team/tickets")
    assert record is not None
    assert "spec.version" in record.problem
    assert record.addon.metadata.generation == 2
    assert record.addon.spec.source.config_map is not None
    ledger.see(document(generation=3))
    record = ledger.get("team/tickets")
    assert record is not None and record.problem == ""


def test_an_addon_that_was_never_understood_can_still_be_removed_with_its_key_and_policy() -> None:
    record = read_record(document({"key": "my_key", "deletionPolicy": "Drop", "version": "a few"}), FINALIZER)
    assert record.problem
    assert (record.addon.key, record.addon.spec.deletion_policy) == ("my_key", "Drop")
    assert read_record(document({"sauce": 1}), FINALIZER).addon.spec.deletion_policy == "Retain"


def test_a_status_of_another_version_is_forgotten_and_not_the_addon() -> None:
    record = read_record(document(status={"mood": "fine"}), FINALIZER)
    assert (record.problem, record.addon.status) == ("", AddonStatus())


def test_a_status_survives_the_way_over_the_api_server() -> None:
    status = AddonStatus(observed_generation=1, phase=Phase.READY, key="tickets", version="1.0.0")
    shown = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert read_record(document(status=shown), FINALIZER).addon.status == status
