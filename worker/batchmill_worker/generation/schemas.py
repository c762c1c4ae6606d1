"""JSON Schemas that answers have to fit: checked when an operator is made, and held against every answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams
from batchmill.operators.row_errors import InvalidOutput, OutputTruncated
from batchmill_worker.generation.requirements import missing_extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill_worker.generation.base import Answer

MAX_SHOWN = 200


class AnswerSchema:
    """The schema of an operator's answers. retryable: whether another try can give another answer.

    Raises `InvalidParams` for what is no JSON Schema.
    """

    def __init__(self, operator: str, schema: Mapping[str, Any], *, retryable: bool) -> None:
        try:
            from jsonschema import Draft202012Validator, SchemaError
            from jsonschema.validators import validator_for
            from referencing import Registry
        except ImportError as error:
            raise missing_extra(operator, error) from error
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
        for fault in self._validator.iter_errors(value):
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


def _shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
