"""Stages that gather all results of a source row, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Stage
from batchmill.errors import InvalidRequest
from support.cluster import manifest
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import batchmill

ROWS = [{"id": n} for n in range(400)]
WITH_PIECES = [n for n in range(400) if n % 4]


def unfold(folder: Path, **options: Any) -> Stage:
    """As many results of a row as its id leaves over 4; every ninth row fails until `b` is in the folder."""
    return Stage("unfold", cure=str(folder / "b"), **options)


def write_rows(folder: Path, rows: int = 400) -> Path:
    pq.write_table(pa.table({"id": range(rows)}), folder / "in.parquet")
    return folder / "in.parquet"


def test_the_results_of_each_source_row_are_gathered_however_they_were_divided(
    client: batchmill.Client, tmp_path: Path
) -> None:
    (tmp_path / "b").touch()
    stages = [
        unfold(tmp_path, carry=["id"]),
        Stage("echo"),
        Stage("gather", mean=["piece"], count="pieces", carry=["id"]),
    ]
    rows = 40_000
    job = client.submit(source=write_rows(tmp_path, rows), stages=stages).wait(GRACE_S)
    expected = [n for n in range(rows) if n % 4]
    table = job.to_table()
    assert table["source_row"].to_pylist() == expected
    assert table["id"].to_pylist() == expected
    assert table["pieces"].to_pylist() == [n % 4 for n in expected]
    assert table["piece"].to_pylist() == [(n % 4 - 1) / 2 for n in expected]
    assert "source_path" not in table.column_names
    assert [stage.rows_done for stage in job.status().stages] == [rows, rows * 6 // 4, len(expected)]


@pytest.mark.parametrize("output", [True, False], ids=["output", "service"])
def test_a_source_row_with_a_failed_row_waits_for_its_replay_and_is_gathered_into_its_place(
    client: batchmill.Client, tmp_path: Path, *, output: bool
) -> None:
    def results() -> list[tuple[int, int, float]]:
        return [(row["source_row"], row["pieces"], row["of"]) for row in job.results()]

    def expected(failed: Callable[[int, int], bool]) -> list[tuple[int, int, float]]:
        whole = [n for n in WITH_PIECES if not any(failed(n, piece) for piece in range(n % 4))]
        return [(n, n % 4, n) for n in whole]

    (tmp_path / "b").touch()
    fails = Stage("fails_pieces", name="c", cure=str(tmp_path / "c"), every=5)
    gather = Stage("gather", mean=["of"], count="pieces")
    stages = [unfold(tmp_path), fails, Stage("echo"), gather, Stage("echo", name="e")]
    folder = tmp_path / "out" if output else None
    job = client.submit(source=write_rows(tmp_path), stages=stages, output=folder).wait(GRACE_S)
    assert results() == expected(lambda n, piece: (n + piece) % 5 == 0)
    waiting = [n for n in WITH_PIECES if any((n + piece) % 5 == 0 for piece in range(n % 4))]
    some = [n for n in waiting if n % 4 > 1]  # of the others there is no result to wait with
    letters = job.dead_letters(stage="gather")
    assert [(letter.path, letter.error_type) for letter in letters] == [((n,), "IncompleteSourceRow") for n in some]
    with pytest.raises(InvalidRequest, match="no dead letters to replay"):
        job.replay(stage="gather")

    (tmp_path / "c").touch()
    job.replay(stage="c", error_type="RowError").wait(GRACE_S)
    assert job.dead_letters(stage="c") == []
    assert sorted(letter.path[0] for letter in job.dead_letters(stage="gather")) == waiting
    job.replay(stage="gather").wait(GRACE_S)
    assert results() == expected(lambda *_: False)
    assert [stage.rows_dead for stage in job.status().stages] == [0] * 5
    assert [stage.rows_done for stage in job.status().stages] == [400, 600, 600, 300, 300]
    if output:
        parts = manifest(tmp_path / "out")["parts"]
        rows = [row for part in parts for row in pq.read_table(tmp_path / "out" / part["name"]).to_pylist()]
        assert [row["source_row"] for row in rows] == WITH_PIECES


def test_a_stage_that_gathers_is_refused_where_nothing_was_made_of_source_rows(client: batchmill.Client) -> None:
    with pytest.raises(InvalidRequest, match="cannot be the first stage"):
        client.submit("gather", ROWS[:3], params={"count": "n"})
