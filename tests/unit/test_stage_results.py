"""The results of a stage as the next one reads them: parts of one type, and of several."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from batchmill.columns import join_what_fits

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
    table, misfits = join_what_fits(parts(*columns))
    assert table["k"].to_pylist() == kept
    assert kind is None or table["k"].type == kind
    assert {one.place: one.value for one in misfits} == unfit


def test_columns_that_a_part_lacks_are_null() -> None:
    table, misfits = join_what_fits([pa.table({"a": [1], "b": ["x"]}), pa.table({"b": [2], "c": [3]})])
    assert table.to_pylist() == [{"a": 1, "b": "x", "c": None}, {"a": None, "b": None, "c": 3}]
    assert [tuple(one) for one in misfits] == [
        (1, "b", pa.int64(), 2, "column 'b': expected string, as in other rows of the shard, got int64 2")
    ]
    assert join_what_fits([])[0].num_columns == 0
