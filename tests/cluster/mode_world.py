"""What people do with the mode of a release, and what they see of it."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from tests.cluster.release import NAME, Release

from metacore.capabilities.access import Access, Mode
from metacore.capabilities.enforcer import Violation
from metacore.capabilities.recorder import ViolationRecorder
from metacore.capabilities.writer import ViolationWriter
from metacore.db.database import Database

PATIENT_SECONDS = 240
DEPLOYMENT = f"deployment/{NAME}-kernel"
CONFIG_MAP = f"configmap/{NAME}-config"
ROLLOUT = f"moderollout/{NAME}-kernel"


class ModeWorld:
    def __init__(self, release: Release) -> None:
        self.release = release

    # What people do

    def wish(self, text: str) -> None:
        self._patch(CONFIG_MAP, {"data": {"METACORE_ENFORCE": text}})

    def ask_again(self, token: str) -> None:
        self._patch(CONFIG_MAP, {"metadata": {"annotations": {"metacore.dev/requested-at": token}}})

    def violate(self, times: int) -> None:
        """As a kernel in shadow records what an addon did beyond its grants."""
        assert self.release.urls is not None
        asyncio.run(_record(self.release.urls.kernel, times))

    def kill_operator(self) -> None:
        """The one that works, without a farewell."""
        self.kubectl("delete", "pod", self._working(), "--grace-period=0", "--force")

    def _working(self) -> str:
        holder = self.kubectl("get", "lease", f"{NAME}-operator", "-o", "jsonpath={.spec.holderIdentity}")
        return holder.rpartition("_")[0]

    def image(self, image: str) -> None:
        """As somebody who patches the Deployment by hand."""
        containers = [{"name": "kernel", "image": image}]
        patch = {"spec": {"template": {"spec": {"containers": containers}}}}
        self.kubectl("patch", DEPLOYMENT, "--type=strategic", "--patch", json.dumps(patch))

    # What they see

    def until(self, phase: str, mode: str, reason: str = "") -> None:
        """Wait for a phase in a mode with a reason; the failure shows what it was instead."""
        deadline = time.monotonic() + PATIENT_SECONDS
        wanted = (phase, mode, reason)
        while (seen := self._said(any_reason=not reason)) != wanted:
            if time.monotonic() > deadline:
                shown = self.kubectl("get", ROLLOUT, "-o", "yaml", "--ignore-not-found")
                raise AssertionError(f"{wanted} did not come, but {seen}\n{shown}\n{self.release.described()}")
            time.sleep(0.2)

    def until_observed(self, mode: str, pods: int) -> None:
        """Wait until so many pods, and no other, say themselves that they are in `mode`.

        A release is settled as soon as its template meets the wish; its first kernels may still be starting then.
        """
        deadline = time.monotonic() + PATIENT_SECONDS
        wanted = [(mode, mode)] * pods
        while (seen := list(self.observed().values())) != wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"{wanted} did not come, but {seen}\n{self.release.described()}")
            time.sleep(0.2)

    def _said(self, *, any_reason: bool) -> tuple[str, str, str]:
        path = '{.status.phase} {.status.mode} {.status.conditions[?(@.type=="Ready")].reason}'
        found = self.kubectl("get", ROLLOUT, "--ignore-not-found", "-o", f"jsonpath={path}").split()
        phase, mode, reason = found if len(found) == 3 else ("", "", "")
        return phase, mode, "" if any_reason else reason

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", ROLLOUT, "-o", "json"))["status"])

    def condition(self, kind: str) -> Mapping[str, str]:
        return next((item for item in self.status()["conditions"] if item["type"] == kind), {})

    def observed(self) -> dict[str, tuple[str, str]]:
        """By pod: the mode that it was started with, and the one that its kernel says it is in."""
        return {item["name"]: (item["mode"], item["observed"]) for item in self.status()["kernels"]}

    def stamped(self) -> dict[str, str]:
        """The annotation of each pod as the API server has it."""
        found = json.loads(self.kubectl("get", "pods", "-l", "app.kubernetes.io/component=kernel", "-o", "json"))[
            "items"
        ]
        return {
            pod["metadata"]["name"]: pod["metadata"].get("annotations", {}).get("metacore.dev/mode", "")
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def scraped(self) -> list[str]:
        """The metrics of the operator that works, as Prometheus would get them from the pod."""
        pods = f"/api/v1/namespaces/{self.release.namespace}/pods"
        return self.kubectl("get", "--raw", f"{pods}/{self._working()}:8080/proxy/metrics").splitlines()

    def deployment(self) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", DEPLOYMENT, "-o", "json")))

    def events(self, kind: str) -> list[tuple[str, str]]:
        chosen = f"involvedObject.kind={kind},source=metacore-operator"
        found = json.loads(self.kubectl("get", "events", "--field-selector", chosen, "-o", "json"))["items"]
        return [(item["type"], item["reason"]) for item in sorted(found, key=lambda item: str(item["eventTime"]))]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.release.kubectl(*arguments, stdin=stdin)

    def _patch(self, target: str, patch: Mapping[str, Any]) -> None:
        self.kubectl("patch", target, "--type=merge", "--patch", json.dumps(patch))


async def _record(url: str, times: int) -> None:
    database = await Database.connect(url)
    recorder = ViolationRecorder()
    access = Access("shop", "db:read", "addon_crm.contacts", uuid.uuid4(), "tester")
    for _ in range(times):
        recorder.record(Violation(access, Mode.SHADOW, datetime.datetime.now(datetime.UTC).timestamp(), False))
    try:
        assert await ViolationWriter(database, recorder).flush()
    finally:
        await database.close()
