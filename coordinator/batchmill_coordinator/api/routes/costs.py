"""What jobs cost, over HTTP: one job, and all of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from batchmill.errors import NotFound
from batchmill.jobs.cost import CostTotals
from batchmill.jobs.status import JobCost
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute

router = APIRouter(tags=["costs"], route_class=ApiRoute)


@router.get("/v1/costs", response_model=CostTotals)
def costs(context: CurrentContext, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """Show what all jobs cost, deleted ones too: in all, by tenant, by pool and operator, by day, up to `limit` each.

    `quotas` has what tenants with a quota of device time have used of it in this period. A token of one tenant gets
    that tenant's sum and quota; pools, operators and days are those of all tenants and left out.
    """
    return json_response(context.costs(limit))


@router.get("/v1/jobs/{job_id}/cost", response_model=JobCost, responses=raises(NotFound))
def job_cost(context: CurrentContext, job_id: str) -> Response:
    """Show what a job cost so far, in all and by stage."""
    return json_response(context.cost(job_id))
