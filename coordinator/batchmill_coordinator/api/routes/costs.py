"""What jobs cost, over HTTP: one job, and all of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from batchmill.cost import CostTotals
from batchmill.job import JobCost
from batchmill_coordinator.api.routes.context import CurrentService, json_response

router = APIRouter(tags=["costs"])


@router.get("/v1/costs", response_model=CostTotals)
def costs(service: CurrentService, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """What all jobs cost, deleted ones too: in all, by tenant, by pool and operator, by day, at most `limit` each."""
    return json_response(service.ledger.costs.totals().report(service.settings.currency, limit))


@router.get("/v1/jobs/{job_id}/cost", response_model=JobCost)
def job_cost(job_id: str, service: CurrentService) -> Response:
    """What a job cost so far, in all and by stage."""
    return json_response(service.cost(job_id))
