"""What the guest `script.wat` is to do, as the hex text that its request carries."""

from __future__ import annotations

import json
import struct
from typing import Any

HOST = (
    "",
    "log",
    "env_get",
    "http_fetch",
    "http_request",
    "connector_get",
    "db_query",
    "db_exec",
    "event_emit",
    "data_mutate",
    "data_query",
    "data_batch",
    "sequence_next",
)
REPLY, SPIN, TRAP, RECURSE, GRAB, GIANT, REPEAT = range(32, 39)


def host(function: str, *arguments: Any) -> bytes:
    """A call of a host function; what is not text goes as JSON."""
    return step(HOST.index(function), *(_encoded(argument) for argument in arguments))


def reply(value: Any) -> bytes:
    """End with this reply."""
    return step(REPLY, json.dumps(value).encode())


def repeat(times: int, following: bytes) -> bytes:
    return step(REPEAT, struct.pack("<I", times)) + following


def step(number: int, *parts: bytes) -> bytes:
    lengths = [*(len(part) for part in parts), 0, 0, 0][:3]
    return struct.pack("<BIII", number, *lengths) + b"".join(parts)


def script(*steps: bytes) -> dict[str, str]:
    """The input of an action."""
    return {"script": b"".join(steps).hex()}


def _encoded(argument: Any) -> bytes:
    return argument.encode() if isinstance(argument, str) else json.dumps(argument).encode()
