"""Metrics over HTTP, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from batchmill.telemetry.metrics import CONTENT_TYPE
from batchmill_coordinator.api.routes.context import CurrentService

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(service: CurrentService) -> Response:
    """What this coordinator counts, and what the ledger tells if it leads, in Prometheus' text format."""
    return Response(service.metrics.page(), headers={"Content-Type": CONTENT_TYPE})
