"""`/v1/chat/completions`: the messages are a row; its result has the text of the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, Field

from batchmill_coordinator.endpoints.base import BodyFault, Rows, parsed, refuse
from batchmill_coordinator.endpoints.generated import (
    OPTIONS,
    Generated,
    MaxTokens,
    ModelName,
    ResponseFormat,
    SamplingFields,
    usage_of,
)
from batchmill_coordinator.endpoints.tools import MAX_TOOLS, MessageCall, ToolChoice, ToolList, tool_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered, Usage

MESSAGES = "messages"
ROLES = {"developer": "system", "function": ""}


class ContentPart(BaseModel):
    """A part of a message; only text is supported."""

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    tool_calls: Annotated[list[MessageCall] | None, Field(max_length=MAX_TOOLS)] = None
    tool_call_id: Annotated[str | None, Field(max_length=256)] = None


class ChatRequest(SamplingFields):
    """A chat to continue. Fields that it does not name are ignored."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: MaxTokens = None
    response_format: ResponseFormat | None = None
    tools: ToolList = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    audio: dict[str, Any] | None = None
    modalities: list[str] | None = None


class ChatCompletions:
    """Gives an operator the columns `messages`, a list of {role, content}, and `options`; reads its column `text`."""

    url = "/v1/chat/completions"
    kind: ModelKind | None = "chat"
    row_params: Mapping[str, Any] = {MESSAGES: MESSAGES, OPTIONS: OPTIONS}

    def check(self, model: ServedModel) -> None:
        """See `Endpoint`. A model with a prompt of its own has no room for messages."""
        if "prompt" in model.params:
            raise BodyFault("the model has a prompt of its own, and takes no messages.", "model")

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        return Rows(tuple(rows_of_chat(parsed(body, ChatRequest))))

    def row_schema(self, model: ServedModel | None) -> pa.Schema:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        fields = ("role", "content", "tool_calls", "tool_call_id")
        message = pa.struct({name: pa.string() for name in fields})
        return pa.schema({MESSAGES: pa.list_(message), OPTIONS: pa.string()})

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        return chat_completion(about, [Generated.of(row) for row in results], len(results))


def chat_head(about: Answered) -> dict[str, Any]:
    """Return what an answer and each piece of it begin with."""
    return {"id": f"chatcmpl-{about.id}", "created": about.created_at, "model": about.model}


def chat_completion(about: Answered, generated: Sequence[Generated], choices: int = 1) -> tuple[dict[str, Any], Usage]:
    """Make the body of an answer. choices: how many rows have the same messages."""
    usage = usage_of(generated, choices)
    made = [
        {
            "index": place,
            "message": chat_message(one),
            "logprobs": None,
            "finish_reason": one.finish_reason,
        }
        for place, one in enumerate(generated)
    ]
    return {**chat_head(about), "object": "chat.completion", "choices": made, "usage": usage.body()}, usage


def chat_message(one: Generated) -> dict[str, Any]:
    """Return the message of an answer: text, calls of functions, or both."""
    calls = {"tool_calls": list(one.tool_calls)} if one.tool_calls else {}
    return {"role": "assistant", "content": one.text or (None if calls else ""), "refusal": None, **calls}


def rows_of_chat(asked: ChatRequest) -> list[dict[str, Any]]:
    """Return the rows of a request: one for each choice. Raises `BodyFault` for what is not supported."""
    asked.refuse_unsupported("functions", "logprobs", "audio")
    if asked.modalities and asked.modalities != ["text"]:
        raise refuse("modalities", "other than text are not supported")
    asked = asked.model_copy(update={"max_tokens": asked.max_completion_tokens or asked.max_tokens})
    messages = [_message(place, message) for place, message in enumerate(asked.messages)]
    schema = asked.response_format.schema_of() if asked.response_format else None
    tools = tool_options(asked.tools, asked.tool_choice)
    if tools and schema is not None:
        raise refuse("response_format", "other than text is not supported together with tools")
    if tools and asked.parallel_tool_calls is False and tools["tool_choice"] == "auto":
        raise refuse("parallel_tool_calls", "is false, which is supported only if 'tool_choice' makes it a call")
    return [{"messages": messages, "options": asked.options(schema, place, tools)} for place in range(asked.choices)]


def _message(place: int, message: ChatMessage) -> dict[str, str]:
    role = ROLES.get(message.role, message.role)
    if not role:
        raise refuse(f"messages.{place}.role", f"is {message.role!r}, and only tools are supported")
    content = message.content
    if isinstance(content, list):
        for part in content:
            if part.type != "text" or part.text is None:
                raise refuse(f"messages.{place}.content", f"has a part of the type {part.type[:40]!r}, not text")
        content = "".join(part.text or "" for part in content)
    made = {"role": role, "content": content or ""}
    if role == "tool":
        made["tool_call_id"] = message.tool_call_id or ""
    elif role == "assistant" and message.tool_calls:
        made["tool_calls"] = json.dumps([call.model_dump() for call in message.tool_calls])
        return made
    if content is None:
        raise refuse(f"messages.{place}.content", "is missing")
    return made
