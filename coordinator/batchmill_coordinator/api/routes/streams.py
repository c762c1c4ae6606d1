"""Streams over HTTP: rows from anywhere, for jobs without an end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from batchmill.errors import NotFound
from batchmill.jobs.streams.pushing import Pushed, PushedStream, PushRequest
from batchmill.jobs.streams.source import PUSH_PATTERN
from batchmill_coordinator.api.openapi import Responses, raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, heavy, json_body

KNOWN: Responses = {200: {"model": Pushed, "description": "The producer had sent the rows before."}}

router = APIRouter(prefix="/v1/streams", tags=["streams"], route_class=ApiRoute)

StreamInPath = Annotated[str, Path(pattern=PUSH_PATTERN)]


class StreamList(BaseModel):
    """The streams of a tenant, by name."""

    streams: list[PushedStream]


@router.get("", response_model=StreamList)
def list_streams(context: CurrentContext) -> Response:
    """List the streams to which rows were sent."""
    return json_response(StreamList(streams=context.pushes.streams(context.access.tenant)))


@router.post("/{name}", status_code=201, response_model=Pushed, responses={**KNOWN, **BODIES})
@heavy
def push(
    context: CurrentContext, name: StreamInPath, request: Annotated[PushRequest, json_body(PushRequest)]
) -> Response:
    """Send rows to a stream. Answers 200 instead of 201 when the producer had sent them before."""
    pushed = context.pushes.push(context.access.tenant, name, request)
    return json_response(pushed, 200 if pushed.known else 201)


@router.delete("/{name}", status_code=204, responses=raises(NotFound))
@heavy
def delete(context: CurrentContext, name: StreamInPath) -> Response:
    """Delete a stream with the rows that are not settled."""
    context.pushes.delete(context.access.tenant, name)
    return Response(status_code=204)
