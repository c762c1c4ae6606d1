"""`/v1/responses`, as far as it is stateless: text in, text or calls of functions out."""

from __future__ import annotations

import itertools
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from batchmill.errors import BatchmillError, ModelNotFound
from batchmill_coordinator.api.openai_errors import openai_form
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.calls import OF_LANE
from batchmill_coordinator.api.routes.context import CurrentContext
from batchmill_coordinator.api.routes.openai.chat import STREAM
from batchmill_coordinator.api.routes.openai.generation import answer, event, stream
from batchmill_coordinator.api.routes.openai.served import as_invalid_request, target_of
from batchmill_coordinator.api.routes.routing import OpenAiRoute, json_body
from batchmill_coordinator.endpoints.base import Answered
from batchmill_coordinator.endpoints.responses import (
    ResponseBodies,
    ResponsesRequest,
    repeated,
    rows_of_response,
    text_part,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from batchmill_coordinator.api.routes.openai.generation import LaneStream

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAiRoute)


class ResponseStatus(BaseModel):
    """An answer: `output` has a message, calls of functions, or both."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


@router.post("/responses", response_model=ResponseStatus, responses={200: STREAM, **OF_LANE, **raises(ModelNotFound)})
async def respond(
    context: CurrentContext, request: Request, asked: Annotated[ResponsesRequest, json_body(ResponsesRequest)]
) -> Response:
    """Answer an input with a served model, as OpenAI's API does; with `stream`, as server-sent events."""
    target, _ = await target_of(context, asked.model, "chat")
    with as_invalid_request():
        rows = rows_of_response(asked)
    bodies = ResponseBodies(Answered(secrets.token_hex(24), asked.model, int(time.time()), repeated(asked)))
    if asked.stream:
        return await stream(request, context, target, rows, _Events(bodies).events)
    generated = await answer(request, context, target, rows)
    return JSONResponse(bodies.final(generated[0]), headers=context.lane_headers)


class _Events:
    """The events of one answer."""

    def __init__(self, bodies: ResponseBodies) -> None:
        self._bodies = bodies
        self._numbers = itertools.count()

    async def events(self, opened: LaneStream) -> AsyncIterator[bytes]:
        """Yield the events of a stream. The message is begun with its first text."""
        begun = self._bodies.body("in_progress", [], None, None)
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        is_begun = False
        try:
            async for _, text in opened.pieces():
                for made in () if is_begun else self._message_begins():
                    yield made
                is_begun = True
                yield self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])
        except BatchmillError as error:
            body = openai_form(error)[0]["error"]
            yield self._event("error", code=body["code"], message=body["message"], param=body["param"])
            return
        final = self._bodies.final(opened.generated[0])
        for index, item in enumerate(final["output"]):
            is_message = item["type"] == "message"
            for made in self._message_begins() if is_message and not is_begun else ():
                yield made
            for made in self._message_ends(item) if is_message else self._call(index, item):
                yield made
        yield self._event(f"response.{final['status']}", response=final)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._bodies.item_id, "output_index": 0, "content_index": 0}

    def _message_begins(self) -> Iterator[bytes]:
        yield self._event("response.output_item.added", output_index=0, item=self._bodies.item("in_progress", []))
        yield self._event("response.content_part.added", **self._place, part=text_part(""))

    def _message_ends(self, item: dict[str, Any]) -> Iterator[bytes]:
        part = item["content"][0]
        yield self._event("response.output_text.done", **self._place, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **self._place, part=part)
        yield self._event("response.output_item.done", output_index=0, item=item)

    def _call(self, index: int, item: dict[str, Any]) -> Iterator[bytes]:
        begun = {**item, "status": "in_progress", "arguments": ""}
        place = {"item_id": item["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.function_call_arguments.delta", **place, delta=item["arguments"])
        yield self._event(
            "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
        )
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)
