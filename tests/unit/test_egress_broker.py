"""The broker against real servers: what leaves, where it goes, and what never gets anywhere."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from dataclasses import replace

import pytest
from tests.names import Names
from tests.outside import Outside, Received, outside, reply, trust_of_tests

from metacore.egress.addresses import Opening
from metacore.egress.broker import Broker, EgressConfig
from metacore.egress.outbound import OutboundRequest
from metacore.errors import InvalidInput, MetacoreError, Misconfigured, PayloadTooLarge, PermissionDenied, Unavailable
from metacore.metrics import Metrics

OPEN = EgressConfig.parse(["127.0.0.0/8"])


def get(url: str, **more: object) -> OutboundRequest:
    return OutboundRequest("GET", url, **more)  # type: ignore[arg-type]


async def refused(broker: Broker, url: str, **more: object) -> MetacoreError:
    """What sending raises; the broker is closed."""
    try:
        with pytest.raises(MetacoreError) as caught:
            await broker.send(get(url, **more))
        return caught.value
    finally:
        await broker.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "0",
        "[::]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ⓛocalhost",
        "127.0.0.2",
    ],
)
async def test_a_server_of_this_machine_is_never_reached(host: str) -> None:
    async with outside(lambda _: reply(), host="0.0.0.0") as server:
        error = await refused(Broker(), server.url(host=host))
    assert (type(error), error.code) == (PermissionDenied, "blocked_address")
    assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://0xa9fea9fe/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
    ],
)
async def test_no_list_opens_the_credentials_of_a_cloud(url: str) -> None:
    everything = EgressConfig.parse(["169.254.0.0/16", "fd00::/8", "100.64.0.0/10", "168.63.129.16", "a9fe.local:80"])
    error = await refused(Broker(everything), url)
    assert error.code == "blocked_address"


async def test_a_name_with_one_bad_address_is_refused_as_a_whole() -> None:
    names = Names(mixed_example_com=[["93.184.216.34", "10.0.0.1"]])
    error = await refused(Broker(EgressConfig(resolver=names)), "https://mixed.example.com/")
    assert error.code == "blocked_address"
    assert "10.0.0.1" not in error.message


async def test_a_name_is_asked_once_and_its_checked_address_is_dialled() -> None:
    """A name server that says something else a moment later (DNS rebinding) is not asked then."""
    async with outside(lambda _: reply(body=b"first")) as server:
        names = Names(rebinding_example_com=[["127.0.0.1"], ["169.254.169.254"]])
        broker = Broker(replace(OPEN, resolver=names), keep=False)
        answer = await broker.send(get(server.url(host="rebinding.example.com")))
        assert (answer.body, names.asked) == (b"first", ["rebinding.example.com"])
        assert (await refused(broker, server.url(host="rebinding.example.com"))).code == "blocked_address"
    assert server.connections == 1
    assert server.received[0].headers["host"] == f"rebinding.example.com:{server.port}"


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    async with outside(lambda _: reply(body=b"alive")) as server:
        broker = Broker(replace(OPEN, resolver=Names(two_example_com=[["127.0.0.9", "127.0.0.1"]])))
        assert (await broker.send(get(server.url(host="two.example.com")))).body == b"alive"
        await broker.close()


async def test_unknown_names_and_closed_ports_are_unavailable() -> None:
    error = await refused(Broker(replace(OPEN, resolver=Names())), "http://nowhere.example.com/")
    assert (type(error), error.message) == (Unavailable, "host 'nowhere.example.com' cannot be resolved")
    async with outside(lambda _: reply()) as server:
        pass
    assert type(await refused(Broker(OPEN), server.url())) is Unavailable


async def test_a_redirect_passes_gate_and_judge_again() -> None:
    places = {
        "/private": "http://10.0.0.1/x",
        "/metadata": "http://[::ffff:169.254.169.254]/latest",
        "/decimal": "http://167772161/",
        "/scheme": "file:///etc/passwd",
        "/login": "http://user:secret@127.0.0.1/",
    }
    asked: list[tuple[str, int]] = []
    async with outside(lambda got: reply(302, Location=places[got.path])) as server:
        for path in places:
            broker = Broker(OPEN)
            with pytest.raises(MetacoreError) as caught:
                await broker.send(get(server.url(path)), gate=lambda host, port: asked.append((host, port)))
            assert caught.value.code == ("invalid_url" if path in ("/scheme", "/login") else "blocked_address")
            assert "secret" not in caught.value.message
            await broker.close()
    assert ("10.0.0.1", 80) in asked
    assert ("169.254.169.254", 80) not in asked  # The gate sees the host as it was written.
    assert ("::ffff:a9fe:a9fe", 80) in asked


async def test_the_gate_stops_a_redirect_before_anything_is_sent_there() -> None:
    async with (
        outside(lambda _: reply(body=b"secret")) as other,
        outside(lambda _: reply(307, Location=other.url())) as server,
    ):

        def gate(host: str, port: int) -> None:
            if port != server.port:
                raise PermissionDenied(f"{host}:{port} was not granted", code="forbidden")

        broker = Broker(OPEN)
        with pytest.raises(PermissionDenied) as caught:
            await broker.send(get(server.url()), gate=gate)
        await broker.close()
    assert caught.value.code == "forbidden"
    assert (server.connections, other.connections) == (1, 0)


async def test_a_gate_that_refuses_costs_no_connection_and_no_question_to_a_name_server() -> None:
    names = Names()

    def gate(host: str, port: int) -> None:
        raise PermissionDenied("no", code="forbidden")

    broker = Broker(EgressConfig(resolver=names))
    with pytest.raises(PermissionDenied):
        await broker.send(get("https://api.example.com/"), gate=gate)
    assert names.asked == []
    await broker.close()


async def test_credentials_stay_with_their_origin() -> None:
    async with outside(lambda got: reply(body=b"end")) as other:

        def first(got: Received) -> bytes:
            return reply(307, Location=other.url() if got.path == "/away" else "/away")

        async with outside(first) as server:
            broker = Broker(OPEN)
            headers = {"Authorization": "Bearer t", "Cookie": "a=b", "X-Api-Key": "k", "Accept": "text/plain"}
            request = OutboundRequest("POST", server.url("/here"), headers | {"Content-Type": "text/csv"}, b"a,b")
            answer = await broker.send(request)
            await broker.close()
    assert (answer.body, answer.url) == (b"end", other.url())
    assert [got.headers.get("x-api-key") for got in server.received] == ["k", "k"]
    (got,) = other.received
    assert (got.method, got.body, got.headers["accept"], got.headers["content-type"]) == (
        "POST",
        b"a,b",
        "text/plain",
        "text/csv",
    )
    assert not {"authorization", "cookie", "x-api-key"} & got.headers.keys()


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [(301, "POST", "GET"), (302, "POST", "GET"), (303, "PUT", "GET"), (303, "HEAD", "HEAD"), (308, "PUT", "PUT")],
)
async def test_methods_change_as_in_browsers(status: int, method: str, after: str) -> None:
    async with outside(lambda got: reply(status, Location="/b") if got.path == "/a" else reply()) as server:
        broker = Broker(OPEN)
        await broker.send(OutboundRequest(method, server.url("/a"), {"Content-Type": "x/y"}, b"body"))
        await broker.close()
    last = server.received[-1]
    assert (last.method, last.body, "content-type" in last.headers) == (
        (after, b"body", True) if after != "GET" else (after, b"", False)
    )


async def test_redirects_end_and_none_is_followed_when_none_may_be() -> None:
    async with outside(lambda _: reply(302, Location="/again")) as server:
        error = await refused(Broker(OPEN), server.url(), max_redirects=3)
        assert (error.code, len(server.received)) == ("redirects", 4)
        broker = Broker(OPEN)
        answer = await broker.send(get(server.url(), max_redirects=0))
        await broker.close()
    assert (answer.status, dict(answer.headers)["location"]) == (302, "/again")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_byte_too_many_is_refused_said_or_not(chunked: bool) -> None:
    body = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n" if chunked else b"x" * 1001
    more = {"Transfer_Encoding": "chunked"} if chunked else {"Content_Length": "1001"}
    async with outside(lambda _: reply(200, body, **more)) as server:
        broker = Broker(OPEN)
        assert len((await broker.send(get(server.url(), max_response_bytes=1001))).body) == 1001
        with pytest.raises(PayloadTooLarge):
            await broker.send(get(server.url(), max_response_bytes=1000))
        await broker.close()


async def test_gzip_is_unpacked_within_the_limit() -> None:
    members = gzip.compress(b"a" * 300_000) + gzip.compress(b"b" * 5)
    bomb = gzip.compress(gzip.compress(b"\0" * 50_000_000) + b"\0" * 400_000_000)
    said = {
        "/two": reply(200, members, Content_Encoding="gzip"),
        "/bomb": reply(200, bomb, Content_Encoding="gzip"),
        "/cut": reply(200, members[:200], Content_Encoding="gzip"),
        "/lie": reply(200, b"plain", Content_Encoding="gzip"),
        "/none": reply(200, b"", Content_Encoding="gzip"),
        "/other": reply(200, zlib.compress(b"z"), Content_Encoding="deflate"),
    }
    async with outside(lambda got: said[got.path]) as server:
        broker = Broker(OPEN)
        answer = await broker.send(get(server.url("/two")))
        assert answer.body == b"a" * 300_000 + b"b" * 5
        assert not {"content-encoding", "content-length"} & dict(answer.headers).keys()
        raw = await broker.send(get(server.url("/two"), headers={"Accept-Encoding": "identity"}))
        assert raw.body == members
        assert server.received[-1].headers["accept-encoding"] == "identity"
        assert (await broker.send(get(server.url("/none")))).body == b""
        assert dict((await broker.send(get(server.url("/other")))).headers)["content-encoding"] == "deflate"
        with pytest.raises(PayloadTooLarge):
            await broker.send(get(server.url("/bomb")))
        for path in ("/cut", "/lie"):
            with pytest.raises(Unavailable):
                await broker.send(get(server.url(path)))
        await broker.close()


async def test_the_whole_time_is_limited_also_when_every_step_is_quick() -> None:
    """A server that redirects and drips for ever never waits long enough for a limit of single steps."""

    async def drip(_: Received) -> bytes:
        await asyncio.sleep(0.01)
        return reply(302, Location="/again")

    async with outside(drip) as server:
        error = await refused(Broker(OPEN), server.url(), timeout=0.2, max_redirects=10_000)
    assert (type(error), error.code) == (Unavailable, "timeout")
    assert error.message == f"http://127.0.0.1:{server.port} gave no answer within 0.2 s"


async def test_a_server_that_says_nothing_is_given_up_and_its_connection_closed() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() == b""
        gone.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        broker = Broker(OPEN)
        sending = asyncio.create_task(broker.send(get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")))
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await gone.wait()
        await broker.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0\0\0\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 11\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nBad Header : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_unavailable(said: bytes) -> None:
    async with outside(lambda _: said) as server:
        error = await refused(Broker(OPEN), server.url())
    assert type(error) is Unavailable


async def test_connections_are_kept_for_a_while_or_not_at_all() -> None:
    async with outside(lambda _: reply()) as server:
        for keep, connections in ((True, 1), (False, 4)):
            broker = Broker(OPEN, keep=keep)
            for _ in range(3):
                await broker.send(get(server.url()))
            await broker.close()
            assert server.connections == connections


async def test_tls_is_verified_for_the_name_not_for_the_address() -> None:
    names = Names(api_example_com=[["127.0.0.1"]], other_example_com=[["127.0.0.1"]], third_example_com=[["127.0.0.1"]])
    async with outside(lambda _: reply(body=b"over TLS"), tls=True) as server:
        broker = Broker(replace(OPEN, resolver=names), trust=trust_of_tests())
        for name in ("api.example.com", "other.example.com."):
            answer = await broker.send(get(server.url(host=name, scheme="https")))
            assert answer.body == b"over TLS"
        for name in ("third.example.com", "127.0.0.1"):
            with pytest.raises(Unavailable, match="certificate is not accepted"):
                await broker.send(get(server.url(host=name, scheme="https")))
        with pytest.raises(Unavailable, match="certificate is not accepted"):
            await Broker(replace(OPEN, resolver=names)).send(get(server.url(host="api.example.com", scheme="https")))
        await broker.close()


async def test_https_never_becomes_http() -> None:
    names = Names(api_example_com=[["127.0.0.1"]])
    async with (
        outside(lambda _: reply()) as plain,
        outside(lambda _: reply(302, Location=plain.url()), tls=True) as server,
    ):
        error = await refused(
            Broker(replace(OPEN, resolver=names), trust=trust_of_tests()),
            server.url(host="api.example.com", scheme="https"),
        )
    assert error.code == "insecure_redirect"
    assert plain.connections == 0


class TunnelProxy:
    """A real CONNECT proxy that leads every tunnel to one port and remembers what was asked for."""

    def __init__(self, leads_to: int, status: int = 200) -> None:
        self.leads_to = leads_to
        self.status = status
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head[:-4].split("\r\n")
        self.asked.append((first, dict(line.split(": ", 1) for line in lines)))
        writer.write(f"HTTP/1.1 {self.status} Said\r\n\r\n".encode())
        await writer.drain()
        if self.status == 200:
            there, back = await asyncio.open_connection("127.0.0.1", self.leads_to)
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_is_asked_for_the_judged_address(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(api_example_com=[["93.184.216.34"]], bad_example_com=[["10.0.0.1"]])
    async with outside(lambda _: reply(body=b"through"), tls=scheme == "https") as server:
        proxy = TunnelProxy(server.port)
        listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        config = EgressConfig.parse(proxy=f"http://ann:p%40ss@127.0.0.1:{port}")
        broker = Broker(replace(config, resolver=names), trust=trust_of_tests(), keep=False)
        answer = await broker.send(get(f"{scheme}://api.example.com/x"))
        assert answer.body == b"through"
        with pytest.raises(PermissionDenied, match="may not be reached"):
            await broker.send(get(f"{scheme}://bad.example.com/"))
        with pytest.raises(PermissionDenied, match="may not be reached"):
            await broker.send(get(f"{scheme}://127.0.0.1:{port}/"))
        proxy.status = 407
        with pytest.raises(Unavailable, match="proxy answered 407"):
            await broker.send(get(f"{scheme}://api.example.com/x"))
        await broker.close()
        listening.close()
        await listening.wait_closed()
    place = f"93.184.216.34:{443 if scheme == 'https' else 80}"
    assert proxy.asked[0] == (
        f"CONNECT {place} HTTP/1.1",
        {"Host": place, "Proxy-Authorization": "Basic YW5uOnBAc3M="},
    )
    assert server.received[0].headers["host"] == "api.example.com"
    assert "proxy-authorization" not in server.received[0].headers


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with outside(lambda _: reply(body=b"direct")) as server:
        broker = Broker(OPEN)
        assert (await broker.send(get(server.url()))).body == b"direct"
        await broker.close()


async def test_lines_and_errors_hold_no_paths_queries_or_headers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with outside(lambda _: reply(302, Location="/tok3n?key=s3cret")) as server:
        error = await refused(
            Broker(OPEN), server.url("/tok3n?key=s3cret"), headers={"Authorization": "s3cret"}, max_redirects=1
        )
    blocked = await refused(Broker(), "http://10.0.0.1/tok3n?key=s3cret")
    written = "".join(
        f"{record.getMessage()} {record.__dict__}" for record in caplog.records if record.name.startswith("metacore")
    )
    assert "egress.sent" in written
    assert "egress.blocked" in written
    for text in (written, error.message, blocked.message):
        assert "s3cret" not in text
        assert "tok3n" not in text


async def test_every_outcome_is_counted() -> None:
    metrics = Metrics(process=False)

    def count(outcome: str) -> float | None:
        return metrics.registry.get_sample_value("metacore_egress_duration_seconds_count", {"outcome": outcome})

    async with outside(lambda _: reply(500, b"xx")) as server:
        broker = Broker(OPEN, metrics=metrics)
        await broker.send(get(server.url()))
        for url, more in (
            ("http://10.0.0.1/", {}),
            ("ftp://x", {}),
            (server.url(), {"max_response_bytes": 1}),
            ("http://127.0.0.1:1/", {}),
        ):
            with pytest.raises(MetacoreError):
                await broker.send(get(url, **more))
        await broker.close()
    counted = [count(word) for word in ("answered", "blocked", "invalid", "too_large", "unavailable")]
    assert counted == [1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"allow_private": ["0.0.0.0/0"]}, "METACORE_EGRESS_ALLOW_PRIVATE"),
        ({"deny": ["8.8.8.8/8"]}, "METACORE_EGRESS_DENY"),
        ({"proxy": "https://ann:s3cret@proxy:1"}, "egress proxy"),
        ({"proxy": "proxy:s3cret"}, "egress proxy"),
        ({"proxy": "http://ann:s3cret@proxy:99999"}, "egress proxy"),
    ],
)
def test_settings_that_cannot_work_are_named_without_secrets(arguments: dict[str, object], why: str) -> None:
    with pytest.raises(Misconfigured, match=why) as caught:
        EgressConfig.parse(**arguments)  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


def test_a_password_of_a_proxy_shows_nowhere() -> None:
    assert "s3cret" not in repr(EgressConfig.parse(proxy="http://ann:s3cret@proxy:1"))
    assert "YW5u" not in repr(EgressConfig.parse(proxy="http://ann:s3cret@proxy:1"))


async def test_nothing_is_sent_for_a_request_that_cannot_be_sent() -> None:
    async with outside(lambda _: reply()) as server:
        broker = Broker(EgressConfig(openings=(Opening.parse("127.0.0.1"),)))
        for request in (
            get(server.url(), headers={"X": "a\r\nHost: b"}),
            OutboundRequest("CONNECT", server.url()),
            OutboundRequest("GET / HTTP/1.1\r\nX: ", server.url()),
        ):
            with pytest.raises(InvalidInput):
                await broker.send(request)
        await broker.close()
    assert server.connections == 0


async def test_two_requests_do_not_wait_for_each_other() -> None:
    both = asyncio.Event()
    server: Outside

    async def answer(_: Received) -> bytes:
        if len(server.received) == 2:
            both.set()
        await both.wait()
        return reply()

    async with outside(answer) as server:
        broker = Broker(OPEN)
        answers = await asyncio.gather(*(broker.send(get(server.url())) for _ in range(2)))
        await broker.close()
    assert [item.status for item in answers] == [200, 200]
