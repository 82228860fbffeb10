"""What kopf delivers of Addons. It decides nothing: events go to the runner, deletions wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import kopf

from metacore_operator.outcomes import Outcome, Waiting, retry_delay
from metacore_operator.resources.addon import GROUP, PLURAL, VERSION
from metacore_operator.served import Refusals, Sessions

LONGEST_REMOVAL_RETRY = 30.0
LONGEST_TOLD = 200
"""Characters of a message that kopf is given: it keeps them in an annotation. The status has the whole."""


class Receiver(Protocol):
    def seen(self, document: Mapping[str, Any]) -> None: ...

    def gone(self, document: Mapping[str, Any]) -> None: ...

    async def removed(self, document: Mapping[str, Any]) -> Outcome: ...


def register(
    registry: kopf.OperatorRegistry, receiver: Receiver, refusals: Refusals = lambda _watched, _words: None
) -> None:
    """Make `registry` hand Addons to `receiver`, and log in as the pod or by kubeconfig. `refusals` hears of namespaces
    whose Addons may not be read.
    """
    sessions = Sessions(refusals)

    @kopf.on.login(registry=registry)
    async def login(**given: Any) -> kopf.AiohttpSession | None:
        info = kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)
        return sessions.of(info) if info is not None else None

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def event(type: str | None, body: kopf.Body, **_: Any) -> None:
        document = _plain(body)
        if type == "DELETED":
            receiver.gone(document)
        else:
            receiver.seen(document)

    # Anything unexpected is tried again: a permanent error would let the object go and leave the addon behind.
    @kopf.on.delete(
        GROUP,
        VERSION,
        PLURAL,
        registry=registry,
        id="remove",
        errors=kopf.ErrorsMode.TEMPORARY,
        backoff=LONGEST_REMOVAL_RETRY,
    )
    async def delete(body: kopf.Body, retry: int, **_: Any) -> None:
        outcome = await receiver.removed(_plain(body))
        if isinstance(outcome, Waiting):
            delay = outcome.retry_after or min(retry_delay(retry + 1), LONGEST_REMOVAL_RETRY)
            raise kopf.TemporaryError(outcome.message[:LONGEST_TOLD], delay=delay)


def _plain(body: kopf.Body) -> Mapping[str, Any]:
    """The object as plain dictionaries; kopf's are views that change."""
    return {key: _copied(value) for key, value in body.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value
