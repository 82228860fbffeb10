"""kopf as production needs it: what it may take, how long it may wait, and how little it writes."""

from __future__ import annotations

import logging
from typing import Any

import kopf
import pytest

from metacore_operator import leader
from metacore_operator.addon import LONGEST_TOLD, register
from metacore_operator.config import FINALIZER, GenerationStorage, configure, quieten
from metacore_operator.outcomes import Done, Outcome, Reason, Waiting
from metacore_operator.settings import OperatorSettings


def configured(**given: Any) -> kopf.OperatorSettings:
    return configure(kopf.OperatorSettings(), OperatorSettings(**given))


def test_every_wait_has_an_end() -> None:
    settings = configured()
    watching, networking = settings.watching, settings.networking
    assert watching.server_timeout is not None
    assert watching.client_timeout is not None
    # The server ends a watch in order before the client gives it up.
    assert 0 < watching.server_timeout < watching.client_timeout
    assert watching.connect_timeout
    assert networking.request_timeout
    assert networking.connect_timeout
    # A write that is refused for ever must not hold its worker for ever; no single wait is long.
    assert isinstance(networking.error_backoffs, tuple)
    assert 0 < max(networking.error_backoffs) <= 30
    assert settings.process.ultimate_exiting_timeout


def test_workers_are_bounded_and_follow_the_setting() -> None:
    assert configured(workers=3).queueing.worker_limit == 6


def test_it_neither_scans_the_cluster_nor_posts_its_own_events() -> None:
    settings = configured()
    assert settings.scanning.disabled
    assert not settings.posting.enabled


def test_another_takes_over_in_less_than_twenty_seconds() -> None:
    """A Lease that nobody renews ends after its time, and whoever waits tries again every two seconds."""
    assert leader.LEASE_SECONDS + 2 * leader.TRY_SECONDS < 20
    assert leader.RENEW_SECONDS + leader.TRY_SECONDS < leader.LEASE_SECONDS


def body(**spec: Any) -> kopf.Body:
    raw: Any = {"metadata": {"name": "tickets", "generation": 7}, "spec": spec}
    return kopf.Body(raw)


def test_of_an_object_only_its_generation_is_remembered_however_large_it_is() -> None:
    storage = configured().persistence.diffbase_storage
    assert isinstance(storage, GenerationStorage)
    essence = storage.build(body=body(settings={"text": "x" * 1_000_000}))
    patch = kopf.Patch()
    storage.store(body=body(), patch=patch, essence=essence)
    annotations = patch["metadata"]["annotations"]
    assert list(annotations) == ["kopf.metacore.dev/handled"]
    assert len(annotations["kopf.metacore.dev/handled"]) < 64


def test_what_it_hangs_on_objects_is_named_as_ours() -> None:
    settings = configured()
    assert settings.persistence.finalizer == FINALIZER
    progress = settings.persistence.progress_storage
    assert isinstance(progress, kopf.AnnotationsProgressStorage)
    assert progress.prefix == "kopf.metacore.dev"


class Removal:
    """A receiver whose removal ends as told."""

    def __init__(self, outcome: Outcome | Exception) -> None:
        self.outcome = outcome

    def seen(self, document: Any) -> None: ...

    def gone(self, document: Any) -> None: ...

    async def removed(self, document: Any) -> Outcome:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def deletion(receiver: Removal) -> Any:
    """The handler of deletions, as kopf holds it."""
    registry = kopf.OperatorRegistry()
    register(registry, receiver)
    (handler,) = [handler for handler in registry._changing.get_all_handlers() if handler.id == "remove"]
    return handler


async def test_a_deletion_that_waits_is_tried_again_and_its_words_are_few() -> None:
    handler = deletion(Removal(Waiting(Reason.DELETING, "m" * 10_000, retry_after=7.0)))
    with pytest.raises(kopf.TemporaryError) as told:
        await handler.fn(body=body(), retry=0)
    # They become an annotation of the Addon.
    assert len(str(told.value)) <= LONGEST_TOLD
    assert told.value.delay == 7.0


async def test_a_deletion_that_is_done_lets_the_object_go() -> None:
    assert await deletion(Removal(Done())).fn(body=body(), retry=0) is None


def test_whatever_goes_wrong_in_a_deletion_is_tried_again_for_ever() -> None:
    handler = deletion(Removal(ValueError()))
    assert handler.errors is kopf.ErrorsMode.TEMPORARY
    assert (handler.retries, handler.timeout) == (None, None)
    assert handler.backoff


def test_kopf_is_heard_only_when_something_goes_wrong_and_without_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("kopf.objects")
    monkeypatch.setattr(logger, "filters", [])
    for name in ("kopf.objects", "kopf.activities", "kopf._core.engines.activities"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    quieten()
    assert logger.getEffectiveLevel() == logging.WARNING
    record = logger.makeRecord("kopf.objects", logging.WARNING, "", 0, "m", (), None, extra={"settings": object()})
    assert logger.filter(record)
    assert "settings" not in record.__dict__
