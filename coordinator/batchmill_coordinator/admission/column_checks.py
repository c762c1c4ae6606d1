"""A job's input against the columns that its operator requires and that the user wants carried."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import RESERVED_PREFIX, reserved_column
from batchmill.columns.lineage import LINEAGE
from batchmill.errors import InvalidRequest, InvalidRows, closest, did_you_mean, nearest_of
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.sink import RESERVED_OPERATORS, STORE_OPERATOR
from batchmill.jobs.stages import FIRST_STAGE, carried_through
from batchmill.operators.named_params import columns_named
from batchmill.sinks import part_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import OperatorInfo


def required_columns(operator: OperatorInfo, params: dict[str, Any]) -> list[str]:
    """The columns every row must have; `"{column}"` is the value of the parameter `column`, its default included."""
    return [column for column, _ in _named(operator.columns, operator, params)]


def _named(columns: list[str], operator: OperatorInfo, params: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return columns that an operator announces, each with the parameter that names it, if one does."""
    properties = operator.params_schema.get("properties", {})
    defaults = {name: about["default"] for name, about in properties.items() if "default" in about}
    values = {**defaults, **params}
    return [(column.format_map(values), _parameter(column)) for column in columns]


def _read(operator: OperatorInfo, stage: StageSpec) -> list[tuple[str, str | None]]:
    """Return the columns that a stage reads: those that rows must have a value in, and others that parameters name."""
    return [
        *_named(operator.columns, operator, stage.params),
        *columns_named(operator.params_schema, stage.params),
    ]


def _parameter(column: str) -> str | None:
    return column[1:-1] if column.startswith("{") and column.endswith("}") else None


def check_columns(operator: OperatorInfo, stage: StageSpec, schema: pa.Schema) -> None:
    """Raise `InvalidRows` when a column is missing altogether; a source of no rows and no columns passes."""
    if not schema.names:
        return
    check_names(schema)
    for column, parameter in _read(operator, stage):
        if column not in schema.names:
            raise InvalidRows(
                f"operator {operator.name!r} requires the column {column!r}, which row 0 and all others lack; "
                f"the columns are: {', '.join(schema.names)}.",
                hint=_hint(column, parameter, schema.names, "--param "),
                column=column,
                row=0,
            )
    for column in stage.carry or []:
        if column not in schema.names:
            raise InvalidRequest(
                f"carry names the column {column!r}, which the input does not have; "
                f"its columns are: {', '.join(schema.names)}.",
                hint=nearest_of(column, schema.names),
                column=column,
            )


def param_flag(stage: StageSpec) -> str:
    """Return what a command line has before `NAME=VALUE` of a parameter of a stage that is not the only one."""
    return "--sink-" if stage.operator.startswith(RESERVED_OPERATORS) else f"--set {stage.title}.params."


def _hint(column: str, parameter: str | None, names: list[str], flag: str) -> str:
    """Suggest the column that was meant; where a parameter names it, how to give that."""
    if parameter is None:
        return nearest_of(column, names)
    meant = next(iter(closest(column, names) or names[: len(names) == 1]), "NAME")
    return f"The parameter {parameter!r} says which column it is: {flag}{parameter}={meant}"


def check_names(schema: pa.Schema) -> None:
    """Raise `InvalidRows` for columns of rows that have Batchmill's own names, or the same name."""
    reserved = reserved_column(schema.names)
    if reserved is not None:
        raise InvalidRows(
            f"the input has a column {reserved!r}: names that begin with {RESERVED_PREFIX!r} are Batchmill's own.",
            hint="Rename the column, or leave it out with `columns`.",
            column=reserved,
        )
    doubled = next((name for name, times in Counter(schema.names).items() if times > 1), None)
    if doubled is not None:
        raise InvalidRows(
            f"the input has several columns {doubled!r}; expected names that differ.",
            hint="Rename all but one of them.",
            column=doubled,
        )


def without_consumed(spec: JobSpec, operator: OperatorInfo, schema: pa.Schema) -> JobSpec:
    """Return the job with the columns that it carries listed, if it says none and its operator consumes some."""
    stage = spec.first
    if stage.carry is not None or stage.gathers or not operator.consumes or not schema.names:
        return spec
    consumed = {column for column, _ in _named(operator.consumes, operator, stage.params)}
    carried = stage.model_copy(update={"carry": [name for name in schema.names if name not in consumed]})
    return spec.model_copy(update={"stages": (carried, *spec.stages[1:])})


def with_gathering(spec: JobSpec, operators: Sequence[OperatorInfo]) -> JobSpec:
    """Return the job with the stages marked whose operators gather, take all rows at once, or keep state.

    Raises `InvalidRequest` if the first one gathers, keeps state, or takes all rows of a stream, which has no end. That
    of a job over the results of another one may.
    """
    does = None if isinstance(spec.source, ResultsSource) else _needs_a_stage_before(operators[FIRST_STAGE], spec)
    if does is not None:
        raise InvalidRequest(
            f"operator {spec.first.operator!r} {does}; it cannot be the first stage.",
            hint="Submit a job of several stages."
            if operators[FIRST_STAGE].gathers
            else "Put a stage before it, if only 'echo'.",
            field="stages",
        )
    stages = tuple(
        stage.model_copy(
            update={
                "gathers": info.gathers,
                "takes_all": stage.takes_all or info.takes_all,
                "keeps_state": info.keeps_state,
            }
        )
        for stage, info in zip(spec.stages, operators, strict=True)
    )
    _refuse_windows_behind_groups(stages)
    return spec.model_copy(update={"stages": stages})


def _refuse_windows_behind_groups(stages: Sequence[StageSpec]) -> None:
    """Raise `InvalidRequest` if a stage keeps state of what a stage with several groups of keys has made.

    The results of a round are not in the order of their times: such a stage would take many of them for late.
    """
    stateful = [stage for stage in stages if stage.keeps_state]
    for before, stage in pairwise(stateful):
        if before.shards_of_round > 1:
            raise InvalidRequest(
                f"stage {stage.title!r} has windows of what stage {before.title!r} has made, which has "
                f"{before.shards_of_round} groups of keys, so that its results are not in the order of their times.",
                hint=f"Leave out 'groups' of stage {before.title!r}.",
                field="stages",
            )


def _needs_a_stage_before(first: OperatorInfo, spec: JobSpec) -> str | None:
    """Return why an operator cannot read the source of a job; None: it can."""
    if first.gathers:
        return "gathers what a stage before it has made of each source row"
    if first.keeps_state:
        return "keeps state of the rows of a stage before it"
    return "takes all rows at once, and a stream has no end" if first.takes_all and spec.stream is not None else None


def check_chain(spec: JobSpec, operators: Sequence[OperatorInfo], schema: pa.Schema) -> None:
    """Raise `InvalidRows` or `InvalidRequest` for a column that a later stage needs and cannot get.

    Columns are known as far as the operators before announce what they make.
    """
    taken = next((name for name in LINEAGE if name in schema.names), None)
    if taken is not None:
        raise InvalidRows(
            f"the input has a column {taken!r}, which the results of a job of several stages get themselves.",
            hint="Rename the column, or leave it out with `columns`.",
            column=taken,
        )
    names = list(schema.names)
    for number, (stage, operator) in enumerate(zip(spec.stages, operators, strict=True)):
        if not names:
            return
        if number != FIRST_STAGE:
            _check_stage(stage, operator, names)
        if stage.operator == STORE_OPERATOR and spec.sink is not None:
            _check_sink(spec.sink, names)
        if operator.makes is None:
            return
        consumed = {column for column, _ in _named(operator.consumes, operator, stage.params)}
        passed = [] if operator.gathers else [name for name in names if name not in consumed]
        carried = passed if stage.carry is None else stage.carry
        names = [*carried, *(name for name in operator.makes if name not in carried)]


def _check_stage(stage: StageSpec, operator: OperatorInfo, names: list[str]) -> None:
    for column, parameter in _read(operator, stage):
        if column not in names:
            raise InvalidRows(
                f"stage {stage.title!r}: operator {operator.name!r} requires the column {column!r}; "
                f"what the stages before it pass on is: {', '.join(names)}.",
                hint=_hint(column, parameter, names, param_flag(stage)),
                column=column,
            )
    for column in stage.carry or []:
        if column not in names:
            raise InvalidRequest(
                f"stage {stage.title!r}: carry names the column {column!r}; what the stages before it pass on is: "
                f"{', '.join(names)}.",
                hint=did_you_mean(column, names),
                column=column,
            )


def _check_sink(sink: SinkSpec, names: list[str]) -> None:
    wanted = [("id", sink.id)] if sink.id else []
    for option, column in [*wanted, *(("columns", column) for column in sink.columns or ())]:
        if column not in names:
            raise InvalidRows(
                f"the sink's {option!r} names the column {column!r}; the rows to be stored have: {', '.join(names)}.",
                hint=did_you_mean(column, names),
                column=column,
            )


def check_output_types(spec: JobSpec, schema: pa.Schema) -> None:
    """Raise `InvalidOutput` for a column that results carry and that the job's output has no form for."""
    if spec.output is None:
        return
    names = carried_through(spec, schema.names)
    part_format(spec.output.format).check(pa.schema([schema.field(name) for name in names]))
