"""Functions that a model may call: how its chat template writes a call, and how calls are read from an answer.

1. A chat with a call of a known name is rendered once, when the engine is set up. What the template writes in place of
   the call is `ToolFormat.opening`, then an object with the function's name and its arguments. A template that writes
   something else, or nothing, has no tools here.
2. Where the model may choose, its answer is free, and calls are read from it.
3. Where it has to call, the answer begins behind `opening`, and a schema makes it a call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from batchmill.operators.contract import RowError
from batchmill_worker.generation.base import Draft, Message, Segment, TemplateFailed, ToolCall, ToolFormat, Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchmill_worker.generation.base import Answer, EngineLimits, Generation, Sampling

AUTO, REQUIRED, NONE = "auto", "required", "none"
DEFAULT_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_NAME = "probed_function"
_ARGUMENTS = {"probed_argument": "probed value"}
_DECODER = json.JSONDecoder()


class Function(BaseModel):
    """A function that a model may call. parameters: the JSON Schema of its arguments."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @field_validator("name")
    @classmethod
    def _no_choice(cls, name: str) -> str:
        if name in (AUTO, REQUIRED, NONE):
            raise ValueError(f"{name!r} is a value of tool_choice, so no function can be called so")
        return name

    def value(self) -> dict[str, Any]:
        """Return it as an object."""
        return self.model_dump(exclude_none=True)


class Tool(BaseModel):
    """A tool in OpenAI's form; only functions are known."""

    type: Literal["function"]
    function: Function


@dataclass(frozen=True, slots=True)
class Choice:
    """What a row has chosen of `functions`. parameters: the schema of each function that may be called, by its name."""

    tools: Tools
    parameters: Mapping[str, Mapping[str, Any]]


def choose_tools(tools: Sequence[Tool | Mapping[str, Any]], choice: str) -> Choice | None:
    """Make the tools of a row; None: it has none. Raises `RowError` for a choice that is no function's name."""
    functions = [Tool.model_validate(one).function.value() for one in tools]
    parameters = {one["name"]: one.get("parameters") or DEFAULT_PARAMETERS for one in functions}
    if choice == NONE or not functions:
        return None
    if choice not in (AUTO, REQUIRED):
        if choice not in parameters:
            raise RowError(f"'tool_choice' is {choice!r}, expected {AUTO}, {REQUIRED}, {NONE} or a function's name")
        parameters = {choice: parameters[choice]}
        functions = [one for one in functions if one["name"] == choice]
    written = [{"type": "function", "function": {**one, "parameters": parameters[one["name"]]}} for one in functions]
    return Choice(Tools(json.dumps(written, ensure_ascii=False), choice), parameters)


def with_tools(limits: EngineLimits, draft: Draft, sampling: Sampling, chosen: Choice) -> tuple[Draft, Sampling]:
    """Add tools to what a row asks. Raises `RowError` for an engine that has none, or a row with a schema, too."""
    if not limits.has_tools:
        raise RowError("the engine, or the model's chat template, has no tools")
    if sampling.schema or not draft.is_chat:
        raise RowError("tools are for chats, without a schema")
    form = limits.tool_format
    if form is None or chosen.tools.choice == AUTO:
        return replace(draft, tools=chosen.tools), sampling
    if not limits.has_schemas:
        raise RowError(f"the engine knows no schemas, so 'tool_choice' has to be {AUTO} or {NONE}")
    schema = json.dumps(call_schema(form, chosen.parameters))
    return replace(draft, tools=replace(chosen.tools, opening=form.opening)), replace(sampling, schema=schema)


def call_schema(form: ToolFormat, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a call of one of the functions."""
    definitions: dict[str, Any] = {}
    calls = []
    for name, schema in parameters.items():
        own = _renamed(schema, f"{name}.")
        definitions |= {f"{name}.{key}": value for key, value in own.pop("$defs", {}).items()}
        properties = {form.name_key: {"const": name}, form.arguments_key: own}
        calls.append(
            {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        )
    made = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**made, "$defs": definitions} if definitions else made


def _renamed(schema: Any, prefix: str) -> Any:
    """Return a schema whose references to its own definitions have a prefix."""
    if isinstance(schema, list):
        return [_renamed(one, prefix) for one in schema]
    if not isinstance(schema, dict):
        return schema
    start = "#/$defs/"
    made = {key: _renamed(value, prefix) for key, value in schema.items()}
    ref = made.get("$ref")
    if isinstance(ref, str) and ref.startswith(start):
        made["$ref"] = f"{start}{prefix}{ref.removeprefix(start)}"
    return made


def find_format(fill_template: Callable[[Draft, Sequence[str]], str]) -> ToolFormat | None:
    """Return how a chat template writes calls; None: it does not, or its calls are no JSON. See the module."""
    choice = choose_tools([{"type": "function", "function": {"name": _NAME, "description": _NAME}}], AUTO)
    tools = choice.tools if choice else None
    question = Message("user", (Segment("?"),))
    calls = json.dumps([ToolCall("call_0", _NAME, json.dumps(_ARGUMENTS)).value()])
    answer = (
        Message("assistant", (), tool_calls=calls),
        Message("tool", (Segment("!"),), tool_call_id="call_0"),
    )
    try:
        asked = fill_template(Draft((question,), tools=tools), ["?"])
        answered = fill_template(Draft((question, *answer), tools=tools), ["?", "", "!"])
    except Exception:  # noqa: BLE001  # a template is a program, and refuses what it does not know in its own way
        return None
    if _NAME not in asked or not answered.startswith(asked):
        return None
    written = answered[len(asked) :]
    start = written.rfind("{", 0, max(written.find(_NAME), 0))
    call = _object_at(written, start)[0] if start >= 0 else None
    keys = {json.dumps(value): key for key, value in (call or {}).items()}
    name, arguments = keys.get(json.dumps(_NAME)), keys.get(json.dumps(_ARGUMENTS))
    return ToolFormat(written[:start], name, arguments) if name and arguments else None


def read_calls(form: ToolFormat, generation: Generation, answer: Answer) -> tuple[str, tuple[ToolCall, ...]]:
    """Return the text before the calls of an answer, and the calls. What is no call of a known function is text."""
    tools = generation.prompt.draft.tools
    if tools is None:
        return answer.text, ()
    names = {one["function"]["name"] for one in json.loads(tools.functions)}
    start = 0 if tools.opening else answer.text.find(form.mark)
    if start < 0:
        return answer.text, ()
    found: list[ToolCall] = []
    place = answer.text.find("{", start)
    while place >= 0:
        call, place = _object_at(answer.text, place)
        name, arguments = (call or {}).get(form.name_key), (call or {}).get(form.arguments_key)
        if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
            return answer.text, ()
        found.append(ToolCall(_id(generation, len(found)), name, json.dumps(arguments, ensure_ascii=False)))
        place = answer.text.find("{", place)
    return (answer.text[:start].rstrip(), tuple(found)) if found else (answer.text, ())


def _object_at(text: str, place: int) -> tuple[dict[str, Any] | None, int]:
    """Read the JSON object that begins somewhere in a text; return it, and where it ends."""
    try:
        found, end = _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, len(text)
    return (found if isinstance(found, dict) else None), end


def _id(generation: Generation, place: int) -> str:
    """Make the id of a call: another one in each turn of a chat, whose prompt is longer, and the same if repeated."""
    about = f"{generation.prompt.tokens} {generation.seed} {place}"
    return f"call_{blake2b(about.encode(), digest_size=12).hexdigest()}"


class TextBeforeCalls:
    """The text of an answer as far as it is surely no part of a call, piece by piece."""

    def __init__(self, form: ToolFormat) -> None:
        self._mark = form.mark
        self._text = ""
        self._shown = 0

    def more(self, text: str) -> str:
        """Return the part of the text so far that was not returned yet and that no call can begin in."""
        self._text += text
        end = self._text.find(self._mark)
        if end < 0:
            beginnings = (self._mark[:length] for length in range(len(self._mark), 0, -1))
            held = next((len(one) for one in beginnings if self._text.endswith(one)), 0)
            end = len(self._text) - held
        end = max(len(self._text[:end].rstrip()), self._shown)  # the space before a call is no part of the text
        shown, self._shown = self._text[self._shown : end], end
        return shown


class StreamedTexts:
    """Sends the texts of answers as they come, without the calls in them. send: called with a row and more text."""

    def __init__(self, send: Callable[[int, str], None], form: ToolFormat | None) -> None:
        self._send = send
        self._form = form
        self._before_calls: dict[int, TextBeforeCalls | None] = {}

    def expect(self, row: int, generation: Generation) -> None:
        """Note whether the answer of a row may have calls. To be called before it is begun."""
        tools = generation.prompt.draft.tools
        if tools is not None and self._form is not None:
            self._before_calls[row] = None if tools.opening else TextBeforeCalls(self._form)

    def more(self, row: int, text: str) -> None:
        """Send more text of a row, as far as it is no part of a call."""
        if row in self._before_calls:
            before = self._before_calls[row]
            text = before.more(text) if before is not None else ""
        if text:
            self._send(row, text)


def refuse_control_tokens(draft: Draft, has_control_token: Callable[[str], bool]) -> None:
    """Raise `TemplateFailed` for control tokens in what a template writes as a part of itself."""
    texts = [message.tool_calls for message in draft.messages] + [draft.tools.functions if draft.tools else ""]
    if any(text and has_control_token(text) for text in texts):
        raise TemplateFailed("the tools, or calls of them, contain a control token of the model")
