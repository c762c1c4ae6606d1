"""A job's log over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from batchmill.errors import NotFound
from batchmill.jobs.job_log import LogCursor, LogLevel, LogPage
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute

router = APIRouter(prefix="/v1/jobs", tags=["log"], route_class=ApiRoute)

CURSOR = r"^([0-9]{1,15}(-[0-9]{1,12})?)?$"


@router.get("/{job_id}/log", response_model=LogPage, responses=raises(NotFound))
def job_log(
    context: CurrentContext,
    job_id: str,
    cursor: Annotated[str, Query(pattern=CURSOR)] = "",
    level: LogLevel = LogLevel.INFO,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """List what went wrong with a job, what followed, and when its state changed; the oldest first.

    `cursor` takes the `next` of the page before.
    """
    return json_response(context.log(job_id, LogCursor.parse(cursor or "0"), level, limit))
