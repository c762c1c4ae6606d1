"""A job's log over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from batchmill.errors import InvalidRequest
from batchmill.job_log import LogCursor, LogLevel, LogPage
from batchmill_coordinator.api.routes.context import CurrentService, json_response
from batchmill_coordinator.status.job_log_page import page_of

router = APIRouter(prefix="/v1/jobs", tags=["log"])


@router.get("/{job_id}/log", response_model=LogPage)
def job_log(
    job_id: str,
    service: CurrentService,
    cursor: Annotated[str, Query(max_length=64)] = "",
    level: LogLevel = LogLevel.INFO,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """What went wrong with a job, what became of that, and when its state changed; the oldest first."""
    return json_response(page_of(service.ledger.log.read(job_id), _parse(cursor), level, limit))


def _parse(cursor: str) -> LogCursor:
    try:
        return LogCursor.parse(cursor or "0")
    except ValueError:
        raise InvalidRequest(
            f"the cursor {cursor!r} is none of a log's: expected the `next` of the page before.", field="cursor"
        ) from None
