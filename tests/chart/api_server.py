"""As much of an API server as `lookup` asks for: its version, the Secrets it knows, and nothing else.

What a chart does on a real one is in tests/cluster; this one lets a rendering see the objects of an earlier release
without a cluster.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
RESOURCES = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [{"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"]}],
}


@contextmanager
def knowing(secrets: Mapping[str, Any]) -> Iterator[str]:
    """Serve `secrets` (by `namespace/name`) and yield the server's URL."""
    found: dict[str, Any] = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": RESOURCES,
    }
    for full_name, secret in secrets.items():
        namespace, _, name = full_name.partition("/")
        found[f"/api/v1/namespaces/{namespace}/secrets/{name}"] = secret

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found.get(path, missing)).encode()
            self.send_response(200 if path in found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
