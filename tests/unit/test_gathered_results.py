"""The results of a stage, gathered by source row, and the operator that makes one row of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidRows
from batchmill.jobs.shard import Slice
from batchmill.operators.contract import PartialResult
from batchmill.stage_inputs import gathered_results
from batchmill.stage_inputs.gathered_results import (
    GatheredResults,
    borders_of,
    first_values,
    gathered,
    null_where_one_is,
    scattered,
)
from batchmill_worker.operators.gather import Gather

TABLE = pa.table(
    {
        "source_row": pa.array([3, 3, 5, 8, 8, 8], pa.int64()),
        "source_path": pa.array([[0], [1], [0], [0], [1], [2]], pa.list_(pa.int32())),
        "text": ["a", "b", "c", None, "e", "f"],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32)), 2),
    }
)


class Parts:
    """Stands for the results of a stage: a slice names rows of `TABLE`."""

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        return pa.concat_tables([TABLE.slice(one.start, one.rows) for one in slices])

    def are_incomplete(self, source_rows: list[int]) -> list[bool]:
        return [row == 5 for row in source_rows]


def read(*cuts: int) -> Any:
    slices = tuple(Slice(0, start, stop, stop - start) for start, stop in pairwise(cuts))
    return GatheredResults(Parts()).read_with_faults(slices)  # type: ignore[arg-type]


def test_gathered_rows_are_lists_from_which_the_rows_can_be_made_again() -> None:
    table = gathered(TABLE)
    assert table["source_row"].to_pylist() == [3, 5, 8]
    assert table["text"].to_pylist() == [["a", "b"], ["c"], [None, "e", "f"]]
    assert scattered(table).select(TABLE.column_names).equals(TABLE)
    assert scattered(table.slice(1, 2)).select(TABLE.column_names).equals(TABLE.slice(2))
    assert first_values(table.select(["text"]).slice(1))["text"].to_pylist() == ["c", None]
    assert null_where_one_is(table, ["text", "vector"])["text"].to_pylist() == [["a", "b"], ["c"], None]


@pytest.mark.parametrize("cuts", [(0, 6), (0, 1, 2, 3, 4, 5, 6), (0, 4, 6)])
def test_a_source_row_is_gathered_from_several_parts_and_an_incomplete_one_is_listed(cuts: tuple[int, ...]) -> None:
    found = read(*cuts)
    assert found.table["text"].to_pylist() == [["a", "b"], ["c"], [None, "e", "f"]]
    assert [(one.place, one.error_type) for one in found.bad] == [(1, "IncompleteSourceRow")]


def test_of_a_source_row_that_is_too_large_no_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered_results, "MAX_SOURCE_ROW_BYTES", TABLE.slice(3, 2).nbytes - 1)
    found = read(2, 4, 5, 6)
    assert [(one.place, one.error_type) for one in found.bad] == [(0, "IncompleteSourceRow"), (1, "too_large")]
    assert found.table["text"].to_pylist() == [["c"], [None, "e"]]
    assert "source row 8" in found.bad[1].message


def test_a_source_row_with_values_of_several_types_is_listed_with_all_of_them() -> None:
    class Typed(Parts):
        def read(self, slices: tuple[Slice, ...]) -> pa.Table:
            (one,) = slices
            found = super().read(slices)
            texts = found["text"].to_pylist() if one.start < 4 else [4.5] * one.rows
            return found.set_column(2, "text", pa.array(texts))

    slices = (Slice(0, 0, 4, 4), Slice(0, 4, 6, 2))
    found = GatheredResults(Typed()).read_with_faults(slices)  # type: ignore[arg-type]
    assert found.table["text"].to_pylist() == [["a", "b"], ["c"], [None, None, None]]
    unfit = found.bad[-1]
    assert (unfit.place, unfit.error_type, unfit.values) == (2, "bad_value", {"text": [None, 4.5, 4.5]})
    assert unfit.message == "column 'text': expected string, as in other rows of the shard, got double 4.5."


def test_few_borders_are_noted_of_many_source_rows() -> None:
    rows = np.repeat(np.arange(1000), 3)
    borders = borders_of(pa.table({"source_row": rows}))
    assert (borders.first, borders.last, borders.source_rows, borders.step) == (0, 999, 1000, 16)
    assert borders.places == tuple(range(48, 3000, 48))
    assert type(borders).parse(borders.write()) == borders


def test_gather_makes_means_and_texts_of_batches_as_of_single_rows() -> None:
    operator = Gather(mean=["vector", "number"], concat=["text"], separator=" ", count="n")
    table = gathered(TABLE.slice(0, 3).append_column("number", pa.array([1, 3, 7])))
    whole = operator.infer(table)
    assert whole.to_pylist() == [
        {"vector": [1.0, 2.0], "number": 2.0, "text": "a b", "n": 2},
        {"vector": [4.0, 5.0], "number": 7.0, "text": "c", "n": 1},
    ]
    assert whole.schema.field("vector").type == pa.list_(pa.float32(), 2)
    assert [operator.infer(table.slice(row, 1)).to_pylist()[0] for row in range(2)] == whole.to_pylist()
    unit = Gather(mean=["vector"], normalize=True).infer(table)["vector"].to_pylist()
    assert np.allclose(np.linalg.norm(unit, axis=1), 1)


def test_a_source_row_without_a_mean_or_a_text_fails_alone() -> None:
    vectors = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0], [6.0], [7.0, 8.0], None])
    table = gathered(TABLE.set_column(3, "vector", vectors))
    found = Gather(mean=["vector"]).infer(table)
    assert isinstance(found, PartialResult)
    assert found.results.to_pylist() == [{"vector": [2.0, 3.0]}]
    assert {row: error.message for row, error in found.errors.items()} == {
        1: "its vectors in the column 'vector' have not the length of others, 2.",
        2: "a value of the column 'vector' is null.",
    }
    found = Gather(concat=["text"]).infer(table)
    assert found.results["text"].to_pylist() == ["a\nb", "c"]
    assert list(found.errors) == [2]


def test_gather_says_what_it_cannot_do() -> None:
    with pytest.raises(InvalidParams, match="at least one of mean, concat and count"):
        Gather()
    with pytest.raises(InvalidRows, match="no column 'txt'"):
        Gather(concat=["txt"]).infer(gathered(TABLE))
    with pytest.raises(InvalidRows, match="expected numbers"):
        Gather(mean=["text"]).infer(gathered(TABLE))
    with pytest.raises(InvalidRows, match="expected texts"):
        Gather(concat=["vector"]).infer(gathered(TABLE))
