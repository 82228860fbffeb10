"""Input that no client of good will sends, and what every reply to it must be like."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

LEAKS = (
    "traceback",
    'file "',
    "sqlalchemy",
    "asyncpg",
    "aiosqlite",
    "sqlite3",
    "syntax error",
    "select ",
    "insert into",
    "update metacore",
    "organization_id =",
    "metacore_",
    "/site-packages/",
    "0x7f",
)
"""Texts of the inside: a database's message, a statement, a place in the code."""

MANY = "9" * 400
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "'",
    '"',
    "' OR '1'='1",
    "'; DROP TABLE users; --",
    "\\",
    "%",
    "_",
    "%s %(x)s {0} {x} ${x} :x $1",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "é\u0301\u202e\u200f\ufeff",
    "\U0001f4a9" * 50,
    "\ufffd\uffff",
    "x" * 5_000,
    "-1",
    "0",
    "1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    MANY,
    "-" + MANY,
    "0x10",
    "1_000",
    "٣",
    "9223372036854775808",
    "2147483648",
    "true",
    "null",
    "[]",
    "{}",
    "0000-00-00",
    "2024-02-30T25:61:61Z",
    "99999-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "infinity",
    "now()",
    "__proto__",
    "constructor",
    "__class__",
    "00000000-0000-0000-0000-000000000000",
    "{00000000-0000-4000-8000-000000000000}",
    "--00000000000000000000000000000000--",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "eq:",
    "in:" + ",".join(str(n) for n in range(2_000)),
    "range:|",
    "range:a|b|c",
    "gte:",
    "ilike:" + "%_" * 3_000,
    "ilike:" + "(a+)+$" * 50,
    "zz:1",
)


def deep(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * levels + closing * levels).encode()


BODIES: tuple[bytes, ...] = (
    b"",
    b" ",
    b"null",
    b"true",
    b"0",
    b'""',
    b"[]",
    b"[[]]",
    b"[null]",
    b"[1, 2]",
    b"{}",
    b"{",
    b'{"a":}',
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e400}',
    b'{"a": ' + MANY.encode() + b"}",
    b'{"": 1}',
    b'{"a": 1, "a": 2}',
    b'{"__proto__": {"role": "owner"}, "constructor": {"prototype": 1}, "__class__": "x"}',
    b'{"a": "\\u0000"}',
    b'{"a\\u0000b": 1}',
    b'{"a": "\\ud800"}',
    b'{"\\ud800": 1}',
    b'{"a": "\xff\xfe"}',
    b"\xff\xfe\x00\x00",
    b"\xef\xbb\xbf{}",
    b"\x00" * 100,
    deep(500),
    deep(20_000),
    b'{"a": ' + deep(1_500) + b"}",
    deep(2_000, '{"a":', "}").replace(b"}", b"1}", 1),
    b'{"' + b"k" * 100_000 + b'": 1}',
    json.dumps({f"k{n}": n for n in range(5_000)}).encode(),
)

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    -0.0,
    1e308,
    2**31,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    [],
    {},
    [None],
    [[1]],
    {"a": {"b": []}},
    {"$gt": ""},
    {"$sealed": "x"},
    {"__proto__": 1},
    "\ud800",
    *TEXTS,
)
"""What a field of a JSON body may be, besides what it should be."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: ASGIApp,
    method: str,
    target: bytes | str,
    *,
    headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = {},
    body: bytes = b"",
) -> Reply:
    """One request as uvicorn would hand it on: no client library puts it right before. `target` is path and query."""
    raw = target.encode("ascii") if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    named = [(name.lower(), value) for name, value in ((as_bytes(name), as_bytes(value)) for name, value in pairs)]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"test"), (b"content-length", b"%d" % len(body)), *named],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    sent: list[Message] = []
    chunks = _chunks(body)

    async def receive() -> Message:
        return await anext(chunks, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    assert start["type"] == "http.response.start"
    return Reply(
        start["status"],
        {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


async def _chunks(body: bytes) -> AsyncIterator[Message]:
    yield {"type": "http.request", "body": body, "more_body": False}


def check(reply: Reply, about: object) -> None:
    """Never a failure of ours, never the inside shown, always the envelope, whatever was sent.

    Raises:
        AssertionError: naming `about`.
    """
    shown = f"{about!r}: {reply.status} {reply.body[:300]!r}"[:1_500]
    assert reply.status < 500 or reply.status == 501, shown
    assert reply.headers.get("x-request-id"), shown
    if reply.status < 400:
        return
    assert reply.headers.get("content-type") == "application/json", shown
    told = reply.json()
    assert told["success"] is False, shown
    assert isinstance(told["message"], str), shown
    assert told["message"], shown
    assert isinstance(told["code"], str), shown
    text = reply.body.decode().lower()
    assert not [leak for leak in LEAKS if leak in text], shown
    assert len(reply.body) < 20_000, shown
