"""Jobs over HTTP: submitted, listed, read, followed, paused, cancelled, deleted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from batchmill.errors import Conflict, NotFound
from batchmill.job import JobRequest, JobStatus
from batchmill_coordinator.api.openapi import Responses, raises
from batchmill_coordinator.api.routes.context import Context, CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, json_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=ApiRoute)

NewBudget = Annotated[float | None, Query(ge=1e-6, le=1e6)]
KNOWN: Responses = {200: {"model": JobStatus, "description": "The idempotency key is known: the status of its job."}}
EVENTS = "text/event-stream"
EVENT = {"type": "object", "properties": {"event": {"const": "status"}, "data": {"type": "string"}}}
STREAM = {"description": "Server-sent events.", "content": {EVENTS: {"itemSchema": EVENT}}}
KEEP_ALIVE_S = 10.0
MIN_INTERVAL_S = 0.1


class JobList(BaseModel):
    """A page of jobs, newest first; `next` goes into `before` for the page after it."""

    jobs: list[JobStatus]
    next: str | None


@router.post("", status_code=201, response_model=JobStatus, responses={**KNOWN, **BODIES, **raises(Conflict, NotFound)})
def submit(context: CurrentContext, request: Annotated[JobRequest, json_body(JobRequest)]) -> Response:
    """Submit a job. Answers 200 instead of 201 when the idempotency key is known."""
    status, is_new = context.submit(request)
    return json_response(status, 201 if is_new else 200)


@router.get("", response_model=JobList, responses=raises(NotFound))
def list_jobs(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    before: str | None = None,
    live: bool = False,
) -> Response:
    """List jobs, newest first. With `live` those that have not ended, in one page: the newest `limit` of them."""
    if live:
        return json_response(JobList(jobs=context.live_jobs(limit), next=None))
    statuses = context.jobs(limit, before)
    following = statuses[-1].id if len(statuses) == limit else None
    return json_response(JobList(jobs=statuses, next=following))


@router.get("/{job_id}", response_model=JobStatus, responses=raises(NotFound))
def read(context: CurrentContext, job_id: str) -> Response:
    """Show a job's status, and what it was run with."""
    return json_response(context.status(job_id))


@router.post("/{job_id}/cancel", response_model=JobStatus, responses=raises(NotFound))
def cancel(context: CurrentContext, job_id: str) -> Response:
    """Stop a job; what is done is kept. A job that has ended stays as it is."""
    return json_response(context.cancel(job_id))


@router.post("/{job_id}/pause", response_model=JobStatus, responses=raises(NotFound, Conflict))
def pause(context: CurrentContext, job_id: str) -> Response:
    """Pause a job: its workers stop after the current batch, and nothing more of it is started."""
    return json_response(context.pause(job_id))


@router.post("/{job_id}/resume", response_model=JobStatus, responses=raises(NotFound, Conflict))
def resume(context: CurrentContext, job_id: str, budget: NewBudget = None) -> Response:
    """Resume a paused job, or give it another budget. A job that is not paused continues anyway."""
    return json_response(context.resume(job_id, budget))


@router.delete("/{job_id}", status_code=204, responses=raises(NotFound, Conflict))
def delete(context: CurrentContext, job_id: str) -> Response:
    """Delete an ended job: its record, its rows and its results. Its output folder stays."""
    context.delete(job_id)
    return Response(status_code=204)


@router.get("/{job_id}/events", response_class=StreamingResponse, responses={200: STREAM, **raises(NotFound)})
async def follow(context: CurrentContext, job_id: str) -> StreamingResponse:
    """Follow a job's status as server-sent events: one at once, then on every change, the final one last."""
    first = await context.pool.run(context.status, job_id)
    return StreamingResponse(_follow(context, first), media_type=EVENTS, headers={"Cache-Control": "no-store"})


async def _follow(context: Context, status: JobStatus) -> AsyncIterator[str]:
    with context.hub.watching(status.id) as event:
        while True:
            yield f"event: status\ndata: {status.model_dump_json()}\n\n"
            if status.is_final:
                return
            changed = status
            while changed == status:
                await asyncio.sleep(MIN_INTERVAL_S if status.shards_done else 0)
                if not await _set_within(event, KEEP_ALIVE_S):
                    yield ": still here\n\n"
                event.clear()
                changed = await context.pool.run(context.status, status.id)
            status = changed


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
