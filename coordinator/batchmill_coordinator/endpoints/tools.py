"""Functions that a chat's model may call: how a request names them, and how answers show the calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from batchmill_coordinator.endpoints.base import BodyFault, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TOOLS = 128
MAX_TOOL_CHARS = 256 * 1024
CHOICES = ("none", "auto", "required")
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


class Function(BaseModel):
    """A function. parameters: the JSON Schema of its arguments."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool; only functions are supported."""

    type: str
    function: Function | None = None


class CalledFunction(BaseModel):
    """The name of a function, and its arguments: JSON text of an object."""

    name: Annotated[str, Field(pattern=NAME)]
    arguments: str


class MessageCall(BaseModel):
    """A call in a message of the assistant."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction


class FunctionName(BaseModel):
    """The name of a function."""

    name: str


class NamedChoice(BaseModel):
    """The function that is to be called."""

    type: str
    function: FunctionName | None = None


ToolList = Annotated[list[Tool] | None, Field(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedChoice | None


def tool_options(tools: Sequence[Tool] | None, choice: ToolChoice) -> dict[str, Any]:
    """Return the options of a row whose model may call functions. Raises `BodyFault`."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise BodyFault("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice", "invalid_value")
        return {}
    written: list[dict[str, Any]] = []
    for place, tool in enumerate(tools):
        if tool.type != "function" or tool.function is None:
            raise refuse(f"tools.{place}", f"is of the type {tool.type[:40]!r}, and only functions are supported")
        if tool.function.name in CHOICES:
            raise refuse(f"tools.{place}.function.name", f"is {tool.function.name!r}, a value of tool_choice")
        written.append({"type": "function", "function": tool.function.model_dump(exclude_none=True)})
    if len(json.dumps(written)) > MAX_TOOL_CHARS:
        raise refuse("tools", f"have more than {MAX_TOOL_CHARS} characters")
    return {"tools": written, "tool_choice": _name_of(choice, {one["function"]["name"] for one in written})}


def _name_of(choice: ToolChoice, names: set[str]) -> str:
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    if choice.type != "function" or choice.function is None:
        raise refuse("tool_choice", f"is of the type {choice.type[:40]!r}")
    if choice.function.name not in names:
        raise BodyFault(
            f"Tool choice {choice.function.name[:64]!r} not found in 'tools' parameter.", "tool_choice", "invalid_value"
        )
    return choice.function.name


def call_deltas(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls of an answer as pieces of a stream have them: each with its index."""
    return [{"index": place, **call} for place, call in enumerate(calls)]
