"""`/v1/responses`, as far as it is stateless: text in, text out."""

from __future__ import annotations

import itertools
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from batchmill.errors import BatchmillError, ModelNotFound
from batchmill_coordinator.api.openai_errors import openai_form
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.calls import OF_LANE
from batchmill_coordinator.api.routes.context import CurrentContext
from batchmill_coordinator.api.routes.openai.chat import STREAM, ChatMessage, ChatRequest, ContentPart, rows_of_chat
from batchmill_coordinator.api.routes.openai.generation import (
    JsonSchemaFormat,
    MaxTokens,
    ModelName,
    ResponseFormat,
    Temperature,
    TopP,
    answer,
    event,
    stream,
)
from batchmill_coordinator.api.routes.openai.served import refuse, target_of
from batchmill_coordinator.api.routes.routing import OpenAiRoute, json_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from batchmill_coordinator.api.routes.openai.generation import LaneStream
    from batchmill_coordinator.endpoints.generated import Generated

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAiRoute)

TEXTS = ("input_text", "output_text", "text")
UNSUPPORTED = ("tools", "previous_response_id", "conversation", "background", "prompt")


class InputItem(BaseModel):
    """One message of the input."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]


class TextFormat(BaseModel):
    """The form of the answer. schema: of the type `json_schema`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOptions(BaseModel):
    """format: the form of the answer."""

    format: TextFormat = TextFormat()


class ResponsesRequest(BaseModel):
    """What a model is asked. Fields that it does not name are ignored; nothing is stored."""

    model: ModelName
    input: Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: MaxTokens = None
    temperature: Temperature = None
    top_p: TopP = None
    text: TextOptions | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    tools: list[Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None


class ResponseStatus(BaseModel):
    """An answer: `output` has one message."""

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
    rows = _rows(asked)
    written = _Written(asked)
    if asked.stream:
        return await stream(request, context, target, rows, written.events)
    generated = await answer(request, context, target, rows)
    return JSONResponse(written.final(generated[0]), headers=context.lane_headers)


def _rows(asked: ResponsesRequest) -> list[dict[str, Any]]:
    """Return the row of a request. Raises `InvalidRequest` for what is not supported."""
    for name in UNSUPPORTED:
        if getattr(asked, name):
            raise refuse(name, "is not supported")
    items = [InputItem(role="user", content=asked.input)] if isinstance(asked.input, str) else asked.input
    messages = [_message(place, item) for place, item in enumerate(items)]
    if asked.instructions:
        messages.insert(0, ChatMessage(role="system", content=asked.instructions))
    form = asked.text.format if asked.text else TextFormat()
    schema = JsonSchemaFormat(schema=form.json_schema) if form.json_schema else None
    return rows_of_chat(
        ChatRequest(
            model=asked.model,
            messages=messages,
            max_tokens=asked.max_output_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            response_format=ResponseFormat(type=form.type, json_schema=schema),
        )
    )


def _message(place: int, item: InputItem) -> ChatMessage:
    content = item.content
    if isinstance(content, list):
        for part in content:
            if part.type not in TEXTS:
                raise refuse(f"input.{place}.content", f"has a part of the type {part.type[:40]!r}, not text")
        content = "".join(part.text or "" for part in content)
    return ChatMessage(role=item.role, content=content)


class _Written:
    """One answer as it is written out."""

    def __init__(self, asked: ResponsesRequest) -> None:
        self._asked = asked
        self._id = f"resp_{secrets.token_hex(24)}"
        self._item_id = f"msg_{secrets.token_hex(24)}"
        self._created_at = int(time.time())
        self._numbers = itertools.count()

    def final(self, generated: Generated) -> dict[str, Any]:
        """Return the answer."""
        is_cut = generated.finish_reason == "length"
        used = generated.usage
        usage = {
            "input_tokens": used.prompt,
            "input_tokens_details": {"cached_tokens": used.cached},
            "output_tokens": used.generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used.prompt + used.generated,
        }
        status = "incomplete" if is_cut else "completed"
        about = {"reason": "max_output_tokens"} if is_cut else None
        return self._body(status, [self._item(status, [_part(generated.text)])], usage, about)

    async def events(self, opened: LaneStream) -> AsyncIterator[bytes]:
        """Yield the events of a stream."""
        begun = self._body("in_progress", [], None, None)
        place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        yield self._event("response.output_item.added", output_index=0, item=self._item("in_progress", []))
        yield self._event("response.content_part.added", **place, part=_part(""))
        try:
            async for _, text in opened.pieces():
                yield self._event("response.output_text.delta", **place, delta=text, logprobs=[])
        except BatchmillError as error:
            body = openai_form(error)[0]["error"]
            yield self._event("error", code=body["code"], message=body["message"], param=body["param"])
            return
        final = self.final(opened.generated[0])
        part = final["output"][0]["content"][0]
        yield self._event("response.output_text.done", **place, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=0, item=final["output"][0])
        yield self._event(f"response.{final['status']}", response=final)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _body(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None, about: dict[str, str] | None
    ) -> dict[str, Any]:
        asked = self._asked
        form = asked.text.format if asked.text else TextFormat()
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None,
            "incomplete_details": about,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": form.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": usage,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
