"""Dead letters over HTTP: the rows that a job gave up on, and why; run again, or purged."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from batchmill.dead_letters import DeadLetter
from batchmill.job import JobStatus
from batchmill.ledger import JobRecord
from batchmill.replay import MAX_CHOSEN, ReplayRequest
from batchmill.shard import format_shard_id
from batchmill.stages import last_stage
from batchmill_coordinator.api.routes.context import CurrentService, CurrentTenant, json_response
from batchmill_coordinator.results.dead_rows import DeadRowFilter
from batchmill_coordinator.results.pages import parse_cursor
from batchmill_coordinator.service import Service

router = APIRouter(prefix="/v1/jobs", tags=["dead letters"])


class DeadLetterPage(BaseModel):
    """Some of a job's dead letters, in input order, and how many rows died of which error in all.

    `next` goes into `cursor` for the page after this one; null behind the last.
    """

    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next: str | None


class Purged(BaseModel):
    """How many dead letters were deleted."""

    purged: int


@router.get("/{job_id}/dead-letters", response_model=DeadLetterPage)
def dead_letters(
    job_id: str, service: CurrentService, cursor: str = "", limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> Response:
    """The rows that a job gave up on so far; a page takes whole shards until it has about `limit` letters."""
    record = service.ledger.jobs.read(job_id)
    letters, following = _collect(service, record, cursor, limit)
    counts = service.ledger.jobs.dead_counts(job_id)
    return json_response(DeadLetterPage(dead_letters=letters, counts=counts, next=following))


@router.post("/{job_id}/replay", status_code=201, response_model=JobStatus)
def replay(job_id: str, request: ReplayRequest, service: CurrentService, tenant: CurrentTenant) -> Response:
    """Run dead rows of an ended job again, as a job of their own; its results go into their places in the first one's.

    Answers 200 instead of 201 when the idempotency key is known.
    """
    replay_id, is_new = service.replays.begin(job_id, request, tenant)
    if is_new:
        service.metrics.roles.submitted(service.ledger.jobs.read(replay_id).spec)
    return json_response(service.status(replay_id), 201 if is_new else 200)


@router.delete("/{job_id}/dead-letters", response_model=Purged)
def purge(
    job_id: str,
    service: CurrentService,
    index: Annotated[list[int] | None, Query(max_length=MAX_CHOSEN)] = None,
    error_type: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """Delete dead letters of an ended job with their rows: all, those of an `index`, those of an `error_type`."""
    return json_response(Purged(purged=service.purge(job_id, DeadRowFilter(index, error_type))))


def _collect(service: Service, record: JobRecord, cursor: str, limit: int) -> tuple[list[DeadLetter], str | None]:
    letters: list[DeadLetter] = []
    stage = last_stage(record.spec)
    for shard in service.dead_rows.shards(record, stage, parse_cursor(cursor)):
        if len(letters) >= limit:
            return letters, format_shard_id(shard.shard_id)
        letters += service.dead_rows.read(record.id, stage, shard).letters
    return letters, None
