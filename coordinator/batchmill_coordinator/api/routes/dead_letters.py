"""Dead letters over HTTP: the failed rows of a job, and why they failed; run again, or purged."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from batchmill.errors import Conflict, NotFound
from batchmill.jobs.dead_letters import DeadLetter
from batchmill.jobs.replay import MAX_PURGED, Index, RedoRequest, ReplayRequest
from batchmill.jobs.status import JobStatus
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.jobs import KNOWN
from batchmill_coordinator.api.routes.results import StageName
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, heavy, json_body
from batchmill_coordinator.results.dead_rows import DeadRowFilter
from batchmill_coordinator.results.pages import STAGE_CURSOR_PATTERN, StagePlace

router = APIRouter(prefix="/v1/jobs", tags=["dead letters"], route_class=ApiRoute)


class DeadLetterPage(BaseModel):
    """Some of a job's dead letters, in input order, and how many rows failed with which error in all.

    `next` goes into `cursor` for the page after this one; null after the last.
    """

    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next: str | None


class Purged(BaseModel):
    """How many dead letters were deleted."""

    purged: int


@router.get("/{job_id}/dead-letters", response_model=DeadLetterPage, responses=raises(NotFound))
def dead_letters(
    context: CurrentContext,
    job_id: str,
    stage: StageName = None,
    cursor: Annotated[str, Query(pattern=STAGE_CURSOR_PATTERN)] = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """List the failed rows of a job so far, of one stage or of all.

    A page takes complete shards until it has about `limit` letters.
    """
    letters, following = context.dead_letters(job_id, stage, StagePlace.parse(cursor), limit)
    page = DeadLetterPage(
        dead_letters=letters,
        counts=context.dead_counts(job_id),
        next=None if following is None else following.write(),
    )
    return json_response(page)


@router.post(
    "/{job_id}/replay",
    status_code=201,
    response_model=JobStatus,
    responses={**KNOWN, **BODIES, **raises(NotFound, Conflict)},
)
@heavy
def replay(
    context: CurrentContext, job_id: str, request: Annotated[ReplayRequest, json_body(ReplayRequest)]
) -> Response:
    """Run failed rows of an ended job again, as a job of their own; its results are merged into the first one's.

    Answers 200 instead of 201 when the idempotency key is known.
    """
    status, is_new = context.replay(job_id, request)
    return json_response(status, 201 if is_new else 200)


@router.post(
    "/{job_id}/redo",
    status_code=201,
    response_model=JobStatus,
    responses={**KNOWN, **BODIES, **raises(NotFound, Conflict)},
)
@heavy
def redo(context: CurrentContext, job_id: str, request: Annotated[RedoRequest, json_body(RedoRequest)]) -> Response:
    """Check the results of an ended job, and compute those that are damaged or missing again, as a job of their own.

    Answers 200 instead of 201 when the idempotency key is known.
    """
    status, is_new = context.redo(job_id, request)
    return json_response(status, 201 if is_new else 200)


@router.delete("/{job_id}/dead-letters", response_model=Purged, responses=raises(NotFound, Conflict))
def purge(
    context: CurrentContext,
    job_id: str,
    index: Annotated[list[Index] | None, Query(max_length=MAX_PURGED)] = None,
    error_type: Annotated[str | None, Query(max_length=256)] = None,
    stage: StageName = None,
) -> Response:
    """Delete dead letters of an ended job with their rows: all, those of an `index`, an `error_type` or a `stage`."""
    return json_response(Purged(purged=context.purge(job_id, DeadRowFilter(index, error_type, stage))))
