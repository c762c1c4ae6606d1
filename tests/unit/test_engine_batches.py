"""Batches in the operator's own format, and what it returns, checked."""

from __future__ import annotations

import datetime
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchmill.errors import InvalidOperator
from batchmill.operators.contract import BatchFormat, OperatorDefinition, PartialResult, RowError
from batchmill_worker.engine.batches import BatchResult, from_batch, join, to_batch


def definition(batch_format: BatchFormat) -> OperatorDefinition:
    return OperatorDefinition("probe", make=cast("Any", None), params=BaseModel, batch_format=batch_format)


def columns(batch_format: BatchFormat, output: Any, rows: int) -> dict[str, pa.ChunkedArray]:
    return dict(from_batch(definition(batch_format), output, rows).columns)


ROWS = pa.table({"id": [1, 2], "text": ["a", None], "tags": [["x"], []]})


def test_rows_are_dicts_and_arrow_is_the_table_itself() -> None:
    assert to_batch("rows", ROWS) == [
        {"id": 1, "text": "a", "tags": ["x"]},
        {"id": 2, "text": None, "tags": []},
    ]
    assert to_batch("arrow", ROWS) is ROWS


def test_numpy_columns_keep_their_type_shape_and_nulls() -> None:
    table = pa.table(
        {
            "whole": pa.chunked_array([[1], [2]]),
            "large": [2**62 + 1, None],
            "real": [0.5, None],
            "flag": [True, None],
            "text": ["a", None],
            "when": pa.array([datetime.datetime(2024, 1, 2), None], pa.timestamp("us")),  # noqa: DTZ001  # Arrow's
            "label": pa.array(["b", None]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4, 5, 6], pa.float32()), 3),
            "holes": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)),
        }
    )
    batch = to_batch("numpy", table)
    assert batch["whole"].tolist() == [1, 2]
    assert batch["large"].tolist() == [2**62 + 1, None]
    assert batch["real"][0] == 0.5
    assert np.isnan(batch["real"][1])
    assert batch["flag"].tolist() == [True, None]
    assert batch["text"].tolist() == ["a", None]
    assert np.isnat(batch["when"][1])
    assert batch["label"].tolist() == ["b", None]
    assert batch["nothing"].tolist() == [None, None]
    assert batch["vector"].dtype == np.float32
    assert batch["vector"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch["holes"][1] is None


def test_a_vector_column_that_is_sliced_across_chunks_comes_as_its_own_rows() -> None:
    chunk = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4]), 2)
    table = pa.table({"v": pa.chunked_array([chunk, chunk])}).slice(1, 2)
    assert to_batch("numpy", table)["v"].tolist() == [[3, 4], [1, 2]]


def test_results_of_rows_may_differ_in_their_names() -> None:
    made = columns("rows", [{"a": 1}, {"b": "x"}], 2)
    assert {name: column.to_pylist() for name, column in made.items()} == {"a": [1, None], "b": [None, "x"]}


def test_a_row_error_takes_the_place_of_a_result() -> None:
    error = RowError("no text")
    result = from_batch(definition("rows"), [{"a": 1}, error, {"a": 3}], 3)
    assert result.rows == 2
    assert result.errors == {1: error}
    assert result.columns["a"].to_pylist() == [1, 3]


@pytest.mark.parametrize("kind", ["arrow", "numpy"])
def test_a_partial_result_has_an_error_for_each_row_it_leaves_out(kind: BatchFormat) -> None:
    values = {"a": np.array([1, 3])}
    output = PartialResult(pa.table(values) if kind == "arrow" else values, cast("Any", {np.int64(1): RowError("no")}))
    result = from_batch(definition(kind), output, 3)
    assert list(result.errors) == [1]
    assert result.columns["a"].to_pylist() == [1, 3]


def test_a_record_batch_does_as_well_as_a_table() -> None:
    assert columns("arrow", pa.record_batch({"a": [1]}), 1)["a"].to_pylist() == [1]


def test_arrays_of_several_dimensions_become_fixed_size_lists() -> None:
    made = columns("numpy", {"v": np.arange(12, dtype=np.float32).reshape(2, 3, 2)[:, ::-1]}, 2)
    assert made["v"].type == pa.list_(pa.list_(pa.float32(), 2), 3)
    assert made["v"].to_pylist() == [[[4, 5], [2, 3], [0, 1]], [[10, 11], [8, 9], [6, 7]]]


def test_an_array_that_is_filled_again_does_not_change_what_was_returned() -> None:
    buffer = np.array([1, 2])
    made = columns("numpy", {"v": buffer}, 2)
    buffer[:] = 0
    assert made["v"].to_pylist() == [1, 2]


REFUSED: list[tuple[BatchFormat, Any, str]] = [
    ("rows", None, "expected a list of 2 dicts, got NoneType"),
    ("rows", ({"a": 1} for _ in range(2)), "expected a list of 2 dicts, got generator"),
    ("rows", [{"a": 1}], "returned 1 result for a batch of 2 rows"),
    ("rows", [{"a": 1}, "b"], "expected a dict or a RowError for each row, got str"),
    ("rows", [{"a": 1}, {1: "b"}], r"expected column names of type str, got 1 \(int\)"),
    ("rows", [{"a": 1}, {"a": "b"}], "expected values of one type in column 'a', got int and str"),
    ("rows", [{"a": b"b"}, {"a": 1}], "expected values of one type in column 'a', got bytes and int"),
    ("rows", [{"a": b"b"}, {"a": "b"}], "of one type in column 'a', got text and bytes"),
    ("rows", [{"a": ["b", b"b"]}, {}], "of one type in column 'a', got text and bytes"),
    (
        "rows",
        [{"a": datetime.date(2024, 1, 1)}, {"a": datetime.datetime.fromisoformat("2024-01-01T09:00")}],
        "column 'a', got dates and times",
    ),
    ("numpy", {"a": np.array(["b", b"b"], object)}, "of one type in column 'a', got text and bytes"),
    ("rows", [{"a": [1]}, {"a": ["b"]}], "of one type in column 'a', got lists of int and str"),
    ("rows", [{"a": {"b": 1}}, {"a": {"b": []}}], "of one type in column 'a', got int and list in the field 'b'"),
    ("numpy", {"a": np.array([1, "b"], object)}, "of one type in column 'a', got int and str"),
    ("rows", [{"a": 2**80}, {}], "values of one type in column 'a', got Python int too large"),
    ("rows", PartialResult([], {}), "expected a list of 2 dicts, got batchmill.operators.contract.PartialResult"),
    ("arrow", [{"a": 1}] * 2, "expected a pyarrow.Table of 2 rows, got list"),
    ("arrow", pa.table({"a": [1]}), "expected a table of 2 rows, got one of 1 rows"),
    ("arrow", pa.table([[1, 2], [3, 4]], names=["a", "a"]), "expected columns of different names, got a, a"),
    ("arrow", PartialResult(pa.table({"a": [1]}), cast("Any", [0])), "to map positions below 2 to RowError, got list"),
    ("arrow", PartialResult(pa.table({"a": [1]}), {2: RowError("x")}), "positions below 2 .* got 2: "),
    ("arrow", PartialResult(pa.table({"a": [1]}), cast("Any", {0: "x"})), "positions below 2 .* got 0: 'x'"),
    ("numpy", pa.table({"a": [1, 2]}), "expected a dict of column name to numpy array, got pyarrow.lib.Table"),
    ("numpy", {"a": [1, 2]}, "expected a numpy array as column 'a', got list"),
    ("numpy", {"a": np.zeros((3, 2))}, r"expected 2 values in column 'a', got an array of shape \(3, 2\)"),
    ("numpy", {"a": np.array(1)}, r"expected 2 values in column 'a', got an array of shape \(\)"),
    ("numpy", {"a": np.zeros(2, complex)}, "values of one type in column 'a', got "),
]


@pytest.mark.parametrize(("batch_format", "output", "reason"), REFUSED)
def test_what_does_not_fit_names_the_operator_what_was_expected_and_what_it_got(
    batch_format: BatchFormat, output: Any, reason: str
) -> None:
    with pytest.raises(InvalidOperator, match=f"operator 'probe' .*{reason}") as caught:
        from_batch(definition(batch_format), output, 2)
    assert batch_format in caught.value.hint


def result(**values: Any) -> BatchResult:
    made = {name: pa.chunked_array([pa.array(column)]) for name, column in values.items()}
    return BatchResult(len(next(iter(values.values()))), made)


def test_batches_are_joined_into_one_chunk_with_nulls_where_a_column_is_missing() -> None:
    joined = join(definition("rows"), [result(a=[1, 2]), result(b=["x"]), BatchResult(2, {})])
    assert joined["a"].to_pylist() == [1, 2, None, None, None]
    assert joined["b"].to_pylist() == [None, None, "x", None, None]
    assert joined["a"].num_chunks == 1


def test_types_are_widened_where_nothing_is_lost() -> None:
    joined = join(definition("rows"), [result(a=[None]), result(a=[1]), result(a=[0.5])])
    assert joined["a"].type == pa.float64()
    assert joined["a"].to_pylist() == [None, 1.0, 0.5]


@pytest.mark.parametrize("values", [([1], ["x"]), ([2**60 + 1], [0.5]), ([True], [1])])
def test_types_that_would_lose_something_name_the_column_and_both_types(values: tuple[Any, Any]) -> None:
    with pytest.raises(InvalidOperator, match=r"column 'a' of one type in every batch, got .* and "):
        join(definition("rows"), [result(a=values[0]), result(a=values[1])])
