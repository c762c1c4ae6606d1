"""Jobs over HTTP: submitted, listed, read, followed, paused, cancelled, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from batchmill.job import JobRequest, JobState, JobStatus
from batchmill_coordinator.api.routes.context import CurrentService, CurrentTenant, json_response
from batchmill_coordinator.api.status_feed import Snapshot, StatusFeeds

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

NewBudget = Annotated[float | None, Query(ge=1e-6, le=1e6)]


async def _feeds(request: Request) -> StatusFeeds:
    feeds: StatusFeeds = request.app.state.feeds
    return feeds


CurrentFeeds = Annotated[StatusFeeds, Depends(_feeds)]


class JobList(BaseModel):
    """A page of jobs, newest first; `next` goes into `before` for the page after it."""

    jobs: list[JobStatus]
    next: str | None


@router.post("", status_code=201, response_model=JobStatus)
def submit(request: JobRequest, service: CurrentService, tenant: CurrentTenant) -> Response:
    """Submit a job. Answers 200 instead of 201 when the idempotency key is known."""
    job_id, is_new = service.admission.admit(request, tenant)
    if is_new:
        service.metrics.roles.submitted(request.spec())
    return json_response(service.status(job_id), 201 if is_new else 200)


@router.get("", response_model=JobList)
def list_jobs(
    service: CurrentService,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    before: str | None = None,
    live: bool = False,
) -> Response:
    """Jobs, newest first. With `live` those that have not ended, in one page: the newest `limit` of them."""
    if live:
        found = service.ledger.jobs.read_many(service.ledger.overview.live_ids(limit))
        return json_response(JobList(jobs=service.statuses(found), next=None))
    records = service.ledger.jobs.newest(limit, before)
    following = records[-1].id if len(records) == limit else None
    return json_response(JobList(jobs=service.statuses(records), next=following))


@router.get("/{job_id}", response_model=JobStatus)
def read(job_id: str, service: CurrentService) -> Response:
    """How a job stands."""
    return json_response(service.status(job_id))


@router.post("/{job_id}/cancel", response_model=JobStatus)
def cancel(job_id: str, service: CurrentService) -> Response:
    """Stop a job; what is done is kept. A job that has ended stays as it is."""
    service.ledger.jobs.stop(job_id, JobState.CANCELLING, None)
    return json_response(service.status(job_id))


@router.post("/{job_id}/pause", response_model=JobStatus)
def pause(job_id: str, service: CurrentService) -> Response:
    """Hold a job: its workers let go at the end of their batches, and nothing more of it is begun."""
    service.ledger.jobs.pause(job_id)
    return json_response(service.status(job_id))


@router.post("/{job_id}/resume", response_model=JobStatus)
def resume(job_id: str, service: CurrentService, budget: NewBudget = None) -> Response:
    """Let a paused job go on where it stood, or give it another budget. A job that is not paused goes on anyway."""
    service.ledger.jobs.resume(job_id, budget)
    return json_response(service.status(job_id))


@router.delete("/{job_id}", status_code=204)
def delete(job_id: str, service: CurrentService) -> Response:
    """Delete an ended job: its record, its rows and its results. Its output folder stays."""
    service.delete(job_id)
    return Response(status_code=204)


async def _snapshots(job_id: str, feeds: CurrentFeeds, tenant: CurrentTenant) -> AsyncIterator[AsyncIterator[Snapshot]]:
    """A job's feed, followed for as long as the answer is sent; an unknown job is an error before it begins."""
    async with feeds.follow(job_id, tenant) as snapshots:
        yield snapshots


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def follow(
    snapshots: Annotated[AsyncIterator[Snapshot], Depends(_snapshots)],
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """A job's status as server-sent events: one at once, then on every change, the final one last.

    The first is left out when it is the one that `Last-Event-ID` names, and not final.
    """
    async for snapshot in snapshots:
        if snapshot.is_final or snapshot.id != last_event_id:
            yield ServerSentEvent(event="status", id=snapshot.id, raw_data=snapshot.text)
        last_event_id = None
