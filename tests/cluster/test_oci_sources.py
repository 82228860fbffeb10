"""Bundles from a real registry, pushed as people push them: with oras, signed beside it or afterwards, with a login."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from tests.cluster import build
from tests.kubernetes_objects import ObjectsInMemory
from tests.tickets import SIGNING_KEY, make_bundle, tickets_manifest

from metacore.bundle.signature import sign
from metacore.errors import Unavailable
from metacore_operator.resources.addon import parse_addon
from metacore_operator.sources.download import Downloader
from metacore_operator.sources.oci import BUNDLE_TYPE, SIGNATURE_TYPE, OciSource
from metacore_operator.sources.references import ALLOW, References
from metacore_operator.sources.source import Fetched

ANN = "ann:$2b$04$BIbrkepCwG4rf2pPwrWYiuSyfadl4xYBG2eHap1c1glzEdWKl3/zu\n"
PASSWORD = "open sesame"


class RegistryWorld:
    def __init__(self, binaries: Path, folder: Path, host: str) -> None:
        self.host = host
        self.folder = folder
        self._oras = binaries / "oras"
        self.content = make_bundle(tickets_manifest())
        self.signature = json.dumps(sign(self.content, SIGNING_KEY).as_json()).encode()
        (folder / "t.tar.gz").write_bytes(self.content)
        (folder / "t.tar.gz.sig.json").write_bytes(self.signature)

    async def oras(self, *arguments: str) -> str:
        command = [str(self._oras), *arguments, "--plain-http", "--username", "ann", "--password", PASSWORD]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def fetched(self, name: str, *, secret: str = "pull") -> Fetched:
        config = {"auths": {f"http://{self.host}": {"auth": base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}}}
        objects = ObjectsInMemory()
        objects.put(
            "/api/v1/namespaces/default/secrets/pull",
            {
                "metadata": {"labels": {ALLOW: "tickets"}},
                "data": {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()},
            },
        )
        oci = {"ref": f"{self.host}/{name}", **({"pullSecretRef": {"name": secret}} if secret else {})}
        addon = parse_addon(
            {
                "apiVersion": "metacore.dev/v1alpha1",
                "kind": "Addon",
                "metadata": {"name": "tickets"},
                "spec": {"source": {"oci": oci}, "organizations": {"all": True}},
            }
        )
        return await OciSource(Downloader(["127.0.0.1"]), References(objects), [self.host]).fetch(addon)


@asynccontextmanager
async def registry(binaries: Path, folder: Path) -> AsyncIterator[str]:
    """A registry on loopback that lets only ann in."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    (folder / "htpasswd").write_text(ANN)
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "auth": {"htpasswd": {"realm": "addons", "path": str(folder / "htpasswd")}},
        "http": {"addr": host},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        str(binaries / "registry"), "serve", str(folder / "registry.yaml"), env={"OTEL_TRACES_EXPORTER": "none"}
    )
    try:
        async with asyncio.timeout(30):
            while not await _answers(host):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield host
    finally:
        process.terminate()
        await process.wait()


async def _answers(host: str) -> bool:
    name, _, port = host.partition(":")
    try:
        _, writer = await asyncio.open_connection(name, int(port))
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RegistryWorld]:
    binaries = await asyncio.to_thread(build.build, ["registry", "oras"])
    async with registry(binaries, tmp_path) as host:
        yield RegistryWorld(binaries, tmp_path, host)


async def test_a_bundle_pushed_with_its_signature_is_pulled_by_tag_and_by_digest(world: RegistryWorld) -> None:
    shown = await world.oras(
        "push", f"{world.host}/addons/tickets:1.0.0", "t.tar.gz", "t.tar.gz.sig.json", "--format", "json"
    )
    digest = json.loads(shown)["digest"]

    for name in ("addons/tickets:1.0.0", f"addons/tickets@{digest}"):
        found = await world.fetched(name)
        assert (found.content, found.signature) == (world.content, world.signature)
    with pytest.raises(Unavailable, match="answered 404"):
        await world.fetched("addons/tickets:2.0.0")
    with pytest.raises(Unavailable, match="pullSecretRef"):
        await world.fetched("addons/tickets:1.0.0", secret="")
    with pytest.raises(Unavailable, match="'gone'"):
        await world.fetched("addons/tickets:1.0.0", secret="gone")


async def test_a_signature_may_be_attached_afterwards(world: RegistryWorld) -> None:
    ref = f"{world.host}/addons/tickets:1.0.0"
    await world.oras("push", ref, f"t.tar.gz:{BUNDLE_TYPE}")
    assert (await world.fetched("addons/tickets:1.0.0")).signature is None

    await world.oras("attach", "--artifact-type", "application/spdx+json", ref, "t.tar.gz")
    await world.oras("attach", "--artifact-type", SIGNATURE_TYPE, ref, "t.tar.gz.sig.json")

    found = await world.fetched("addons/tickets:1.0.0")
    assert (found.content, found.signature) == (world.content, world.signature)
