"""Metrics over HTTP, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from batchmill.errors import Forbidden
from batchmill.telemetry.metrics import CONTENT_TYPE
from batchmill_coordinator.api.openapi import media, raises
from batchmill_coordinator.api.routes.context import CurrentContext
from batchmill_coordinator.api.routes.routing import ApiRoute

router = APIRouter(tags=["metrics"], route_class=ApiRoute)


@router.get("/metrics", response_class=PlainTextResponse, responses={200: media("text/plain"), **raises(Forbidden)})
def metrics(context: CurrentContext) -> Response:
    """Export what this coordinator counts, and if it leads what the ledger counts, in Prometheus' text format."""
    return Response(context.metrics(), headers={"Content-Type": CONTENT_TYPE})
