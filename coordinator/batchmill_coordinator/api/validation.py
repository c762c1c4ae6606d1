"""What is wrong with a request's body or query, in one sentence about the first fault. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidRequest, did_you_mean
from batchmill.json_values import find_fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

MAX_SHOWN = 80
_FIELD = re.compile(r"(?!(?:str|int|float|bool|bytes|none)$)[a-z_][a-z0-9_]*")
"""Of a place the name of a field, and not of a kind: `int`, `list[int]`, `constrained-str`."""


def first_fault(errors: Sequence[ErrorDetails]) -> Mapping[str, Any]:
    """Choose the entry of `ValidationError.errors()` to explain.

    A value that may be of several kinds has an entry for each of them, whose place names the kind. The one whose
    kind fits, or that got furthest, is what was meant, and its place is shown without the kind.
    """
    first = errors[0]
    same = [one for one in errors if one["loc"][:1] == first["loc"][:1]]
    if len(same) == 1:
        return first
    meant = max(same, key=lambda one: (not one["type"].endswith(("_type", "_parsing")), len(one["loc"])))
    place = [part for part in meant["loc"] if isinstance(part, int) or _FIELD.fullmatch(part)]
    return {**meant, "loc": tuple(place)}


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
