"""`/v1/responses`, as far as it is stateless: text in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from batchmill_coordinator.endpoints.base import Rows, parsed, refuse
from batchmill_coordinator.endpoints.chat import ChatCompletions, ChatMessage, ChatRequest, ContentPart, rows_of_chat
from batchmill_coordinator.endpoints.generated import (
    Generated,
    JsonSchemaFormat,
    MaxTokens,
    ModelName,
    ResponseFormat,
    Temperature,
    TopP,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ServedModel
    from batchmill_coordinator.endpoints.base import Answered, Usage

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
    input: Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1, max_length=4095)]
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


class Responses(ChatCompletions):
    """Has the rows of a chat."""

    url = "/v1/responses"

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:  # noqa: ARG002  # the same for all
        """See `Endpoint`. What the answer repeats of the request is its form."""
        asked = parsed(body, ResponsesRequest)
        return Rows(tuple(rows_of_response(asked)), form=repeated(asked))

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        generated = Generated.of(results[0])
        return ResponseBodies(about).final(generated), generated.usage


def repeated(asked: ResponsesRequest) -> dict[str, Any]:
    """Return what an answer repeats of its request."""
    form = asked.text.format if asked.text else TextFormat()
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "temperature": asked.temperature,
        "text": {"format": form.model_dump(by_alias=True, exclude_none=True)},
        "top_p": asked.top_p,
    }


def rows_of_response(asked: ResponsesRequest) -> list[dict[str, Any]]:
    """Return the row of a request. Raises `BodyFault` for what is not supported."""
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


class ResponseBodies:
    """One answer as it is written out: begun, and complete. about: its form is what it repeats of the request."""

    def __init__(self, about: Answered) -> None:
        self._about = about
        self.item_id = f"msg_{about.id}"

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
        return self.body(status, [self.item(status, [text_part(generated.text)])], usage, about)

    def item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        """Return its message."""
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def body(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None, details: dict[str, str] | None
    ) -> dict[str, Any]:
        """Return the answer as it is now. details: why it is not complete."""
        about = self._about
        return {
            "id": f"resp_{about.id}",
            "object": "response",
            "created_at": about.created_at,
            "status": status,
            "error": None,
            "incomplete_details": details,
            "model": about.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
            "usage": usage,
            **about.form,
        }


def text_part(text: str) -> dict[str, Any]:
    """Return the part of a message that is a text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
