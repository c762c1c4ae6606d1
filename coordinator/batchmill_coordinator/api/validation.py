"""What is wrong with a request's body or query, in one sentence about the first fault. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidRequest, did_you_mean
from batchmill.json_values import find_fault
from batchmill_coordinator.endpoints.validation import MAX_SHOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

VALUE_ERROR = "Value error, "
"""What pydantic puts before the message of a validator."""


def explain(first: Mapping[str, Any], model: type[BaseModel] | None = None) -> InvalidRequest:
    """The error for one entry of `ValidationError.errors()`; `model` is what the body was to be."""
    place = [str(part) for part in first["loc"]]
    if place[:1] in (["query"], ["path"], ["header"], ["body"]):
        place = place[1:]
    name = ".".join(place)[:MAX_SHOWN] or "body"
    if first["type"] == "extra_forbidden":
        known = _fields(model, place[:-1])
        return InvalidRequest(
            f"the request has an unknown field {name!r}.", hint=did_you_mean(place[-1][:MAX_SHOWN], known), field=name
        )
    text = str(first["msg"])
    if first["type"] == "value_error" and name == "body":  # from a validator of ours, about several fields together
        return InvalidRequest(f"the request does not fit: {text.removeprefix(VALUE_ERROR)}.", field=name)
    text = text.removeprefix(VALUE_ERROR)
    got = _printable(repr(first.get("input")))
    return InvalidRequest(f"field {name!r}: {text[:1].lower()}{text[1:]}, got {got[:MAX_SHOWN]}.", field=name)


def no_json(body: bytes, reason: str) -> InvalidRequest:
    """The error for a body that the JSON parser refuses, naming the field where that can be found out."""
    try:
        fault = find_fault(json.loads(body))
    except (ValueError, RecursionError):
        fault = None
    if fault is not None:
        return InvalidRequest(f"field {fault.field!r} {fault.reason}.", hint=fault.hint, field=fault.field)
    where = reason.removeprefix("Invalid JSON: ")
    return InvalidRequest(f"the body is no JSON ({_printable(where)[:200]}).", hint="Send a JSON object.", field="body")


def _fields(model: Any, place: list[str]) -> list[str]:
    """The names that the object at `place` may have, from the model's schema."""
    if model is None:
        return []
    schema = model.model_json_schema()
    nested = schema.get("$defs", {}).values() if place else [schema]
    return sorted({name for kind in nested for name in kind.get("properties", {})})


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
