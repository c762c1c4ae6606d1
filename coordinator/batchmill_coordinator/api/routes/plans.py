"""Plans over HTTP: asked for, read, listed, and submitted as jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from batchmill.errors import Conflict, NotFound
from batchmill.jobs.job import JobRequest
from batchmill.jobs.status import JobStatus
from batchmill.plans import Plan, PlanList
from batchmill_coordinator.api.openapi import Responses, raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, heavy, json_body

router = APIRouter(prefix="/v1/plans", tags=["plans"], route_class=ApiRoute)

PlanId = Annotated[str, Path(max_length=128)]
KNOWN: Responses = {200: {"model": JobStatus, "description": "It was submitted before: the status of its job."}}


@router.post("", status_code=202, response_model=Plan, responses=BODIES)
@heavy
def create(context: CurrentContext, request: Annotated[JobRequest, json_body(JobRequest)]) -> Response:
    """Plan a job, whose body is that of `POST /v1/jobs`: workers run a sample of its rows; nothing else is run."""
    return json_response(context.plans.create(request, context.access.tenant), 202)


@router.get("", response_model=PlanList, responses=raises(NotFound))
def list_plans(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """List the plans of the tenant, the newest first, with what their jobs took."""
    found, more = context.plans.page(context.access.tenant, limit, after)
    return json_response(PlanList(plans=found, next=found[-1].id if more else None))


@router.get("/{plan_id}", response_model=Plan, responses=raises(NotFound))
def read(context: CurrentContext, plan_id: PlanId) -> Response:
    """Show a plan."""
    return json_response(context.plans.find(plan_id, context.access))


@router.post(
    "/{plan_id}/submit",
    status_code=201,
    response_model=JobStatus,
    responses={**KNOWN, **raises(Conflict, NotFound)},
)
@heavy
def submit(context: CurrentContext, plan_id: PlanId) -> Response:
    """Submit the job of a plan, once; a deadline that the plan says cannot be held is refused."""
    job_id, is_new = context.plans.submit(plan_id, context.access)
    return json_response(context.status(job_id), 201 if is_new else 200)
