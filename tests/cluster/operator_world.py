"""An operator, a kernel and a database around a namespace of a real cluster. The two are processes of this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey
from tests.cluster.node import Node
from tests.conftest import DatabaseUrls
from tests.tickets import SIGNING_KEY, make_bundle, tickets_manifest

from metacore.bundle.signature import sign

PATIENCE = "120s"
PATIENT_SECONDS = 120


class OperatorWorld:
    def __init__(self, node: Node, namespace: str, urls: DatabaseUrls, folder: Path) -> None:
        self.node = node
        self.namespace = namespace
        self._urls = urls
        self._folder = folder
        self._processes: list[asyncio.subprocess.Process] = []
        self.kernel_url = ""

    # What people do

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return await asyncio.to_thread(self.node.kubectl, "--namespace", self.namespace, *arguments, stdin=stdin)

    async def apply(self, kind: str, name: str, *, version: str = "v1", labels: Any = None, **fields: Any) -> None:
        metadata = {"name": name, "labels": labels or {}}
        document = {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
        await self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))

    async def trust(self, *keys: SigningKey) -> None:
        text = "".join(bytes(key.verify_key).hex() + "\n" for key in keys)
        await self.apply("Secret", "metacore-trust", stringData={"keys": text})

    async def bundle(
        self,
        name: str,
        *,
        allow: str = "tickets",
        signer: SigningKey = SIGNING_KEY,
        migrations: Mapping[str, str] | None = None,
        **manifest: Any,
    ) -> None:
        """A ConfigMap with a signed bundle of the tickets addon; keywords change its manifest."""
        content = make_bundle(tickets_manifest(**manifest), migrations)
        signature = json.dumps(sign(content, signer).as_json()).encode()
        entries = {"b": content, "b.sig.json": signature}
        await self.apply(
            "ConfigMap",
            name,
            labels={"metacore.dev/allow": allow} if allow else None,
            binaryData={key: base64.b64encode(value).decode() for key, value in entries.items()},
        )

    async def small_bundle(self, key: str, **manifest: Any) -> None:
        """A bundle of an addon without models, in a ConfigMap of its own name."""
        await self.bundle(key, allow=key, key=key, models=[], settings=[], capabilities=[], **manifest)

    async def declare(self, bundle: str, name: str = "tickets", **spec: Any) -> None:
        source = {"configMap": {"name": bundle, "key": "b"}}
        await self.apply(
            "Addon",
            name,
            version="metacore.dev/v1alpha1",
            spec={"source": source, "organizations": {"all": True}, **spec},
        )

    # What runs

    @asynccontextmanager
    async def operator(self, *, ends_with: int = 0, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`metacore operator`; `settings` are further ones, without the prefix METACORE_."""
        async with self._running(
            "operator",
            {
                "KUBECONFIG": str(self.node.kubeconfig),
                "METACORE_OWNER_DATABASE_URL": self._urls.owner,
                "METACORE_OPERATOR_NAMESPACE": self.namespace,
                "METACORE_OPERATOR_PORT": "0",
                "METACORE_OPERATOR_HOST": "127.0.0.1",
                "METACORE_OPERATOR_PULSE": "0.3",
                **{f"METACORE_{name}": value for name, value in settings.items()},
            },
            ends_with=ends_with,
        ) as process:
            yield process

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[None]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.kernel_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            given = {
                "METACORE_DATABASE_URL": self._urls.kernel,
                "METACORE_JWT_SECRETS": "j" * 40,
                "METACORE_CACHE_DIR": str(self._folder / "cache"),
            }
            async with self._running("serve", given, "--fd", str(listener.fileno()), inherited=listener.fileno()):
                yield

    @asynccontextmanager
    async def _running(
        self, command: str, given: Mapping[str, str], *arguments: str, inherited: int | None = None, ends_with: int = 0
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("METACORE_")}
        log = self._folder / f"{command}-{len(self._processes)}.log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "metacore.cli",
                command,
                *arguments,
                env={**environment, **given},
                stdout=file,
                stderr=file,
                pass_fds=() if inherited is None else (inherited,),
            )
        self._processes.append(process)
        try:
            yield process
        except BaseException:
            sys.stderr.write(f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-4000:]}\n")
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(process.wait(), 40)
        assert code in (ends_with, -signal.SIGKILL), log.read_text("utf-8", "replace")[-4000:]

    # What can be seen

    async def until(self, wanted: str, name: str = "tickets") -> None:
        """Wait for `condition=…` or `jsonpath=…` of an Addon, and say what it was instead."""
        try:
            await self.kubectl("wait", f"--for={wanted}", f"addon/{name}", f"--timeout={PATIENCE}")
        except Exception as error:
            raise AssertionError(f"{wanted}: {await self.kubectl('get', 'addon', name, '-o', 'yaml')}") from error

    async def reason(self, kind: str = "Ready", name: str = "tickets") -> str:
        path = f'jsonpath={{.status.conditions[?(@.type=="{kind}")].reason}}'
        return await self.kubectl("get", "addon", name, "-o", path)

    async def message(self, kind: str = "Ready", name: str = "tickets") -> str:
        path = f'jsonpath={{.status.conditions[?(@.type=="{kind}")].message}}'
        return await self.kubectl("get", "addon", name, "-o", path)

    async def status(self, name: str = "tickets") -> dict[str, Any]:
        return dict(json.loads(await self.kubectl("get", "addon", name, "-o", "json"))["status"])

    async def until_reason(self, reason: str, kind: str = "Ready", name: str = "tickets") -> str:
        """Wait for the reason of a condition and give its message."""
        await self.until(f'jsonpath={{.status.conditions[?(@.type=="{kind}")].reason}}={reason}', name)
        return await self.message(kind, name)

    async def told(self, name: str = "tickets") -> list[str]:
        """Reasons of the Events of an Addon."""
        chosen = f"--field-selector=involvedObject.kind=Addon,involvedObject.name={name}"
        return (await self.kubectl("get", "events", chosen, "-o", "jsonpath={.items[*].reason}")).split()

    async def request(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        return await asyncio.to_thread(self._request, method, path, body, token)

    def _request(self, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(
            f"{self.kernel_url}/api{path}",
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENT_SECONDS) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    async def register(self) -> str:
        """The token of the first owner of an organization."""
        person = {
            "name": "Ann",
            "email": "ann@acme.test",
            "password": "correct horse battery",
            "organization_name": "Acme",
        }
        status, answer = await self.request("POST", "/auth/register", person)
        assert status in (200, 201), answer
        return str(answer["data"]["token"])


@asynccontextmanager
async def operator_world(node: Node, urls: DatabaseUrls, folder: Path) -> AsyncIterator[OperatorWorld]:
    """A world in a namespace of its own, gone afterwards."""
    namespace = f"operator-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(node.kubectl, "create", "namespace", namespace)
    world = OperatorWorld(node, namespace, urls, folder)
    await world.trust(SIGNING_KEY)
    try:
        yield world
    finally:
        # Nobody is left who would take a finalizer away.
        for name in (await world.kubectl("get", "addons", "-o", "name")).split():
            await world.kubectl("patch", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        await asyncio.to_thread(node.kubectl, "delete", "namespace", namespace, "--wait=false")
