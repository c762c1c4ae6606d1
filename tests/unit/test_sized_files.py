"""Which rows of which parts go into which file of an output, if the size of its files was chosen."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.jobs.files import OutputSpec
from batchmill.sinks import merged_file
from batchmill.sinks.merged_file import write_merged
from batchmill.sinks.sized_folder import Piece, plan_files

PARTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5000)), max_size=12)


@given(PARTS, st.none() | st.integers(1, 60), st.none() | st.integers(1, 8000))
def test_files_have_every_row_once_in_order_and_none_is_too_large(
    parts: list[tuple[int, int]], max_rows: int | None, target_bytes: int | None
) -> None:
    files = list(plan_files(parts, max_rows, target_bytes))
    found = [(piece.part, piece.offset + row) for file in files for piece in file for row in range(piece.rows)]
    assert found == [(part, row) for part, (rows, _) in enumerate(parts) for row in range(rows)]
    for file in files:
        rows = sum(piece.rows for piece in file)
        nbytes = sum(piece.rows * max(parts[piece.part][1], 1) / parts[piece.part][0] for piece in file)
        assert max_rows is None or rows <= max_rows
        assert target_bytes is None or rows == 1 or nbytes <= target_bytes + 1e-6


def test_a_file_is_as_full_as_it_may_be() -> None:
    assert list(plan_files([(3, 30), (4, 40)], 5, None)) == [[Piece(0, 0, 3), Piece(1, 0, 2)], [Piece(1, 2, 2)]]
    assert list(plan_files([(3, 30), (4, 40)], None, 50)) == [[Piece(0, 0, 3), Piece(1, 0, 2)], [Piece(1, 2, 2)]]
    assert list(plan_files([(3, 30), (4, 40)], 2, 50)) == [
        [Piece(0, 0, 2)],
        [Piece(0, 2, 1), Piece(1, 0, 1)],
        [Piece(1, 1, 2)],
        [Piece(1, 3, 1)],
    ]


def test_an_output_without_rows_has_one_file_for_its_columns() -> None:
    assert list(plan_files([(0, 500)], 10, None)) == [[]]
    assert list(plan_files([], 10, None)) == []


def test_small_parts_become_few_row_groups(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("merged") / "x.parquet"
    tables = [pa.table({"id": [number]}) for number in range(300)]
    write_merged("parquet", str(path), tables[0].schema, tables)
    with pq.ParquetFile(path) as file:
        assert (file.num_row_groups, file.read()["id"].to_pylist()) == (1, list(range(300)))


def test_large_parts_are_not_held_until_the_end(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_file, "GROUP_BYTES", 100)
    path = tmp_path_factory.mktemp("merged") / "x.parquet"
    tables = [pa.table({"id": list(range(10 * number, 10 * number + 10))}) for number in range(6)]
    write_merged("parquet", str(path), tables[0].schema, tables)
    with pq.ParquetFile(path) as file:
        assert (file.num_row_groups, file.read()["id"].to_pylist()) == (3, list(range(60)))


def test_one_file_has_no_size_to_choose() -> None:
    assert OutputSpec(path="/data/out", max_rows_per_file=1000).has_sized_files
    with pytest.raises(ValueError, match=r"out\.parquet is one file of any size; give a folder"):
        OutputSpec(path="/data/out.parquet", target_file_bytes=1 << 20)
    with pytest.raises(ValueError, match="greater than or equal to 1000"):
        OutputSpec(path="/data/out", max_rows_per_file=10)
