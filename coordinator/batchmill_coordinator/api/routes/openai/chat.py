"""`/v1/chat/completions`."""

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
from batchmill_coordinator.api.routes.openai.generation import DONE, answer, event, stream
from batchmill_coordinator.api.routes.openai.served import as_invalid_request, target_of
from batchmill_coordinator.api.routes.routing import OpenAiRoute, json_body
from batchmill_coordinator.endpoints.base import Answered
from batchmill_coordinator.endpoints.chat import ChatRequest, chat_completion, chat_head, rows_of_chat
from batchmill_coordinator.endpoints.generated import usage_of
from batchmill_coordinator.endpoints.tools import MessageCall, call_deltas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batchmill_coordinator.api.routes.openai.generation import LaneStream

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAiRoute)

STREAM = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class AnswerMessage(BaseModel):
    """What the model says: text, calls of functions, or both."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[MessageCall] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: None


class ChatCompletion(BaseModel):
    """The answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: STREAM, **OF_LANE, **raises(ModelNotFound)},
)
async def chat(
    context: CurrentContext, request: Request, asked: Annotated[ChatRequest, json_body(ChatRequest)]
) -> Response:
    """Continue a chat with a served model, as OpenAI's API does; with `stream`, as server-sent events."""
    target, _ = await target_of(context, asked.model, "chat")
    with as_invalid_request():
        rows = rows_of_chat(asked)
    about = Answered(secrets.token_hex(12), asked.model, int(time.time()))
    if asked.stream:
        return await stream(request, context, target, rows, lambda opened: _events(opened, chat_head(about), asked))
    body, _ = chat_completion(about, await answer(request, context, target, rows), len(rows))
    return JSONResponse(body, headers=context.lane_headers)


async def _events(opened: LaneStream, head: dict[str, Any], asked: ChatRequest) -> AsyncIterator[bytes]:
    def chunk(place: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": place, "delta": delta, "finish_reason": finish, "logprobs": None}
        usage = {"usage": None} if asked.includes_usage else {}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    for place in range(asked.choices):
        yield chunk(place, {"role": "assistant", "content": "", "refusal": None})
    try:
        async for place, text in opened.pieces():
            yield chunk(place, {"content": text})
    except BatchmillError as error:
        yield event(openai_form(error)[0])
        return
    for place, one in enumerate(opened.generated):
        for call in call_deltas(one.tool_calls):
            yield chunk(place, {"tool_calls": [call]})
        yield chunk(place, {}, one.finish_reason)
    if asked.includes_usage:
        usage = usage_of(opened.generated, asked.choices).body()
        yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield DONE
