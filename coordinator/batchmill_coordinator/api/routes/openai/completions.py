"""`/v1/completions`."""

from __future__ import annotations

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
from batchmill_coordinator.api.routes.openai.chat import STREAM, Usage
from batchmill_coordinator.api.routes.openai.generation import DONE, answer, event, stream
from batchmill_coordinator.api.routes.openai.served import as_invalid_request, target_of
from batchmill_coordinator.api.routes.routing import OpenAiRoute, json_body
from batchmill_coordinator.endpoints.base import Answered
from batchmill_coordinator.endpoints.completions import (
    CompletionRequest,
    rows_of_completion,
    text_choice,
    text_completion,
    text_head,
)
from batchmill_coordinator.endpoints.generated import usage_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batchmill_coordinator.api.routes.openai.generation import LaneStream

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAiRoute)


class CompletionChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    finish_reason: str
    logprobs: None


class Completion(BaseModel):
    """The continuations of texts, those of one text next to each other."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


@router.post("/completions", response_model=Completion, responses={200: STREAM, **OF_LANE, **raises(ModelNotFound)})
async def complete(
    context: CurrentContext, request: Request, asked: Annotated[CompletionRequest, json_body(CompletionRequest)]
) -> Response:
    """Continue texts with a served model, as OpenAI's API does; with `stream`, as server-sent events."""
    target, _ = await target_of(context, asked.model, "completions")
    with as_invalid_request():
        rows = rows_of_completion(asked)
    about = Answered(secrets.token_hex(12), asked.model, int(time.time()))
    if asked.stream:
        return await stream(request, context, target, rows, lambda opened: _events(opened, text_head(about), asked))
    body, _ = text_completion(about, await answer(request, context, target, rows), asked.choices)
    return JSONResponse(body, headers=context.lane_headers)


async def _events(opened: LaneStream, head: dict[str, Any], asked: CompletionRequest) -> AsyncIterator[bytes]:
    usage = {"usage": None} if asked.includes_usage else {}
    try:
        async for place, text in opened.pieces():
            yield event({**head, "choices": [text_choice(place, text, None)], **usage})
    except BatchmillError as error:
        yield event(openai_form(error)[0])
        return
    for place, one in enumerate(opened.generated):
        yield event({**head, "choices": [text_choice(place, "", one.finish_reason)], **usage})
    if asked.includes_usage:
        yield event({**head, "choices": [], "usage": usage_of(opened.generated, asked.choices).body()})
    yield DONE
