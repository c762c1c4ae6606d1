"""Interactive requests to any operator: rows in, results out, nothing stored."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
from fastapi import APIRouter, Request, Response

from batchmill.errors import (
    AnswerTimeout,
    InvalidOperator,
    InvalidRequest,
    ModelNotLoaded,
    OperatorFailed,
    TooManyRequests,
    WorkerLost,
)
from batchmill.jobs.lane import CallRequest
from batchmill.sinks import to_json_lines
from batchmill_coordinator.admission.param_checks import check_params
from batchmill_coordinator.api.openapi import JSON, media, raises
from batchmill_coordinator.api.routes.context import Context, CurrentContext
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, json_body
from batchmill_coordinator.api.routes.waiting import unless_gone
from batchmill_coordinator.lane.target import LaneTarget

router = APIRouter(prefix="/v1", tags=["models"], route_class=ApiRoute)

ARROW = "application/vnd.apache.arrow.stream"
OF_LANE = {
    **BODIES,
    **raises(TooManyRequests, AnswerTimeout),
    **raises(ModelNotLoaded, WorkerLost),
    **raises(OperatorFailed, InvalidOperator),
}
"""What any interactive request may be answered with."""


@router.post("/operators/{name}/call", responses={200: media(JSON, ARROW), **OF_LANE})
async def call(
    context: CurrentContext, request: Request, name: str, asked: Annotated[CallRequest, json_body(CallRequest)]
) -> Response:
    """Have rows answered at once by a worker that has the operator loaded with these parameters.

    Answers `{"results": […]}`, or an Arrow stream if that is accepted. A row that fails is the error of the request.
    """
    accepts_arrow = ARROW in request.headers.get("accept", "")
    results = await unless_gone(request, _results(context, name, asked))
    if accepts_arrow:
        return Response(results, media_type=ARROW)
    return Response(await context.pool.run(_json, results), media_type=JSON)


async def _results(context: Context, name: str, asked: CallRequest) -> bytes:
    operator = await context.operator(name)
    if operator.gathers:
        raise InvalidRequest(
            f"operator {name!r} gathers the results of a stage, so that it cannot be called.", field="name"
        )
    check_params(operator, asked.params)
    target = LaneTarget.of(operator, asked.params, asked.pool)
    async with context.lane_call(target, asked.rows) as call:
        return await call.results()


def _json(results: bytes) -> bytes:
    table = pa.ipc.open_stream(results).read_all()
    return b'{"results":[' + b",".join(to_json_lines(table).splitlines()) + b"]}"
