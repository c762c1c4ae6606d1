"""The results of a stage as the next one reads them: parts of one type, and of several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import create_autospec

import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchmill.clock import SystemClock
from batchmill.columns import join_what_fits
from batchmill.columns.lineage import without_lineage
from batchmill.jobs.shard import Shard, ShardId, ShardRef, Slice
from batchmill.jobs.stateful.step import StateStep
from batchmill.operators.contract import OperatorDefinition
from batchmill.sources.base import RowReader, RowsRead, bad_values
from batchmill.stage_inputs.state_rows import StateRows
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.engine.state_executor import StateExecutor
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.operators.window import Window
from batchmill_worker.slot.attempt.unusable_rows import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BEYOND = 2**53 + 1  # no floating-point number


def parts(*columns: Any) -> list[pa.Table]:
    return [pa.table({"k": column}) for column in columns]


@pytest.mark.parametrize(
    ("columns", "kept", "kind", "unfit"),
    [
        (([1], [2.5]), [1.0, 2.5], pa.float64(), {}),
        ((["x", None], [1], ["y"]), ["x", None, None, "y"], pa.string(), {2: 1}),
        (([None, None], [1, None], ["2", None], [3]), [None, None, 1, None, None, None, 3], pa.int64(), {4: "2"}),
        (([1, BEYOND, 3], [1.5]), [1.0, None, 3.0, 1.5], pa.float64(), {1: BEYOND}),
        (
            ([1.5], ["x"], [BEYOND, 2, BEYOND]),
            [1.5, None, None, 2.0, None],
            pa.float64(),
            {1: "x", 2: BEYOND, 4: BEYOND},
        ),
        (
            ([{"a": 1}], [{"a": "x"}], [{"b": 1}]),
            [{"a": 1, "b": None}, None, {"a": None, "b": 1}],
            None,
            {1: {"a": "x"}},
        ),
        (([[1]], [5]), [[1], None], pa.list_(pa.int64()), {1: 5}),
    ],
)
def test_the_first_part_decides_which_type_a_column_has(
    columns: tuple[list[Any], ...], kept: list[Any], kind: pa.DataType | None, unfit: dict[int, Any]
) -> None:
    table, found = join_what_fits(parts(*columns))
    assert table["k"].to_pylist() == kept
    assert kind is None or table["k"].type == kind
    assert {one.place: one.value for one in found} == unfit


def test_columns_that_a_part_lacks_are_null() -> None:
    table, unfit = join_what_fits([pa.table({"a": [1], "b": ["x"]}), pa.table({"b": [2], "c": [3]})])
    assert table.to_pylist() == [{"a": 1, "b": "x", "c": None}, {"a": None, "b": None, "c": 3}]
    assert [tuple(one) for one in unfit] == [
        (1, "b", pa.int64(), 2, "column 'b': expected string, as in other rows of the shard, got int64 2")
    ]
    assert join_what_fits([])[0].num_columns == 0


def test_a_value_that_json_lacks_is_in_the_letter_of_its_row_all_the_same() -> None:
    """Null is what the row itself has in its place: it would be taken for a row that can be run as it is."""
    _, unfit = join_what_fits(parts(["x"], [float("nan")]))
    (row,) = bad_values(unfit)
    read = RowsRead(pa.table({"k": [None]}), (replace(row, place=0),))
    shown = unusable_rows(
        Shard("job-1", 1, ShardId((0,)), 0, 1, (), token=1), read, [], "dead", create_autospec(RowReader)
    )
    assert [one.row for one in shown.dead] == [{"k": "nan"}]


class Parts:
    """Stands for the results of a stage: two parts, whatever slices are asked for."""

    def tables(self, slices: Sequence[Slice]) -> list[pa.Table]:  # noqa: ARG002  # it has two
        return [pa.table({"source_row": [0, 1], "k": [1, 2]}), pa.table({"source_row": [2, 3], "k": ["x", None]})]


def test_a_row_that_fails_in_a_stage_that_keeps_state_has_its_value(tmp_path: Path) -> None:
    step = StateStep(is_last=True)
    found = StateRows(Parts()).read_with_faults((Slice(0, 0, 4, 4), step.slice()))  # type: ignore[arg-type]
    assert found.table["k"].to_pylist() == [1, 2, None, None, None]
    assert found.bad == ()
    made: Any = Window(by="k", count=10)
    window = ReadyOperator(OperatorDefinition("window", lambda: made, BaseModel), made)
    task = ShardTask(ref=ShardRef("job-1", 1, ShardId((0,)), 1), step=step, unfit=found.unfit)
    executor = StateExecutor(BlobStore.open(str(tmp_path), Locations(UNRESTRICTED)), SystemClock())
    result = executor.run(window, without_lineage(found.table), task)
    assert [(one.index, one.failure.error_type, one.row) for one in result.dead] == [(2, "bad_value", {"k": "x"})]
    assert result.table["k"].to_pylist() == [1, 2, None]
