"""The paths of rows through the stages of a chain."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batchmill.columns.lineage import SOURCE_PATH, SOURCE_ROW, lineage_of_results, path_at, paths_of


@given(st.lists(st.integers(0, 3), max_size=20), st.data(), st.integers(0, 1000))
def test_paths_grow_by_one_number_at_each_expanding_stage(
    counts: list[int], data: st.DataObject, first_row: int
) -> None:
    rows = np.repeat(np.arange(len(counts)), counts).astype(np.int64) + first_row
    once = lineage_of_results(None, rows, first_row, expands=True)
    expected = [(first_row + row, number) for row, count in enumerate(counts) for number in range(count)]
    assert paths_of(once) == expected
    more = data.draw(st.lists(st.integers(0, 3), min_size=len(expected), max_size=len(expected)))
    again = np.repeat(np.arange(len(expected)), more).astype(np.int64)
    twice = lineage_of_results(once, again, 0, expands=True)
    assert paths_of(twice) == [(*expected[row], number) for row, count in enumerate(more) for number in range(count)]
    assert paths_of(twice) == sorted(paths_of(twice))
    same = lineage_of_results(twice, np.arange(len(again), dtype=np.int64), 0, expands=False)
    assert same.equals(twice)


def test_without_an_expanding_stage_a_path_is_the_source_row() -> None:
    lineage = lineage_of_results(None, np.array([5, 7]), 4, expands=False)
    assert lineage.column_names == [SOURCE_ROW]
    assert path_at(lineage, 1) == (7,)
    later = lineage_of_results(lineage, np.array([11]), 10, expands=False)
    assert later[SOURCE_ROW].to_pylist() == [7]


def test_paths_have_one_type() -> None:
    lineage = lineage_of_results(None, np.array([], dtype=np.int64), 0, expands=True)
    assert lineage.schema.field(SOURCE_PATH).type == pa.list_(pa.int32())
