"""One working operator among several, by a Lease of coordination.k8s.io."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable
from typing import Any

from metacore.errors import Conflict, MetacoreError, NotFound
from metacore.logs import get_logger
from metacore_operator.api_server import ApiServer, Document

log = get_logger(__name__)

LEASE_SECONDS = 15
"""How long after its last renewal a leader counts; another takes over within this plus one try."""
RENEW_SECONDS = 10.0
"""How long a leader goes on trying to renew before it must stop: less than LEASE_SECONDS, so two never work at once."""
TRY_SECONDS = 2.0


class LeaseLost(Exception):
    """Another may be working now, so this process must end at once."""


class Leader:
    """Holds `name` as `identity`. After client-go: the age of another's Lease is measured by this process's own clock,
    from when its record was last seen to change, so clocks of machines need not agree.
    """

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        name: str,
        identity: str,
        *,
        on_try: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._on_try = on_try
        self._clock = clock
        self._seen: object = None
        self._seen_at = 0.0
        self._told = ""

    async def acquire(self) -> None:
        """Wait until the Lease is held."""
        while True:
            if await self._tried():
                break
            await asyncio.sleep(TRY_SECONDS)
        log.info("operator.leading", lease=self._name, identity=self._identity)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLost: another holds it, or it could not be renewed in time.
        """
        renewed = self._clock()
        while True:
            await asyncio.sleep(TRY_SECONDS)
            began = self._clock()
            try:
                async with asyncio.timeout(max(0.1, renewed + RENEW_SECONDS - began)):
                    if not await self.attempt():
                        raise LeaseLost(f"Lease {self._name!r} is held by another")
                renewed = began
            except (MetacoreError, TimeoutError) as error:
                log.warning("operator.lease_not_renewed", lease=self._name, error=str(error) or type(error).__name__)
            self._on_try()
            if self._clock() - renewed >= RENEW_SECONDS:
                raise LeaseLost(f"Lease {self._name!r} could not be renewed for {RENEW_SECONDS:.0f} s")

    async def release(self) -> None:
        """Give the Lease up, so that another need not wait for its end. One that is held by another stays."""
        try:
            lease = await self._api.get(f"{self._collection}/{self._name}")
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(f"{self._collection}/{self._name}", lease)
        except MetacoreError as error:
            log.warning("operator.lease_not_released", lease=self._name, error=error.message)

    async def attempt(self) -> bool:
        """Take or renew the Lease; whether it is held now.

        Raises:
            MetacoreError: the API server could not say.
        """
        try:
            lease = await self._api.get(f"{self._collection}/{self._name}")
        except NotFound:
            return await self._create()
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity):
            record = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
            if record != self._seen:
                self._seen, self._seen_at = record, self._clock()
            if self._clock() - self._seen_at < float(spec.get("leaseDurationSeconds") or LEASE_SECONDS):
                return False
        now = _now()
        fresh: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
            "acquireTime": spec.get("acquireTime") if holder == self._identity else now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (holder != self._identity),
        }
        # With the resourceVersion that was read: of two that try at once, one gets a Conflict.
        return await self._written(self._api.replace(f"{self._collection}/{self._name}", lease | {"spec": fresh}))

    async def _create(self) -> bool:
        now = _now()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        return await self._written(self._api.create(self._collection, body))

    async def _written(self, call: Any) -> bool:
        try:
            document: Document = await call
        except Conflict:
            return False
        return bool(document["spec"]["holderIdentity"] == self._identity)

    async def _tried(self) -> bool:
        try:
            held = await self.attempt()
            words = ""
        except MetacoreError as error:
            held, words = False, error.message
        if words and words != self._told:
            log.warning("operator.lease_not_reached", lease=self._name, error=words)
        self._told = words
        self._on_try()
        return held


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
