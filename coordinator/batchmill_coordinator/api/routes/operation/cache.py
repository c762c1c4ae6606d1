"""The row cache over HTTP: its statistics, and emptying it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from batchmill.row_cache import CacheStats
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute

router = APIRouter(prefix="/v1/cache", tags=["cache"], route_class=ApiRoute)


@router.get("", response_model=CacheStats)
def read(context: CurrentContext) -> Response:
    """Show the statistics of the row cache, which all tenants share."""
    return json_response(context.cache_stats())


@router.delete("", status_code=204)
def clear(context: CurrentContext) -> Response:
    """Empty the row cache; needs an admin token. Running jobs continue, and compute what they do not find there."""
    context.clear_cache()
    return Response(status_code=204)
