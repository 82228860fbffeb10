"""A webhook that came in: found by installation and path, verified, and handed to the addon's handler once."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from metacore.addons.guest_context import GuestContext
from metacore.addons.host_calls.services import SettingsReader
from metacore.addons.inbound.deliveries import DONE, FAILED, Begun, Deliveries, DeliveryKey
from metacore.addons.inbound.verification import delivery_id, verify
from metacore.addons.invocation import Handler, Invocation, Result, Runner
from metacore.addons.runner import BROKEN
from metacore.errors import NotFound, Refused, Unauthenticated, Unavailable
from metacore.installer.job_rows import handler_of
from metacore.logs import get_logger
from metacore.manifest.model import InboundWebhook
from metacore.registry import LiveAddon, Registry, Snapshot

log = get_logger(__name__)

HIDDEN: Final = frozenset({"authorization", "cookie", "proxy-authorization", "connection", "host", "transfer-encoding"})
"""Headers that are for the kernel or for whoever stands in front of it, not for the addon."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrived. `path` is the one of the request, `hook_path` what of it follows the installation. Header names in
    lower case; of a repeated header the first value."""

    installation_id: uuid.UUID
    method: str
    path: str
    hook_path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Place:
    organization_id: uuid.UUID
    addon: LiveAddon


class HookReceiver:
    def __init__(self, registry: Registry, settings: SettingsReader, deliveries: Deliveries, runner: Runner) -> None:
        self._registry = registry
        self._settings = settings
        self._deliveries = deliveries
        self._runner = runner
        self._known: Snapshot | None = None
        self._places: dict[uuid.UUID, tuple[uuid.UUID, str]] = {}

    async def receive(self, delivery: Delivery) -> Any:
        """What the handler answered; for a delivery that was handled before, what it answered then.

        Raises:
            NotFound: no such installation, not enabled, or no webhook at that path.
            Unauthenticated: the signature does not hold.
            Conflict: the same delivery is under way.
            Refused: the handler declined. Unavailable: it broke; sending the delivery again runs it again. And what
                `Runner.run` raises.
        """
        place = self._place(delivery.installation_id)
        webhook = _webhook(place.addon, delivery.hook_path)
        identifier = await self._verified(place, webhook, delivery)
        if not identifier:
            return (await self._run(place, webhook, delivery, "", uuid.uuid4())).data
        key = DeliveryKey(place.organization_id, place.addon.key, webhook.key, identifier)
        begun = await self._deliveries.begin(key)
        if begun.done:
            return (begun.reply or {}).get("data")
        return await self._once(place, webhook, delivery, key, begun)

    async def _once(
        self, place: _Place, webhook: InboundWebhook, delivery: Delivery, key: DeliveryKey, begun: Begun
    ) -> Any:
        try:
            result = await self._run(place, webhook, delivery, key.delivery_id, begun.id)
        except BaseException:
            await self._deliveries.end(key, begun, FAILED)
            raise
        await self._deliveries.end(key, begun, DONE, {"data": result.data})
        return result.data

    async def _verified(self, place: _Place, webhook: InboundWebhook, delivery: Delivery) -> str:
        if not webhook.verify:
            return delivery_id(delivery.headers)
        context = GuestContext(place.addon.key, place.organization_id, f"webhook:{webhook.key}")
        secret = (await self._settings.for_code(context, place.addon)).get(webhook.secret_ref)
        if not isinstance(secret, str) or not secret:
            log.warning(
                "hook.no_secret",
                addon=place.addon.key,
                organization=str(place.organization_id),
                webhook=webhook.key,
                setting=webhook.secret_ref,
            )
            raise Unauthenticated("the signature cannot be verified", code="no_secret")
        return verify(secret, delivery.method, delivery.path, delivery.headers, delivery.body, time.time())

    async def _run(
        self, place: _Place, webhook: InboundWebhook, delivery: Delivery, identifier: str, invocation_id: uuid.UUID
    ) -> Result:
        given = handler_of(webhook.do or "noop")
        result = await self._runner.run(
            Invocation(
                place.addon.key,
                place.organization_id,
                "webhook",
                webhook.key,
                Handler(cast(Any, given["kind"]), given["function"], given["url"]),
                _payload(webhook, delivery, identifier),
                caller=f"webhook:{webhook.key}",
                id=invocation_id,
            )
        )
        if result.success:
            return result
        if result.code in BROKEN:
            raise Unavailable("the addon could not handle the delivery", code="addon_failed")
        raise Refused(result.message or "the addon declined the delivery", code=result.code or "declined")

    def _place(self, installation_id: uuid.UUID) -> _Place:
        snapshot = self._registry.snapshot
        if snapshot is not self._known:
            self._places = {
                installed.installation_id: (organization_id, key)
                for organization_id, own in snapshot.installed.items()
                for key, installed in own.items()
                if installed.enabled
            }
            self._known = snapshot
        found = self._places.get(installation_id)
        addon = snapshot.addons.get(found[1]) if found is not None else None
        if found is None or addon is None or addon.error:
            raise NotFound("no webhook is received here", code="unknown_webhook")
        return _Place(found[0], addon)


def _webhook(addon: LiveAddon, path: str) -> InboundWebhook:
    wanted = path.rstrip("/")
    for webhook in addon.manifest.webhooks:
        if webhook.path.rstrip("/") == wanted:
            return webhook
    raise NotFound("no webhook is received here", code="unknown_webhook")


def _payload(webhook: InboundWebhook, delivery: Delivery, identifier: str) -> dict[str, Any]:
    """The request of the handler. `body` is JSON where it is such (`encoding` json), else text, else base64."""
    body: Any
    try:
        body, encoding = orjson.loads(delivery.body), "json"
    except orjson.JSONDecodeError:
        try:
            body, encoding = delivery.body.decode(), "text"
        except UnicodeDecodeError:
            body, encoding = base64.b64encode(delivery.body).decode(), "base64"
    return {
        "webhook": webhook.key,
        "delivery": identifier,
        "method": delivery.method,
        "path": delivery.hook_path,
        "query": dict(delivery.query),
        "headers": {name: value for name, value in delivery.headers.items() if name not in HIDDEN},
        "body": body,
        "encoding": encoding,
    }
