"""Jobs over HTTP: planned, submitted, listed, read, followed, paused, cancelled, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from batchmill.errors import Conflict, NotFound
from batchmill.insights.plans import Plan, PlanList
from batchmill.jobs.job import JobRequest
from batchmill.jobs.rerun import RerunRequest
from batchmill.jobs.status import CheckedJob, JobStatus
from batchmill_coordinator.api.openapi import Responses, raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, heavy, json_body
from batchmill_coordinator.api.status_feed import Snapshot, StatusFeeds

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=ApiRoute)

NewBudget = Annotated[float | None, Query(ge=1e-6, le=1e6)]
AnyVersion = Annotated[bool, Query()]
KNOWN: Responses = {200: {"model": JobStatus, "description": "The idempotency key is known: the status of its job."}}
PlanId = Annotated[str, Path(max_length=128)]
SUBMITTED: Responses = {200: {"model": JobStatus, "description": "It was submitted before: the status of its job."}}
EVENTS = "text/event-stream"
EVENT = {
    "type": "object",
    "properties": {"event": {"const": "status"}, "id": {"type": "string"}, "data": {"type": "string"}},
}
STREAM = {"description": "Server-sent events.", "content": {EVENTS: {"itemSchema": EVENT}}}


class JobList(BaseModel):
    """A page of jobs, newest first; `next` goes into `before` for the page after it."""

    jobs: list[JobStatus]
    next: str | None


@router.post(
    "/jobs", status_code=201, response_model=JobStatus, responses={**KNOWN, **BODIES, **raises(Conflict, NotFound)}
)
@heavy
def submit(context: CurrentContext, request: Annotated[JobRequest, json_body(JobRequest)]) -> Response:
    """Submit a job. Answers 200 instead of 201 when the idempotency key is known."""
    status, is_new = context.submit(request)
    return json_response(status, 201 if is_new else 200)


@router.post("/check", response_model=CheckedJob, responses=BODIES)
@heavy
def check(context: CurrentContext, request: Annotated[JobRequest, json_body(JobRequest)]) -> Response:
    """Check a request over files as if it was submitted, and submit nothing."""
    return json_response(context.check(request))


@router.post("/plans", status_code=202, response_model=Plan, responses=BODIES)
@heavy
def plan(context: CurrentContext, request: Annotated[JobRequest, json_body(JobRequest)]) -> Response:
    """Plan a job, whose body is that of `POST /v1/jobs`: workers run a sample of its rows; nothing else is run."""
    return json_response(context.plans.create(request, context.access.tenant), 202)


@router.get("/plans", response_model=PlanList, responses=raises(NotFound))
def list_plans(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """List the plans of the tenant, the newest first, with what their jobs took."""
    found, more = context.plans.page(context.access.tenant, limit, after)
    return json_response(PlanList(plans=found, next=found[-1].id if more else None))


@router.get("/plans/{plan_id}", response_model=Plan, responses=raises(NotFound))
def read_plan(context: CurrentContext, plan_id: PlanId) -> Response:
    """Show a plan."""
    return json_response(context.plans.find(plan_id, context.access))


@router.post(
    "/plans/{plan_id}/submit",
    status_code=201,
    response_model=JobStatus,
    responses={**SUBMITTED, **raises(Conflict, NotFound)},
)
@heavy
def submit_plan(context: CurrentContext, plan_id: PlanId) -> Response:
    """Submit the job of a plan, once; a deadline that the plan says cannot be held is refused."""
    job_id, is_new = context.plans.submit(plan_id, context.access)
    return json_response(context.status(job_id), 201 if is_new else 200)


@router.get("/jobs", response_model=JobList, responses=raises(NotFound))
def list_jobs(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    before: str | None = None,
    live: bool = False,
) -> Response:
    """List jobs, newest first. With `live` those that have not ended, in one page: the newest `limit` of them."""
    if live:
        return json_response(JobList(jobs=context.live_jobs(limit), next=None))
    statuses, following = context.jobs(limit, before)
    return json_response(JobList(jobs=statuses, next=following))


@router.get("/jobs/{job_id}", response_model=JobStatus, responses=raises(NotFound))
def read(context: CurrentContext, job_id: str) -> Response:
    """Show a job's status, and what it was run with."""
    return json_response(context.status(job_id))


@router.post("/jobs/{job_id}/cancel", response_model=JobStatus, responses=raises(NotFound))
def cancel(context: CurrentContext, job_id: str) -> Response:
    """Stop a job; what is done is kept. A job that has ended stays as it is."""
    return json_response(context.cancel(job_id))


@router.post("/jobs/{job_id}/pause", response_model=JobStatus, responses=raises(NotFound, Conflict))
def pause(context: CurrentContext, job_id: str) -> Response:
    """Pause a job: its workers stop after the current batch, and nothing more of it is started."""
    return json_response(context.pause(job_id))


@router.post("/jobs/{job_id}/resume", response_model=JobStatus, responses=raises(NotFound, Conflict))
def resume(context: CurrentContext, job_id: str, budget: NewBudget = None, any_version: AnyVersion = False) -> Response:
    """Resume a paused job, give it another budget, or let it continue with other versions of its operators.

    A job that is not paused continues anyway.
    """
    return json_response(context.resume(job_id, budget, any_version=any_version))


@router.post("/jobs/{job_id}/drain", response_model=JobStatus, responses=raises(NotFound, Conflict))
def drain(context: CurrentContext, job_id: str) -> Response:
    """Let a job over a stream end after the rows that are planned. With `start`, another job begins there."""
    return json_response(context.drain(job_id))


@router.post(
    "/jobs/{job_id}/rerun",
    status_code=201,
    response_model=JobStatus,
    responses={**KNOWN, **BODIES, **raises(NotFound, Conflict)},
)
@heavy
def rerun(context: CurrentContext, job_id: str, request: Annotated[RerunRequest, json_body(RerunRequest)]) -> Response:
    """Run the later stages of an ended job again, changed, over what is kept of the stage before them.

    Answers 200 instead of 201 when the idempotency key is known.
    """
    status, is_new = context.rerun(job_id, request)
    return json_response(status, 201 if is_new else 200)


@router.delete("/jobs/{job_id}", status_code=204, responses=raises(NotFound, Conflict))
def delete(context: CurrentContext, job_id: str) -> Response:
    """Delete an ended job: its record, its rows and its results. Its output folder stays."""
    context.delete(job_id)
    return Response(status_code=204)


async def _snapshots(request: Request, context: CurrentContext, job_id: str) -> AsyncIterator[AsyncIterator[Snapshot]]:
    """A job's feed, followed for as long as the answer is sent; an unknown job is an error before it begins."""
    feeds: StatusFeeds = request.app.state.feeds
    await context.pool.run(context.job, job_id)
    async with feeds.follow(job_id, context.access.tenant) as snapshots:
        yield snapshots


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses={200: STREAM, **raises(NotFound)})
async def follow(
    snapshots: Annotated[AsyncIterator[Snapshot], Depends(_snapshots)],
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Follow a job's status as server-sent events: one at once, then on every change, the final one last.

    The first is left out when it is the one that `Last-Event-ID` names, and not final.
    """
    async for snapshot in snapshots:
        if snapshot.is_final or snapshot.id != last_event_id:
            yield ServerSentEvent(event="status", id=snapshot.id, raw_data=snapshot.text)
        last_event_id = None
