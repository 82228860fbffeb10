"""What is asked for, the same of everybody who is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import orjson
from tests.bench import addons
from tests.bench.load import NextRequest, Result, cycle, drive, request
from tests.bench.processes import HOST, Child
from tests.bench.rounds import Side
from tests.bench.world import Account

Params = Sequence[tuple[str, str]]

NEW_ROW: Mapping[str, Any] = {
    "title": "A new item",
    "description": "what there is to say about it, in one sentence",
    "status": "open",
    "priority": 2,
    "amount": 12.5,
    "active": True,
    "due": "2026-05-01",
    "seen_at": "2026-04-01T12:00:00Z",
    "owner_ref": "0190a5a0-0000-7000-8000-000000000001",
    "meta": {"source": "bench"},
}
KERNEL_PATH = f"/api/dynamic/{addons.MODEL}"


def change(number: int) -> dict[str, Any]:
    return {"title": f"Changed {number % 1_000}", "priority": number % 10}


def pages(per_page: int, count: int, *more: tuple[str, str]) -> list[Params]:
    """Pages that follow each other, from the second on: so near to each other that they cost the same, and no two in
    flight at once are alike, which the kernel would answer together."""
    return [[("page", str(page)), ("per_page", str(per_page)), *more] for page in range(2, count + 2)]


class Client:
    """One account's requests to one server, whose rows live under `path`."""

    def __init__(self, server: Child, account: Account, token: str, *, path: str = KERNEL_PATH) -> None:
        self._server = server
        self._account = account
        self._token = token
        self._path = path

    def lists(self, params: Sequence[Params]) -> Side:
        return self._side(cycle([self._get(f"{self._path}?{urlencode(page)}") for page in params]))

    def gets(self) -> Side:
        return self._side(cycle([self._get(f"{self._path}/{row_id}") for row_id in self._account.row_ids]))

    def creates(self) -> Side:
        return self._side(cycle([request("POST", self._path, token=self._token, body=orjson.dumps(NEW_ROW))]))

    def updates(self) -> Side:
        """A change of one row after the other."""
        changes = [
            request("PUT", f"{self._path}/{row_id}", token=self._token, body=orjson.dumps(change(number)))
            for number, row_id in enumerate(self._account.row_ids)
        ]
        return self._side(cycle(changes))

    def _get(self, path: str) -> bytes:
        return request("GET", path, token=self._token)

    def _side(self, next_request: NextRequest) -> Side:
        async def side(connections: int, seconds: float) -> Result:
            return await drive(HOST, self._server.port, next_request, connections=connections, seconds=seconds)

        return side
