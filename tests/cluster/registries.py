"""Where bundles come from in tests: the node's registry, one that asks for a login, and servers that misbehave.

Bundles are pushed with oras, as people do.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from tests.cluster.node import Node
from tests.cluster.release import BROKEN_PORT, PRIVATE_PORT

PULLER, PASSWORD = "puller", "pull me"
HTPASSWD = "puller:$2b$05$Y1n4yZ3bXc0pQk6b8v2sUeQLw1rcBELvOFjMc0Ry36s7XEiNk/Bqu"
"""PASSWORD as bcrypt, the only hash that the registry takes."""


def push(node: Node, reference: str, bundle: bytes, signature: bytes | None, *, login: Sequence[str] = ()) -> str:
    """Push a bundle with its signature to `registry/repository:tag` and return the digest of the artifact."""
    with tempfile.TemporaryDirectory() as folder:
        files = ["bundle.tar.gz:application/vnd.metacore.bundle.v1.tar+gzip"]
        (Path(folder) / "bundle.tar.gz").write_bytes(bundle)
        if signature is not None:
            files.append("bundle.tar.gz.sig.json:application/vnd.metacore.signature.v1+json")
            (Path(folder) / "bundle.tar.gz.sig.json").write_bytes(signature)
        command = [str(node.binaries / "oras"), "push", "--plain-http", "--format", "json", *login, reference, *files]
        done = subprocess.run(
            command,
            cwd=folder,
            env={"HOME": folder, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["digest"])


@contextmanager
def private_registry(node: Node, folder: Path) -> Iterator[str]:
    """A second registry on the node that asks for PULLER and PASSWORD; yields its `host:port`."""
    name = f"registry-{PRIVATE_PORT}"
    (folder / "htpasswd").write_text(HTPASSWD + "\n")
    settings = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": f"{folder}/registry"}},
        "auth": {"htpasswd": {"realm": "tests", "path": f"{folder}/htpasswd"}},
        "http": {"addr": f"0.0.0.0:{PRIVATE_PORT}"},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(settings))
    node.start(name, "registry", "serve", f"{folder}/registry.yaml", OTEL_TRACES_EXPORTER="none")
    address = (node.addresses.node, PRIVATE_PORT)
    try:
        node.wait_for("the private registry", lambda: _listens(*address))
        yield f"{address[0]}:{address[1]}"
    finally:
        node.processes.stop(name)


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def pull_secret(registry: str, password: str = PASSWORD) -> dict[str, str]:
    """`stringData` of a Secret of type kubernetes.io/dockerconfigjson."""
    login = base64.b64encode(f"{PULLER}:{password}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {registry: {"auth": login}}})}


Answerer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(node: Node, answer: Answerer, port: int = BROKEN_PORT) -> Iterator[str]:
    """An HTTP server of this host that pods reach, answering each GET with `answer`; yields its `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((node.addresses.host, port), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield f"{node.addresses.host}:{port}"
        finally:
            found.shutdown()
            thread.join()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", kind: str = "application/json") -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
