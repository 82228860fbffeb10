"""What the service asks of a database, whichever it is, and the JSON around its answers."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from metacore.dynamic.query import Count, ListQuery
from metacore.dynamic.shape import ModelShape
from metacore.errors import Conflict, NotFound, StaleVersion
from metacore.identity import Principal
from metacore.manifest.model import Relation

ROW_BEGINS = b'{"success":true,"data":'
TAG_BYTES = 16
NO_TAGS: frozenset[str] = frozenset()
"""Entity tags of a caller who did not say which version of the row is meant."""


@dataclass(frozen=True, slots=True)
class Current:
    """A row as it is now. `version` differs whenever the row does, `body` is what a reader gets of it."""

    version: str
    row: Mapping[str, Any]
    body: bytes

    def require(self, tags: frozenset[str]) -> None:
        """Raises:
        StaleVersion: `tags` are not empty, and none of them is this row's or `*`.
        """
        if tags and "*" not in tags and tag_of(self.body) not in tags:
            raise StaleVersion("the row was changed since it was read: read it again and repeat the change")


@dataclass(frozen=True, slots=True)
class SequencePlace:
    """Which of an organization's sequences. `scope` is '' or the value that the sequence counts apart for."""

    addon_key: str
    model_key: str
    key: str
    scope: str = ""


class Rows(Protocol):
    """Rows of live models. Bodies are JSON objects as bytes; every write puts its event into the same transaction.

    Raises in every method:
        Conflict, Refused, InvalidInput: what the database would not store, naming the column where it can be known.
        Unavailable: the database cannot be reached, or does not answer in time.
    """

    async def page(self, shape: ModelShape, principal: Principal, query: ListQuery) -> bytes:
        """The whole envelope of a list."""
        ...

    async def get(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> bytes | None: ...

    async def current(self, shape: ModelShape, principal: Principal, row_id: uuid.UUID) -> Current | None: ...

    async def insert(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, columns: Mapping[str, Any]
    ) -> bytes: ...

    async def update(
        self,
        shape: ModelShape,
        principal: Principal,
        row_id: uuid.UUID,
        columns: Mapping[str, Any],
        version: str | None,
    ) -> bytes | None:
        """The row afterwards; None when it is not there, or with a `version` no longer the same."""
        ...

    async def delete(
        self, shape: ModelShape, principal: Principal, row_id: uuid.UUID, version: str | None
    ) -> bytes | None:
        """The row as it was; None as for `update`."""
        ...

    async def aggregate(
        self, shape: ModelShape, principal: Principal, relation: Relation, key: Any
    ) -> Mapping[str, Any]:
        """What the rollups of `relation` come to over the rows of `shape` whose foreign key is `key`, by target."""
        ...

    async def number(self, organization_id: uuid.UUID, place: SequencePlace) -> int:
        """The next number of a sequence, from 1. Numbers of changes that fail are lost."""
        ...


def no_row() -> NotFound:
    return NotFound("no such row", code="unknown_row")


def contended() -> Conflict:
    return Conflict("the row is being changed by others all the time; try again", code="contention")


def exact(body: bytes | str) -> dict[str, Any]:
    """The row for those who compute with it, formulas and hooks: decimals are `Decimal`."""
    row: dict[str, Any] = json.loads(body, parse_float=Decimal)
    return row


def tag_of(body: bytes | memoryview) -> str:
    """The entity tag of a row's JSON: another one as soon as anything that can be read of the row is another."""
    return hashlib.blake2b(body, digest_size=TAG_BYTES).hexdigest()


def row_envelope(body: bytes) -> bytes:
    return ROW_BEGINS + body + b"}"


def tag_of_envelope(reply: bytes) -> str:
    """`tag_of` the row in a reply that `row_envelope` made."""
    return tag_of(memoryview(reply)[len(ROW_BEGINS) : -1])


def list_envelope(
    query: ListQuery, data: bytes | None, total: int | None, *, next_cursor: str | None = None, counted: str = ""
) -> bytes:
    """The reply to a list. `data` is a JSON array, or None for no rows; `total` None when nothing was counted.

    A client that named its way of counting is told what `total` is: exact, capped (there are more), estimated, none.
    One that pages by cursor gets `next_cursor`, null when this page was not full.
    """
    if total is None:
        numbers = b'"total":null'
        last_page = b"null"
    else:
        numbers = b'"total":%d' % total
        last_page = b"%d" % max(1, -(-total // query.per_page))
    page = b"null" if query.keyset else b"%d" % query.page
    meta = b'%b,"page":%b,"per_page":%d,"last_page":%b' % (numbers, page, query.per_page, last_page)
    if query.count_named:
        meta += b',"count":"%b"' % (counted or query.count).encode()
    if query.keyset:
        meta += b',"next_cursor":' + (b"null" if next_cursor is None else b'"%b"' % next_cursor.encode())
    return b'{"success":true,"data":' + (data or b"[]") + b',"meta":{' + meta + b"}}"


def counted_as(query: ListQuery, more: bool) -> Count:
    """What the total is, when `more` tells that there are more rows than were counted."""
    return query.count if more or query.count is Count.NONE else Count.EXACT
