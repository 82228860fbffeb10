"""Values to choose from, rows to pick, values to count (contract 6)."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.deps import PrincipalDependency
from metacore.api.records import parse_query
from metacore.api.route import KernelRoute
from metacore.dynamic.aggregate import FacetsService
from metacore.dynamic.options import OptionsService, parse_options_query
from metacore.dynamic.search import SearchService, parse_search_query
from metacore.identity import Principal


def build_options_router(
    options: OptionsService, search: SearchService, facets: FacetsService, principal: PrincipalDependency
) -> APIRouter:
    """`/options/{model}`, `/search/{model}`, and `/facets` of rows. Include it before the routes of rows."""
    router = APIRouter(route_class=KernelRoute, tags=["options"])
    Caller = Annotated[Principal, Depends(principal)]  # noqa: N806 - a type.

    @router.get("/options/{model}", summary="Values to choose from")
    async def options_of(request: Request, model: str, who: Caller) -> Response:
        query = parse_options_query(parse_query(request.scope["query_string"]))
        found = await options.options(who, model, query)
        # Older clients look for the type beside the data.
        return envelope.ok(found.rows, meta={"type": found.kind, "count": len(found.rows)}, type=found.kind)

    @router.get("/search/{model}", summary="Rows that match a few words")
    async def search_in(request: Request, model: str, who: Caller) -> Response:
        rows = await search.search(who, model, parse_search_query(parse_query(request.scope["query_string"])))
        return envelope.ok(rows, meta={"count": len(rows)})

    async def facets_of(request: Request, model: str, who: Caller) -> Response:
        buckets = await facets.facets(who, model, parse_query(request.scope["query_string"]))
        return envelope.ok(buckets, meta={"count": len(buckets)})

    for root, shown in (("/dynamic/{model}", True), ("/data/{model}/me", False), ("/data/{model}", False)):
        router.add_api_route(
            f"{root}/facets", facets_of, methods=["GET"], summary="Values of a column, counted", include_in_schema=shown
        )
    return router
