"""From a row to a draft: prompt templates with columns in braces, and columns of messages."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams, InvalidRows, did_you_mean
from batchmill.operators.contract import RowError
from batchmill_worker.generation.base import Draft, Message, Segment, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROLES = ("system", "user", "assistant", "tool")


class PromptTemplate:
    """Text with columns in braces, `Summarise: {body}`; `{{` and `}}` are braces.

    Raises `InvalidParams` for braces that name no column, or that have a format or an attribute in them.
    """

    def __init__(self, operator: str, parameter: str, template: str) -> None:
        self._operator = operator
        self._parts: list[tuple[str, str | None]] = []
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise self._refusal(parameter, str(error)) from error
        for text, column, form, conversion in parsed:
            if column is not None and (not column or form or conversion):
                raise self._refusal(parameter, "expected the name of a column in braces, and nothing else")
            self._parts.append((text, column))

    def segments(self, row: Mapping[str, Any]) -> tuple[Segment, ...]:
        """Put the values of a row in. Raises `RowError` for a null and `InvalidRows` for a column that is missing."""
        found: list[Segment] = []
        for text, column in self._parts:
            if text:
                found.append(Segment(text))
            if column is not None:
                found.append(Segment(_text(_value(self._operator, row, column), column), is_column=True))
        return tuple(found)

    def _refusal(self, parameter: str, why: str) -> InvalidParams:
        return InvalidParams(
            f"operator {self._operator!r}: {parameter!r} is no template: {why}.",
            hint="Write {column} for the value of a column, and {{ for a brace.",
            operator=self._operator,
            parameter=parameter,
        )


def chat_of_column(operator: str, row: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """Read the messages of a chat from a column: a list of {role, content}, or JSON text of one. Raises `RowError`."""
    value = _value(operator, row, column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"column {column!r} is no JSON: {error}") from error
    if not isinstance(value, list) or not value:
        raise RowError(f"column {column!r}: expected a list of messages, got {_kind(value)}")
    return tuple(_message(column, one) for one in value)


def _message(column: str, one: Any) -> Message:
    role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
    calls = _tool_calls(column, one.get("tool_calls")) if role == "assistant" else ""
    if content is None and calls:
        content = ""
    if role not in ROLES or not isinstance(content, str):
        raise RowError(
            f"column {column!r}: expected messages with a 'role' ({', '.join(ROLES)}) and a 'content' of text"
        )
    segments = (Segment(content, is_column=True),) if content or not calls else ()
    return Message(role, segments, calls, str(one.get("tool_call_id") or "") if role == "tool" else "")


def _tool_calls(column: str, value: Any) -> str:
    """Read the calls of a message: a list in OpenAI's form, or JSON text of one; null: none. Raises `RowError`."""
    if not value:
        return ""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        calls = [ToolCall(str(one["id"]), str(one["function"]["name"]), one["function"]["arguments"]) for one in found]
        if not all(isinstance(json.loads(one.arguments), dict) for one in calls):
            raise ValueError("the arguments are no object")
    except (ValueError, KeyError, TypeError) as error:
        raise RowError(
            f"column {column!r}: expected 'tool_calls' as a list of {{id, function: {{name, arguments}}}}, with JSON "
            f"text of an object as arguments: {error}"
        ) from error
    return json.dumps([one.value() for one in calls], ensure_ascii=False)


def chat(system: Sequence[Segment], user: Sequence[Segment]) -> Draft:
    """Make the draft of a question, behind a system message if there is one."""
    before = (Message("system", tuple(system)),) if system else ()
    return Draft((*before, Message("user", tuple(user))))


def _value(operator: str, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise InvalidRows(
            f"operator {operator!r} reads the column {column!r}, which the rows do not have.",
            hint=did_you_mean(column, row),
            column=column,
        )
    if row[column] is None:
        raise RowError(f"column {column!r} is null, expected text")
    return row[column]


def _text(value: Any, column: str) -> str:
    match value:
        case str():
            return value
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            raise RowError(f"column {column!r}: expected text or a number, got {_kind(value)}")


def _kind(value: Any) -> str:
    return type(value).__name__
