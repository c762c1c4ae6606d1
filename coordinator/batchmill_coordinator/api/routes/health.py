"""The service's own health over HTTP, without a token."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from batchmill.errors import ServiceUnavailable
from batchmill_coordinator.api.routes.context import json_response
from batchmill_coordinator.service import Service

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: str


class Readiness(BaseModel):
    """Whether jobs can be submitted and are worked on."""

    ready: bool
    ledger: bool
    leader: bool


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
    """Show whether the ledger can be reached and some coordinator leads."""
    service: Service = request.app.state.service
    try:
        leader, ledger = await request.app.state.pool.run(service.ledger.has_leader), True
    except ServiceUnavailable:
        leader, ledger = False, False
    return json_response(Readiness(ready=leader, ledger=ledger, leader=leader), 200 if leader else 503)
