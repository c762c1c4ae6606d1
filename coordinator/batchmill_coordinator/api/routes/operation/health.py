"""The service's own health over HTTP, without a token."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from batchmill_coordinator.api.routes.context import json_response
from batchmill_coordinator.service import Service
from batchmill_coordinator.status.readiness import Readiness

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: str


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Answer. It needs no thread and no other process, so that it answers while everything else waits."""
    return json_response(Health(status="ok"))


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Jobs cannot be submitted, or are not worked on."}},
)
async def readyz(request: Request) -> Response:
    """Show whether the ledger takes writes and some coordinator leads."""
    service: Service = request.app.state.service
    readiness = await request.app.state.pool.run(service.readiness.get)
    return json_response(readiness, 200 if readiness.ready else 503)
