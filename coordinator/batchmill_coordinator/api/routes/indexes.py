"""Indexes over HTTP: listed, read, searched, forgotten."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from batchmill.errors import NotFound
from batchmill.jobs.index_status import IndexStatus
from batchmill.jobs.search import SearchRequest, SearchResult
from batchmill.jobs.sink import NAME_PATTERN
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, json_body

router = APIRouter(prefix="/v1", tags=["indexes"], route_class=ApiRoute)

IndexNameInPath = Annotated[str, Path(pattern=NAME_PATTERN)]


class IndexList(BaseModel):
    """The indexes of a tenant, by name."""

    indexes: list[IndexStatus]


@router.get("/indexes", response_model=IndexList)
def list_indexes(context: CurrentContext) -> Response:
    """List the indexes that sinks of jobs have published."""
    return json_response(IndexList(indexes=context.indexes()))


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
def search(
    context: CurrentContext, name: IndexNameInPath, request: Annotated[SearchRequest, json_body(SearchRequest)]
) -> Response:
    """Find the rows nearest to a text or a vector. A text is embedded as the rows of the index were."""
    return json_response(context.search(name, request))
