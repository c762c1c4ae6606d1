"""Workers, operators and the service's own health over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from batchmill.errors import ServiceUnavailable
from batchmill.job import PoolStatus, WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill_coordinator.api.routes.context import CurrentService, json_response

router = APIRouter(tags=["fleet"])


class WorkerList(BaseModel):
    """The workers that are there."""

    workers: list[WorkerInfo]


class PoolList(BaseModel):
    """The pools that have workers or jobs."""

    pools: list[PoolStatus]


class OperatorList(BaseModel):
    """The operators that workers have announced."""

    operators: list[OperatorInfo]


class Readiness(BaseModel):
    """Whether jobs can be submitted and are worked on."""

    ready: bool
    ledger: bool
    leader: bool


@router.get("/v1/workers", response_model=WorkerList)
def workers(service: CurrentService) -> Response:
    """The workers that are there."""
    return json_response(WorkerList(workers=service.ledger.fleet.workers(service.ledger.now_ms())))


@router.get("/v1/pools", response_model=PoolList)
def pools(service: CurrentService) -> Response:
    """What runs and what waits in each pool, at most half a second ago."""
    return json_response(PoolList(pools=service.backlog.pools()))


@router.get("/v1/operators", response_model=OperatorList)
def operators(service: CurrentService) -> Response:
    """The operators that workers have announced, with their parameters as JSON Schema."""
    return json_response(OperatorList(operators=service.ledger.fleet.operators()))


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether this process answers. Needs no thread: it answers while all of them wait for the ledger."""
    return {"status": "ok"}


@router.get("/readyz", response_model=Readiness)
def readyz(service: CurrentService) -> Response:
    """Whether the ledger can be reached and some coordinator leads."""
    try:
        leader, ledger = service.ledger.has_leader(), True
    except ServiceUnavailable:
        leader, ledger = False, False
    return json_response(Readiness(ready=leader, ledger=ledger, leader=leader), 200 if leader else 503)
