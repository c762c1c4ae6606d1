"""What a user reads when a column is missing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchmill.errors import InvalidRows
from batchmill.jobs.files import FileSource
from batchmill.jobs.job import JobSpec, StageSpec
from batchmill.operators.contract import OperatorInfo
from batchmill_coordinator.admission.column_checks import check_chain, check_columns, check_names, without_consumed


def refused(column: str, *names: str) -> InvalidRows:
    operator = OperatorInfo(
        name="op",
        columns=[column],
        params_schema={"properties": {"column": {"type": "string", "default": "text"}}},
    )
    with pytest.raises(InvalidRows) as caught:
        check_columns(operator, StageSpec(operator="op"), pa.schema([(name, pa.string()) for name in names]))
    return caught.value


@pytest.mark.parametrize(
    ("names", "given"),
    [(["id", "txt"], "--param column=txt"), (["body"], "--param column=body"), (["a", "b"], "--param column=NAME")],
)
def test_the_parameter_that_names_a_missing_column_is_shown_as_it_is_given(names: list[str], given: str) -> None:
    error = refused("{column}", *names)
    assert "requires the column 'text'" in error.message
    assert error.hint == f"The parameter 'column' says which column it is: {given}"


def test_a_column_that_no_parameter_names_has_the_nearest_name_as_its_hint() -> None:
    assert refused("text", "id", "txt").hint == "Did you mean 'txt'?"


@pytest.mark.parametrize(
    ("last", "given"), [("op", "--set second.params.column=NAME"), ("batchmill.store", "--sink-column=NAME")]
)
def test_a_missing_column_of_a_later_stage_is_told_with_the_option_of_that_stage(last: str, given: str) -> None:
    properties = {"column": {"type": "string", "default": "text"}}
    first = OperatorInfo(name="op", makes=["a", "b"], params_schema={})
    second = OperatorInfo(name=last, columns=["{column}"], params_schema={"properties": properties})
    stages = (StageSpec(operator="op", carry=[]), StageSpec(operator=last, name="second"))
    spec = JobSpec(stages=stages, source=FileSource(path="/in"))
    with pytest.raises(InvalidRows, match="stage 'second': ") as caught:
        check_chain(spec, [first, second], pa.schema({"id": pa.int64()}))
    assert caught.value.hint.endswith(given)


@pytest.mark.parametrize(
    ("params", "carry", "expected"),
    [
        ({}, None, ["id", "text"]),
        ({"column": "text"}, None, ["id", "bytes"]),
        ({}, ["bytes"], ["bytes"]),
        ({}, [], []),
    ],
)
def test_a_consumed_column_is_carried_only_if_the_job_names_it(
    params: dict[str, str], carry: list[str] | None, expected: list[str]
) -> None:
    properties = {"column": {"type": "string", "default": "bytes"}}
    operator = OperatorInfo(name="op", consumes=["{column}"], params_schema={"properties": properties})
    schema = pa.schema({"id": pa.int64(), "bytes": pa.binary(), "text": pa.string()})
    stage = StageSpec(operator="op", params=params, carry=carry)
    spec = JobSpec(stages=(stage,), source=FileSource(path="/in"))
    assert without_consumed(spec, operator, schema).first.carry == expected
    nothing = operator.model_copy(update={"consumes": []})
    assert without_consumed(spec, nothing, schema) == spec
    assert without_consumed(spec, operator, pa.schema([])) == spec


def test_columns_of_the_same_name_are_refused() -> None:
    with pytest.raises(InvalidRows, match="several columns 'a'"):
        check_names(pa.schema([("a", pa.int8()), ("b", pa.int8()), ("a", pa.int8())]))
