"""kopf as it must be set for production."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import kopf

from metacore_operator.served import NotServed
from metacore_operator.settings import OperatorSettings

FINALIZER = "metacore.dev/addon"
PREFIX = "kopf.metacore.dev"
BACKOFFS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between the tries of one request, and for which an object rests after each that failed for good."""


REPEATING = ("kopf._cogs.clients.watching", "kopf._core.reactor.observation")
"""Loggers of kopf that say each try of a list, a watch, or a look at the kinds."""


class GenerationStorage(kopf.AnnotationsDiffBaseStorage):
    """Remembers of an object only which generation was handled: kopf would copy the whole spec into an annotation."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence(spec={"generation": body.metadata.get("generation", 0)})


class _ToldBefore(logging.Filter):
    """Takes out what kopf says of each try of a request that `served` has told of once."""

    def filter(self, record: logging.LogRecord) -> bool:
        return NotServed.__name__ not in record.getMessage()


class _Plain(logging.Filter):
    """Takes kopf's own settings off its log records: they are said with each of them and tell nobody anything."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name in ("settings", "k8s_skip"):
            record.__dict__.pop(name, None)
        return True


def quieten() -> None:
    """Hear of kopf what goes wrong; the rest our own lines and Events say."""
    objects = logging.getLogger("kopf.objects")
    objects.setLevel(logging.WARNING)
    objects.addFilter(_Plain())
    for name in REPEATING:
        logging.getLogger(name).addFilter(_ToldBefore())
    for name in ("kopf.activities", "kopf._core.engines.activities"):
        logging.getLogger(name).setLevel(logging.WARNING)


def configure(settings: kopf.OperatorSettings, operator: OperatorSettings) -> kopf.OperatorSettings:
    # The status and our own Events tell what happens; kopf's would repeat every log line.
    settings.posting.enabled = False
    # No look at every resource of the cluster, and no right for it.
    settings.scanning.disabled = True
    # A watch that nobody ends can be dead without a sign.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 200
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.enforce_retry_after = True
    # A watch starts over after these; a write is given up, so that it does not hold a worker for ever.
    settings.networking.error_backoffs = BACKOFFS
    settings.queueing.worker_limit = 2 * operator.workers
    settings.queueing.idle_timeout = 5
    settings.queueing.error_delays = BACKOFFS
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX, v1=False)
    settings.persistence.diffbase_storage = GenerationStorage(prefix=PREFIX, key="handled", v1=False)
    settings.process.ultimate_exiting_timeout = 20
    return settings
