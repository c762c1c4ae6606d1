"""JSON Schemas that answers have to fit: checked when an operator is made, and held against every answer."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from batchmill.errors import InvalidParams
from batchmill.operators.row_errors import InvalidOutput, OutputTruncated
from batchmill_worker.generation.requirements import missing_extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill_worker.generation.base import Answer

MAX_SHOWN = 200
MAX_REPETITIONS = 10_000
"""Of what a pattern repeats, and of the items of all arrays: engines unroll them, each into a piece of a grammar. A
thousand million take more memory than a machine has, and no other row continues meanwhile."""
MAX_DEPTH = 100
_COUNTS = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_ITEMS = ("minItems", "maxItems")
_COMBINED = ("allOf", "anyOf", "oneOf")


class AnswerSchema:
    """The schema of an operator's answers. retryable: whether another try can give another answer.

    Raises `InvalidParams` for what is no JSON Schema, and for one that takes long to prepare.
    """

    def __init__(self, operator: str, schema: Mapping[str, Any], *, retryable: bool) -> None:
        try:
            from jsonschema import Draft202012Validator, SchemaError
            from jsonschema.validators import validator_for
            from referencing import Registry

            from batchmill_worker.generation.bounded_validator import EndlessCheckError, bounded
        except ImportError as error:
            raise missing_extra(operator, error) from error
        _check_size(operator, schema)  # before its patterns are compiled
        self.text = json.dumps(schema)
        self._retryable = retryable
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(dict(schema))
        except SchemaError as error:
            raise InvalidParams(
                f"operator {operator!r}: 'schema' is no JSON Schema: {error.message[:MAX_SHOWN]}.",
                operator=operator,
                parameter="schema",
            ) from error
        foreign = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
        if foreign is not None:
            raise InvalidParams(
                f"operator {operator!r}: 'schema' refers to {foreign!r}, expected references within it (#/…).",
                hint="Put what it refers to under $defs.",
                operator=operator,
                parameter="schema",
            )
        kind, self._begin = bounded(kind)
        self._endless = EndlessCheckError
        self._validator = kind(schema, registry=Registry())  # which fetches nothing

    def check(self, answer: Answer) -> None:
        """Raise `OutputTruncated` or `InvalidOutput` for an answer that does not fit."""
        if answer.finish_reason == "length":
            raise OutputTruncated(
                f"the answer was cut after {answer.generated_tokens} tokens, before its JSON was complete: raise "
                "'max_tokens'",
                retryable=self._retryable,
            )
        try:
            value = json.loads(answer.text)
        except ValueError as error:
            raise InvalidOutput(
                f"the answer is no JSON: {error}: {_shown(answer.text)}", retryable=self._retryable
            ) from error
        self._begin()
        try:
            fault = next(iter(self._validator.iter_errors(value)), None)
        except (self._endless, RecursionError) as error:  # RecursionError: a schema that is a part of itself
            why = "it refers to itself without end" if isinstance(error, RecursionError) else str(error)
            raise InvalidOutput(
                f"the answer cannot be held against the schema: {_shown(why)}. Make the schema simpler",
                retryable=self._retryable,
            ) from error
        if fault is not None:
            raise InvalidOutput(
                f"the answer does not fit the schema at {fault.json_path}: {_shown(fault.message)}",
                retryable=self._retryable,
            )


def _references(schema: Any) -> Iterator[str]:
    """Yield the references in a schema; nested data, which has none, may look like one."""
    if isinstance(schema, dict):
        yield from (schema[name] for name in ("$ref", "$dynamicRef") if isinstance(schema.get(name), str))
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _check_size(operator: str, schema: Mapping[str, Any]) -> None:
    if _is_too_deep(schema):
        raise InvalidParams(
            f"operator {operator!r}: the schema is nested deeper than {MAX_DEPTH} levels.",
            operator=operator,
            parameter="schema",
        )
    fault = None
    for pattern in _patterns(schema):
        counts = [_number(most or least) for least, most in _COUNTS.findall(pattern)]
        if math.prod(max(count, 1) for count in counts) > MAX_REPETITIONS:
            fault = f"a pattern of the schema repeats what it repeats more than {MAX_REPETITIONS:,} times"
    if sum(_item_counts(schema)) > MAX_REPETITIONS:
        names = " and ".join(repr(name) for name in _ITEMS)
        fault = f"{names} of all arrays of the schema come to more than {MAX_REPETITIONS:,}"
    known: dict[int, float] = {}
    if any(_alternatives(part, schema, known) > MAX_REPETITIONS for part in _parts(schema)):
        fault = f"a part of the schema combines itself, or more than {MAX_REPETITIONS:,} parts, by references"
    if fault is not None:
        raise InvalidParams(f"operator {operator!r}: {fault}.", operator=operator, parameter="schema")


def _is_too_deep(schema: Any) -> bool:
    level = [schema]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def _number(digits: str) -> int:
    """Read a count; of a long one it only matters that it is too many."""
    return int(digits[-20:]) if not digits[:-20].strip("0") else MAX_REPETITIONS + 1


def _patterns(schema: Any) -> Iterator[str]:
    """Yield all patterns in a schema, and the names of its properties, some of which are patterns."""
    if isinstance(schema, dict):
        yield from (str(name) for name in schema)
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _patterns(part)


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects in a schema."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _parts(part)


def _alternatives(part: Any, schema: Any, known: dict[int, float]) -> float:
    """Count the parts of a schema that hold for the same value as `part` does; infinite for a part of itself."""
    if not isinstance(part, dict):
        return 1
    if id(part) not in known:
        known[id(part)] = math.inf
        below = [one for name in _COMBINED if isinstance(part.get(name), list) for one in part[name]]
        if isinstance(part.get("$ref"), str):
            below.append(_at(schema, part["$ref"]))
        known[id(part)] = 1 + sum(_alternatives(one, schema, known) for one in below)
    return known[id(part)]


def _at(schema: Any, reference: str) -> Any:
    """Return what a reference within a schema is to; None if that is not there."""
    found = schema
    for step in unquote(reference.removeprefix("#")).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def _item_counts(schema: Any) -> Iterator[float]:
    """Yield for each array in a schema how many items engines unroll."""
    if isinstance(schema, dict):
        yield max((schema[name] for name in _ITEMS if isinstance(schema.get(name), int | float)), default=0)
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _item_counts(part)


def _shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
