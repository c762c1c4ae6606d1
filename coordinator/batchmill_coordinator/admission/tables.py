"""Admission of jobs whose operators read tables: what parameters name must be there, and its version is pinned.

Results of other jobs are kept while the job runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchmill.errors import InvalidParams, nearest_of
from batchmill.operators.named_params import NamedResults, NamedTable, results_named, tables_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.operators.contract import OperatorInfo
    from batchmill_coordinator.inspection.inspector import Inspector


class HoldResults(Protocol):
    """Keeps results for the job that is being submitted, and returns their columns. Raises `BatchmillError`."""

    def __call__(self, named: NamedResults) -> list[str]:
        """See the class."""
        ...


def with_pinned_tables(
    spec: JobSpec, operators: Sequence[OperatorInfo], inspector: Inspector, hold: HoldResults
) -> JobSpec:
    """Return the job with the versions of its tables: all of its shards are to read the same rows.

    hold: called for the results of other jobs, which must stay. Raises `InvalidParams` for a table that is not there,
    or lacks a column that a parameter names, and as `hold`.
    """
    stages = tuple(_pinned(stage, info, inspector, hold) for stage, info in zip(spec.stages, operators, strict=True))
    return spec if stages == spec.stages else spec.model_copy(update={"stages": stages})


def _pinned(stage: StageSpec, operator: OperatorInfo, inspector: Inspector, hold: HoldResults) -> StageSpec:
    for table in tables_named(operator.params_schema, stage.params):
        named = results_named(table.path)
        if named is not None:
            _require_no_version(table)
            _require_columns(operator, table, hold(named))
            continue
        facts = inspector.look_up_table(table.path, table.version)
        if facts.columns is not None:
            _require_columns(operator, table, facts.columns)
        if facts.version is not None:
            stage = stage.model_copy(update={"params": {**stage.params, table.version_parameter: facts.version}})
    return stage


def _require_no_version(table: NamedTable) -> None:
    if table.version is not None:
        raise InvalidParams(
            f"{table.version_parameter!r} is given, but results of a job have no versions.",
            parameter=table.version_parameter,
        )


def _require_columns(operator: OperatorInfo, table: NamedTable, known: list[str]) -> None:
    for column, parameter in table.columns:
        if column not in known:
            raise InvalidParams(
                f"operator {operator.name!r}: {parameter!r} names the column {column!r}, which {table.path} does not "
                f"have; its columns are: {', '.join(known)}.",
                hint=nearest_of(column, known),
                parameter=parameter,
                column=column,
            )
