"""What `/v1/chat/completions` and `/v1/completions` share: options, what is refused, what is generated, and usage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchmill_coordinator.endpoints.base import BodyFault, Usage, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_STOPS = 4
OPTIONS = "options"
"""The column with the options of a row, as JSON text: objects would have other fields in each request."""

NEUTRAL: dict[str, Sequence[Any]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
}
"""Fields that no engine has here, each with the values that ask for nothing."""

_NUMBERS: dict[str, tuple[type | tuple[type, ...], float, float]] = {
    "temperature": ((int, float), 0, 2),
    "top_p": ((int, float), 0, 1),
    "seed": (int, 0, 2**63 - 1),
    "max_tokens": (int, 1, 1_000_000),
    "max_completion_tokens": (int, 1, 1_000_000),
}


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of one row."""

    text: str
    finish_reason: str
    usage: Usage

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Generated:
        """Read a result with the columns of `chat`; of an operator that makes `text` only, the others are as if empty.

        Raises `BodyFault` if there is no text.
        """
        if "text" not in row:
            raise BodyFault("the model's operator makes no column 'text'.", "model")
        return cls(str(row["text"]), row.get("finish_reason") or "stop", Usage.of(row))


def usage_of(generated: Sequence[Generated], choices: int = 1) -> Usage:
    """Return the usage of a request whose prompts were each answered by that many rows."""
    prompts = sum((one.usage for one in generated[::choices]), Usage())
    return Usage(prompts.prompt, prompts.cached, sum(one.usage.generated for one in generated))


def options(body: Mapping[str, Any]) -> str:
    """Return the options of a row that a body sets, as JSON text. Raises `BodyFault`."""
    refuse(body, NEUTRAL)
    found = {name: value for name in _NUMBERS if (value := _number(body, name)) is not None}
    if "max_completion_tokens" in found:
        found["max_tokens"] = found.pop("max_completion_tokens")
    stops = _stops(body.get("stop"))
    schema = _schema(body.get("response_format"))
    found |= {"stop": stops} if stops else {}
    found |= {} if schema is None else {"schema": schema}
    return json.dumps(found)


def _number(body: Mapping[str, Any], name: str) -> Any:
    value = body.get(name)
    kinds, least, most = _NUMBERS[name]
    if value is None:
        return None
    is_number = isinstance(value, int | float) and isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise BodyFault(f"'{name}' must be a number from {least:g} to {most:g}.", name, "invalid_value")
    return value


def _stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise BodyFault(f"'stop' must be a text, or a list of up to {MAX_STOPS} texts.", "stop", "invalid_value")
    return stops


def _schema(given: Any) -> dict[str, Any] | None:
    kind = given.get("type") if isinstance(given, dict) else given
    match kind:
        case None | "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            about = given.get("json_schema")
            schema = about.get("schema") if isinstance(about, dict) else None
            if isinstance(schema, dict):
                return schema
    raise BodyFault(
        "'response_format' must have the type 'text', 'json_object', or 'json_schema' with a schema.",
        "response_format",
        "invalid_value",
    )
