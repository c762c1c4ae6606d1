"""`/v1/responses`, as far as it is stateless: text in, text or calls of functions out."""

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
from batchmill_coordinator.endpoints.tools import (
    MAX_TOOLS,
    CalledFunction,
    FunctionName,
    MessageCall,
    NamedChoice,
    Tool,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ServedModel
    from batchmill_coordinator.endpoints.base import Answered, Usage

TEXTS = ("input_text", "output_text", "text")
UNSUPPORTED = ("previous_response_id", "conversation", "background", "prompt")


class InputItem(BaseModel):
    """One message of the input."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]


class CallItem(CalledFunction):
    """A call of a function, as an earlier answer had it."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]


class CallOutputItem(BaseModel):
    """What a call has returned."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: str


class FunctionTool(BaseModel):
    """A tool; only functions are supported."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class FunctionChoice(BaseModel):
    """The function that is to be called."""

    type: str
    name: str | None = None


Item = InputItem | CallItem | CallOutputItem


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
    input: Annotated[str, Field(min_length=1)] | Annotated[list[Item], Field(min_length=1, max_length=4095)]
    instructions: str | None = None
    max_output_tokens: MaxTokens = None
    temperature: Temperature = None
    top_p: TopP = None
    text: TextOptions | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    tools: Annotated[list[FunctionTool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
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
        "tool_choice": _dumped(asked.tool_choice or ("auto" if asked.tools else "none")),
        "tools": [{"strict": None, **tool.model_dump()} for tool in asked.tools or ()],
        "top_p": asked.top_p,
    }


def _dumped(choice: FunctionChoice | str) -> Any:
    return choice if isinstance(choice, str) else choice.model_dump()


def rows_of_response(asked: ResponsesRequest) -> list[dict[str, Any]]:
    """Return the row of a request. Raises `BodyFault` for what is not supported."""
    for name in UNSUPPORTED:
        if getattr(asked, name):
            raise refuse(name, "is not supported")
    items = [InputItem(role="user", content=asked.input)] if isinstance(asked.input, str) else asked.input
    messages = _messages(items)
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
            tools=_tools(asked.tools),
            tool_choice=_choice(asked.tool_choice),
            parallel_tool_calls=asked.parallel_tool_calls,
        )
    )


def _tools(tools: Sequence[FunctionTool] | None) -> list[Tool] | None:
    """Return tools in the form of chats. Raises `BodyFault`."""
    if tools is None:
        return None
    for place, tool in enumerate(tools):
        if tool.type != "function" or not tool.name:
            raise refuse(f"tools.{place}", f"is of the type {tool.type[:40]!r}, and only functions are supported")
    functions = [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in tools]
    return [parsed(one, Tool) for one in functions]


def _choice(choice: FunctionChoice | str | None) -> Any:
    if not isinstance(choice, FunctionChoice):
        return choice
    return NamedChoice(type=choice.type, function=FunctionName(name=choice.name) if choice.name else None)


def _messages(items: Sequence[Item]) -> list[ChatMessage]:
    """Return the messages of a chat; calls one after the other are those of one message."""
    messages: list[ChatMessage] = []
    for place, item in enumerate(items):
        match item:
            case InputItem():
                messages.append(_message(place, item))
            case CallOutputItem():
                messages.append(ChatMessage(role="tool", content=item.output, tool_call_id=item.call_id))
            case CallItem():
                function = CalledFunction(name=item.name, arguments=item.arguments)
                call = MessageCall(id=item.call_id, function=function)
                if messages and messages[-1].role == "assistant":
                    last = messages.pop()
                    messages.append(last.model_copy(update={"tool_calls": [*(last.tool_calls or ()), call]}))
                else:
                    messages.append(ChatMessage(role="assistant", tool_calls=[call]))
    return messages


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
        text = [text_part(generated.text)]
        output = [self.item(status, text)] if generated.text or not generated.tool_calls else []
        return self.body(status, [*output, *map(self.call_item, generated.tool_calls)], usage, about)

    def item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        """Return its message."""
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def call_item(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call of a function."""
        return {
            "id": f"fc_{call['id'].removeprefix('call_')}",
            "type": "function_call",
            "status": "completed",
            "call_id": call["id"],
            **call["function"],
        }

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
            "truncation": "disabled",
            "usage": usage,
            **about.form,
        }


def text_part(text: str) -> dict[str, Any]:
    """Return the part of a message that is a text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
