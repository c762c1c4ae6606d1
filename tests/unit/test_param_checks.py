"""What a user reads when a parameter does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from batchmill.errors import InvalidParams
from batchmill.operators.contract import OperatorInfo
from batchmill_coordinator.admission.param_checks import check_params


def operator(schema: dict[str, Any]) -> OperatorInfo:
    return OperatorInfo(
        name="op",
        version="1",
        params_schema={"type": "object", "properties": {"x": schema}},
    )


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"minimum": 1}, 0, "at least 1"),
        ({"maximum": 1}, 2, "at most 1"),
        ({"exclusiveMinimum": 1}, 1, "more than 1"),
        ({"exclusiveMaximum": 1}, 1, "less than 1"),
        ({"minLength": 1}, "", "a length of at least 1"),
        ({"maxLength": 1}, "ab", "a length of at most 1"),
        ({"minItems": 1}, [], "a number of items of at least 1"),
        ({"maxItems": 1}, [1, 2], "a number of items of at most 1"),
        ({"uniqueItems": True}, [1, 1], "items that differ"),
        ({"multipleOf": 2}, 3, "a multiple of 2"),
        ({"pattern": "a+"}, "b", r"a text that matches a\+"),
        ({"const": "a"}, "b", "the value a"),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "no fields but 'a'"),
        ({"required": ["a"]}, {}, "the fields 'a'"),
        ({"enum": ["a", "b"]}, "c", "one of 'a', 'b'"),
        ({"type": "integer"}, "c", "integer"),
    ],
)
def test_every_bound_of_a_parameter_is_said_in_words(schema: dict[str, Any], value: Any, expected: str) -> None:
    with pytest.raises(InvalidParams, match=f"parameter 'x': expected {expected}, "):
        check_params(operator(schema), {"x": value})


def test_a_missing_parameter_is_told_with_the_option_that_gives_it() -> None:
    schema = {"type": "object", "properties": {"model": {}}, "required": ["model"]}
    required = OperatorInfo(name="op", version="1", params_schema=schema)
    with pytest.raises(InvalidParams, match="--param model=…"):
        check_params(required, {})
    with pytest.raises(InvalidParams, match=r"--set embed\.params\.model=…"):
        check_params(required, {}, flag="--set embed.params.")
