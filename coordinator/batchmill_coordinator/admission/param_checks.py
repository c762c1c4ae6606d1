"""A job's parameters against what its operator announced. Pure."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from batchmill.errors import InvalidParams, did_you_mean
from batchmill.jobs.job import MAX_PARAMS_BYTES
from batchmill.json_values import find_fault

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

    from batchmill.operators.contract import OperatorInfo


_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "minLength": "a length of at least",
    "maxLength": "a length of at most",
    "minItems": "a number of items of at least",
    "maxItems": "a number of items of at most",
    "minProperties": "a number of fields of at least",
    "maxProperties": "a number of fields of at most",
    "multipleOf": "a multiple of",
    "pattern": "a text that matches",
    "const": "the value",
    "format": "a text of the format",
}


def check_params(operator: OperatorInfo, params: dict[str, Any], *, flag: str = "--param ") -> None:
    """Raise `InvalidParams`, naming the parameter, when `params` do not fit the operator's parameter model.

    flag: what a command line has before `NAME=VALUE` of a parameter, for hints.
    """
    fault = find_fault(params)
    if fault is not None:
        raise InvalidParams(f"the parameter {fault.field!r} {fault.reason}.", hint=fault.hint, parameter=fault.field)
    size = len(json.dumps(params))
    if size > MAX_PARAMS_BYTES:
        raise InvalidParams(
            f"the parameters take {size} bytes as JSON, at most {MAX_PARAMS_BYTES} are allowed.",
            hint="Put large values into a file or a column.",
        )
    _refuse_unknown(operator, params)
    error = best_match(_validator(json.dumps(operator.params_schema, sort_keys=True)).iter_errors(params))
    if error is not None:
        raise _explained(operator, params, error, flag)


def check_cache(operator: OperatorInfo, *, cache: bool) -> None:
    """Raise `InvalidParams` when a job is to use the row cache and its operator's results are no function of a row."""
    if cache and not operator.cacheable:
        raise InvalidParams(
            f"operator {operator.name!r} cannot be cached: its results depend on more than a row and the parameters.",
            hint="Leave out cache=True (--cache), or give this stage of a chain cache=False.",
            operator=operator.name,
        )


def _refuse_unknown(operator: OperatorInfo, params: dict[str, Any]) -> None:
    known = operator.params_schema.get("properties", {})
    for name in params:
        if name not in known:
            hint = did_you_mean(name, known) if known else "It takes no parameters."
            raise InvalidParams(f"operator {operator.name!r} has no parameter {name!r}.", hint=hint, parameter=name)


def _explained(operator: OperatorInfo, params: dict[str, Any], error: ValidationError, flag: str) -> InvalidParams:
    if error.validator == "required" and not error.absolute_path:
        known = operator.params_schema.get("properties", {})
        name = next(name for name in operator.params_schema["required"] if name not in params)
        about = known.get(name, {}).get("description", "").removesuffix(".")
        return InvalidParams(
            f"operator {operator.name!r} needs the parameter {name!r}{f' ({about})' if about else ''}; it is missing.",
            hint=f"Give it: {flag}{name}=…",
            parameter=name,
        )
    name = ".".join(map(str, error.absolute_path))
    expected, got = _expectation(error), _shown(error.instance)
    return InvalidParams(
        f"operator {operator.name!r}: parameter {name!r}: expected {expected}, got {got}.", parameter=name
    )


def _expectation(error: ValidationError) -> str:
    schema = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "enum":
        return f"one of {', '.join(map(repr, schema['enum']))}"
    if error.validator == "anyOf":
        return " or ".join(str(option.get("type", option.get("const", "?"))) for option in schema["anyOf"])
    if error.validator in _BOUNDS:
        return f"{_BOUNDS[str(error.validator)]} {error.validator_value}"
    if error.validator == "type":
        return str(error.validator_value)
    if error.validator == "uniqueItems":
        return "items that differ"
    if error.validator == "additionalProperties":
        return f"no fields but {', '.join(map(repr, schema.get('properties', {})))}"
    if error.validator == "required":
        return f"the fields {', '.join(map(repr, schema['required']))}"
    return f"what its schema says ({error.validator})"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


@lru_cache(maxsize=256)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema))
