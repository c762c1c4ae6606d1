"""A job's input against the columns that its operator requires and that the user wants carried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import RESERVED_PREFIX, reserved_column
from batchmill.columns.lineage import LINEAGE
from batchmill.errors import InvalidRequest, InvalidRows, closest, did_you_mean
from batchmill.jobs.stages import carried_through
from batchmill.sinks import part_format

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.operators.contract import OperatorInfo


def required_columns(operator: OperatorInfo, params: dict[str, Any]) -> list[str]:
    """The columns every row must have; `"{column}"` is the value of the parameter `column`, its default included."""
    return [column for column, _ in _required(operator, params)]


def _required(operator: OperatorInfo, params: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the required columns, each with the parameter that names it, if one does."""
    properties = operator.params_schema.get("properties", {})
    defaults = {name: about["default"] for name, about in properties.items() if "default" in about}
    values = {**defaults, **params}
    return [(column.format_map(values), _parameter(column)) for column in operator.columns]


def _parameter(column: str) -> str | None:
    return column[1:-1] if column.startswith("{") and column.endswith("}") else None


def check_columns(operator: OperatorInfo, stage: StageSpec, schema: pa.Schema) -> None:
    """Raise `InvalidRows` when a column is missing altogether; a source of no rows and no columns passes."""
    if not schema.names:
        return
    _check_names(schema)
    for column, parameter in _required(operator, stage.params):
        if column not in schema.names:
            raise InvalidRows(
                f"operator {operator.name!r} requires the column {column!r}, which row 0 and all others lack; "
                f"the columns are: {', '.join(schema.names)}.",
                hint=_hint(column, parameter, schema.names),
                column=column,
                row=0,
            )
    for column in stage.carry or []:
        if column not in schema.names:
            raise InvalidRequest(
                f"carry names the column {column!r}, which the input does not have; "
                f"its columns are: {', '.join(schema.names)}.",
                hint=did_you_mean(column, schema.names),
                column=column,
            )


def _hint(column: str, parameter: str | None, names: list[str]) -> str:
    """Suggest the column that was meant; where a parameter names it, how to give that."""
    if parameter is None:
        return did_you_mean(column, names)
    meant = next(iter(closest(column, names) or names[: len(names) == 1]), "NAME")
    return f"The parameter {parameter!r} says which column it is: --param {parameter}={meant}"


def _check_names(schema: pa.Schema) -> None:
    reserved = reserved_column(schema.names)
    if reserved is not None:
        raise InvalidRows(
            f"the input has a column {reserved!r}: names that begin with {RESERVED_PREFIX!r} are Batchmill's own.",
            hint="Rename the column, or leave it out with `columns`.",
            column=reserved,
        )


def check_output_types(spec: JobSpec, schema: pa.Schema) -> None:
    """Raise `InvalidOutput` for a column that results carry and that the job's output has no form for."""
    if spec.output is None:
        return
    names = carried_through(spec, schema.names)
    part_format(spec.output.format).check(pa.schema([schema.field(name) for name in names]))


def check_lineage(schema: pa.Schema) -> None:
    """Raise `InvalidRows` for a column of a chain's source that is called as one of the results' lineage."""
    taken = next((name for name in LINEAGE if name in schema.names), None)
    if taken is not None:
        raise InvalidRows(
            f"the input has a column {taken!r}, which the results of a job of several stages get themselves.",
            hint="Rename the column, or leave it out with `columns`.",
            column=taken,
        )
