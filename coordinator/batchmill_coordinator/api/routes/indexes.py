"""Indexes over HTTP: listed, read, searched, forgotten."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from batchmill.errors import NotFound, Overloaded, ServiceUnavailable
from batchmill.jobs.index_status import IndexStatus
from batchmill.jobs.search import SearchRequest, SearchResult
from batchmill.jobs.sink import NAME_PATTERN
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, json_body

if TYPE_CHECKING:
    from batchmill_coordinator.api.routes.context import Context

WAIT_S = 120.0  # a model may have to be loaded first
LOOK_INTERVAL_S = 1.0  # an event may be missed

router = APIRouter(prefix="/v1", tags=["indexes"], route_class=ApiRoute)

IndexNameInPath = Annotated[str, Path(pattern=NAME_PATTERN)]


class IndexList(BaseModel):
    """Indexes, by tenant and name. next: what to give as `after` for the next page; None: there is none."""

    indexes: list[IndexStatus]
    next: str | None = None


@router.get("/indexes", response_model=IndexList)
def list_indexes(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """List the indexes that sinks of jobs have published, a page at a time."""
    found, following = context.indexes(after, limit)
    return json_response(IndexList(indexes=found, next=following))


@router.get("/indexes/{name}", response_model=IndexStatus, responses=raises(NotFound))
def read(context: CurrentContext, name: IndexNameInPath) -> Response:
    """Show an index: where its rows are, how many, and how their vectors were made."""
    return json_response(context.index(name))


@router.delete("/indexes/{name}", status_code=204, responses=raises(NotFound))
def forget(context: CurrentContext, name: IndexNameInPath) -> Response:
    """Forget an index. Its rows stay in the store."""
    context.forget_index(name)
    return Response(status_code=204)


@router.post("/indexes/{name}/search", response_model=SearchResult, responses={**BODIES, **raises(NotFound)})
async def search(
    context: CurrentContext, name: IndexNameInPath, request: Annotated[SearchRequest, json_body(SearchRequest)]
) -> Response:
    """Find the rows nearest to a text or a vector. A text is embedded as the rows of the index were."""
    search_id = await context.pool.run(context.begin_search, name, request)
    try:
        return json_response(await _result(context, search_id))
    finally:
        with suppress(Overloaded):  # it is deleted with the others, later
            await context.pool.run(context.end_search, search_id)


async def _result(context: Context, search_id: str) -> SearchResult:
    """Wait for a search, without a thread. Raises its error, or `ServiceUnavailable` if no worker answers."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + WAIT_S
    with context.hub.watching(search_id) as event:
        while True:
            event.clear()
            found = await context.pool.run(context.search_result, search_id)
            if found is not None:
                return found
            left_s = ends_at - loop.time()
            if left_s <= 0:
                raise ServiceUnavailable(
                    f"no worker has answered a search within {WAIT_S:.0f} s.", hint="See `batchmill workers`."
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_INTERVAL_S)):
                    await event.wait()
