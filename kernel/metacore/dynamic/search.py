"""Finding rows of one model by a few words, for pickers (contract 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from metacore.db.database import Database
from metacore.dynamic import lookup
from metacore.dynamic.shape import shape_of
from metacore.identity import Principal
from metacore.permissions.service import PermissionService
from metacore.registry import Registry


@dataclass(frozen=True, slots=True)
class SearchQuery:
    q: str = ""
    limit: int = lookup.DEFAULT_LIMIT


def parse_search_query(params: Sequence[tuple[str, str]]) -> SearchQuery:
    """Read `q` (also `search`) and `limit` (50, at most 200). Raises InvalidInput for a limit that is no number."""
    given = dict(params)
    return SearchQuery(
        q=lookup.term_of(given.get("q") or given.get("search", "")),
        limit=lookup.whole_number(given.get("limit", ""), "limit", lookup.DEFAULT_LIMIT, 1, lookup.MAX_LIMIT),
    )


class SearchService:
    """Looks in the search columns of a model; without a term the first rows come."""

    def __init__(self, db: Database, registry: Registry, *, permissions: PermissionService | None = None) -> None:
        self._db = db
        self._registry = registry
        self._permissions = permissions

    async def search(self, principal: Principal, name: str, query: SearchQuery) -> list[dict[str, Any]]:
        """Rows `{id, value, label, name, description?, image?}`, by label.

        Raises:
            NotFound: unknown model.
            PermissionDenied: the caller may not read it.
        """
        shape = shape_of(self._registry.model_for(name, principal.organization_id))
        await lookup.require_read(self._permissions, principal, shape)
        display = lookup.display_of(shape)
        table = lookup.table_of(self._db, shape, principal.organization_id)
        conditions = lookup.scope_of(shape, table, principal.organization_id)
        if query.q:
            searched = shape.search or (shape.columns[display.label],)
            conditions.append(sa.or_(*(lookup.contains(table, column, query.q) for column in searched)))
        parts = {"label": display.label, "description": display.description, "image": display.image}
        statement = (
            sa.select(
                table.c.id.label("id"),
                table.c.id.label("value"),
                *(table.c[column].label(part) for part, column in parts.items() if column),
            )
            .where(*conditions)
            .order_by(table.c[display.label], table.c.id)
            .limit(query.limit)
        )
        return [lookup.row_of(row) for row in await lookup.fetch(self._db, principal.organization_id, statement)]
