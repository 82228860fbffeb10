"""What every request gets from the middleware: id, limits, log line, metric, and no internals in a failure."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.served import serving

from metacore import logs
from metacore.api.application import KernelApplication
from metacore.api.middleware import RequestMiddleware
from metacore.errors import NotFound, Unauthenticated
from metacore.metrics import Metrics


@dataclass
class Recorded:
    lines: list[dict[str, Any]] = field(default_factory=list)

    def record(self, method: str, route: str, path: str, status: int, milliseconds: float, request: str) -> None:
        self.lines.append({"method": method, "route": route, "path": path, "status": status, "request": request})


@dataclass
class Served:
    client: httpx2.AsyncClient
    access: Recorded
    metrics: Metrics
    seen_ids: list[str]


def build(
    access: Recorded, metrics: Metrics, seen_ids: list[str], kind: type[FastAPI] = FastAPI, **options: Any
) -> FastAPI:
    inner = APIRouter()

    @inner.get("/things/{id}")
    async def thing(id: str) -> dict[str, str]:
        seen_ids.append(logs.request_id.get())
        return {"id": id}

    @inner.post("/things")
    async def create(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    @inner.post("/things/import")
    async def upload(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    @inner.post("/things/parsed")
    async def parsed(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @inner.get("/broken")
    async def broken() -> None:
        raise RuntimeError("password is hunter2")

    @inner.get("/missing")
    async def missing() -> None:
        raise NotFound("no such thing")

    @inner.get("/anonymous")
    async def anonymous() -> None:
        raise Unauthenticated("log in")

    @inner.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("too late")

        return StreamingResponse(parts())

    outer = APIRouter(prefix="/v1")
    outer.include_router(inner)
    app = kind()
    app.include_router(outer, prefix="/api")
    mounted = FastAPI()
    mounted.include_router(inner)
    app.mount("/mounted", mounted)
    app.add_middleware(
        RequestMiddleware,
        **{
            "metrics": metrics,
            "access_log": access,
            "max_body_bytes": 1000,
            "max_upload_bytes": 5000,
            **options,
        },
    )
    return app


@pytest.fixture(params=[FastAPI, KernelApplication])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    access, metrics, seen_ids = Recorded(), Metrics(process=False), list[str]()
    app = build(access, metrics, seen_ids, request.param)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        yield Served(client, access, metrics, seen_ids)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_what_is_added_to_the_application_stands_in_front_of_all_that_is_the_kernels() -> None:
    access, metrics = Recorded(), Metrics(process=False)
    app = build(access, metrics, [], KernelApplication)

    class Closed:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("closed on Sundays", status_code=403)(scope, receive, send)

    app.add_middleware(Closed)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        reply = await client.get("/api/v1/things/7")

    assert (reply.status_code, reply.text, access.lines) == (403, "closed on Sundays", [])


async def test_the_callers_request_id_comes_back_and_reaches_the_logs(served: Served) -> None:
    reply = await served.client.get("/api/v1/things/7", headers={"X-Request-ID": "abc-123"})
    assert reply.headers["x-request-id"] == "abc-123"
    assert served.seen_ids == ["abc-123"]
    assert served.access.lines[0]["request"] == "abc-123"
    assert logs.request_id.get() == ""


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "tab\there", "é"])
async def test_an_insane_request_id_is_replaced(served: Served, bad: str) -> None:
    reply = await served.client.get("/api/v1/things/7", headers={b"X-Request-ID": bad.encode("latin-1")})
    assert reply.headers["x-request-id"] not in ("", bad)


async def test_new_request_ids_differ(served: Served) -> None:
    replies = [await served.client.get("/api/v1/things/7") for _ in range(3)]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 3


async def test_failures_of_routing_carry_a_request_id_too(served: Served) -> None:
    reply = await served.client.get("/nowhere")
    assert reply.status_code == 404
    assert reply.headers["x-request-id"]
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/v1/things/7", "/api/v1/things/{id}"),
        ("/mounted/things/7", "/mounted/things/{id}"),
        ("/nowhere/7", ""),
    ],
)
async def test_log_and_metric_name_the_route_template_with_its_prefixes(served: Served, path: str, route: str) -> None:
    await served.client.get(path)
    assert served.access.lines[0]["route"] == route
    assert f'route="{route or "unmatched"}"' in served.metrics.render().decode()


async def test_whoever_answers_in_front_of_fastapi_can_name_the_route() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["metacore.route"] = "/api/dynamic/{model}"
        await send({"type": "http.response.start", "status": 200, "headers": ()})
        await send({"type": "http.response.body", "body": b""})

    access = Recorded()
    transport = httpx2.ASGITransport(app=RequestMiddleware(app, access_log=access))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/api/dynamic/tickets")
    assert access.lines[0]["route"] == "/api/dynamic/{model}"


async def test_an_invented_method_does_not_become_a_label(served: Served) -> None:
    await served.client.request("BREW", "/api/v1/things/7")
    text = served.metrics.render().decode()
    assert "BREW" not in text and 'method="OTHER"' in text


async def test_a_body_within_the_limit_passes(served: Served) -> None:
    reply = await served.client.post("/api/v1/things", content=b"x" * 1000)
    assert reply.json() == {"size": 1000}


async def test_a_declared_body_beyond_the_limit_is_413_and_never_reaches_the_route(served: Served) -> None:
    reply = await served.client.post("/api/v1/things", content=b"x" * 1001)
    assert reply.status_code == 413
    assert reply.json() == {
        "success": False,
        "message": "the body is larger than 1000 bytes",
        "code": "payload_too_large",
    }
    assert served.access.lines[0]["status"] == 413


@pytest.mark.parametrize("path", ["/api/v1/things", "/api/v1/things/parsed"])
async def test_a_streamed_body_is_counted(served: Served, path: str) -> None:
    reply = await served.client.post(path, content=chunks(b"x" * 600, b"x" * 600))
    assert reply.status_code == 413
    assert reply.json()["code"] == "payload_too_large"


async def test_a_streamed_body_within_the_limit_passes(served: Served) -> None:
    reply = await served.client.post("/api/v1/things", content=chunks(b"x" * 500, b"x" * 500))
    assert reply.json() == {"size": 1000}


async def test_a_declared_length_does_not_hide_a_body_in_chunks(served: Served) -> None:
    headers = {"Content-Length": "10", "Transfer-Encoding": "chunked"}
    for names in (list(headers), list(headers)[::-1]):
        given = [(name, headers[name]) for name in names]
        reply = await served.client.post("/api/v1/things", headers=given, content=chunks(b"x" * 600, b"x" * 600))
        assert reply.status_code == 413


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_no_server_takes_a_large_body_in_chunks_under_a_small_length(http: str) -> None:
    app = build(Recorded(), Metrics(process=False), [])
    async with serving(app, http=http) as (address, _):
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /api/v1/things HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n"
        )
        status = await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert status.split()[1] in (b"413", b"400")


async def test_uploads_have_a_limit_of_their_own(served: Served) -> None:
    path = "/api/v1/things/import"
    assert (await served.client.post(path, content=b"x" * 5000)).json() == {"size": 5000}
    assert (await served.client.post(path, content=b"x" * 5001)).status_code == 413
    assert (await served.client.post(path, content=chunks(b"x" * 3000, b"x" * 3000))).status_code == 413


async def test_an_unhandled_exception_is_500_without_internals(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await served.client.get("/api/v1/broken")
    assert reply.status_code == 500
    assert reply.json() == {"success": False, "message": "internal error", "code": "internal"}
    assert reply.headers["x-request-id"]
    (record,) = [record for record in caplog.records if record.getMessage() == "request.failed"]
    assert record.exc_info is not None and isinstance(record.exc_info[1], RuntimeError)
    assert served.access.lines[0]["status"] == 500


async def test_our_errors_keep_their_status_in_routes_of_a_host(served: Served) -> None:
    reply = await served.client.get("/api/v1/missing")
    assert (reply.status_code, reply.json()["message"]) == (404, "no such thing")
    assert (await served.client.get("/api/v1/anonymous")).headers["www-authenticate"] == "Bearer"


async def test_a_reply_that_breaks_on_the_way_is_cut_off(served: Served) -> None:
    with pytest.raises(RuntimeError, match="too late"):
        await served.client.get("/api/v1/stream")
    assert served.access.lines[0]["status"] == 200


async def test_routes_outside_the_prefix_are_the_hosts_own_business() -> None:
    access = Recorded()
    app = build(access, Metrics(process=False), [], prefix="/api")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        reply = await client.post("/mounted/things", content=b"x" * 2000)
        assert reply.json() == {"size": 2000}
        assert "x-request-id" not in reply.headers
        with pytest.raises(RuntimeError, match="hunter2"):
            await client.get("/mounted/broken")
        assert (await client.post("/api/v1/things", content=b"x" * 2000)).status_code == 413


async def test_health_routes_are_counted_but_not_logged() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    access, metrics = Recorded(), Metrics(process=False)
    transport = httpx2.ASGITransport(app=RequestMiddleware(app, access_log=access, metrics=metrics, prefix="/api"))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/healthz")
    assert access.lines == []
    assert b'method="GET",route="unmatched",status="200"' in metrics.render()


async def test_access_lines_are_json_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    access = logs.BatchedAccessLog("json", sys.stdout)
    app = build(Recorded(), Metrics(process=False), [], access_log=access)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        await client.get("/api/v1/things/7?token=hunter2", headers={"X-Request-ID": "r1"})
    access.flush()
    out = capsys.readouterr().out
    assert "hunter2" not in out
    line = json.loads(out)
    assert (line["route"], line["status"], line["request_id"]) == ("/api/v1/things/{id}", 200, "r1")
