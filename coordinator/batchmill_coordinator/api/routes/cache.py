"""The row cache over HTTP: how it stands, and emptying it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from batchmill.row_cache import CacheStats
from batchmill_coordinator.api.routes.context import CurrentService, json_response
from batchmill_coordinator.roles.cache_sweep import clear_row_cache

router = APIRouter(prefix="/v1/cache", tags=["cache"])


@router.get("", response_model=CacheStats)
def read(service: CurrentService) -> Response:
    """How the row cache stands."""
    return json_response(service.ledger.row_cache.stats())


@router.delete("", status_code=204)
def clear(service: CurrentService) -> Response:
    """Empty the row cache. Jobs that run go on, and compute what they would have found there."""
    clear_row_cache(service.ledger, service.workspace.blobs)
    return Response(status_code=204)
