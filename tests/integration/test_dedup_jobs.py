"""Near duplicates among all rows of a job, end to end, in chains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Stage
from batchmill.errors import Conflict
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

COUNT = 600


def text_of(n: int) -> str:
    return " ".join(f"word{n}x{place}" for place in range(30))


ROWS: list[dict[str, Any]] = [{"id": f"r{n}", "text": text_of(n % 200) + " end" * (n // 200)} for n in range(COUNT)]


def test_texts_are_compared_across_all_shards_and_only_kept_ones_go_on(client: batchmill.Client) -> None:
    stages = [
        Stage("signature", carry=["id", "text"]),
        Stage("dedup", column="signature", carry=["id", "text"], params={"only": "kept"}),
        Stage("echo"),
    ]
    job = client.submit(rows=ROWS, stages=stages).wait(GRACE_S)
    table = job.to_table()
    assert table["id"].to_pylist() == [f"r{n}" for n in range(200)]
    assert table["source_row"].to_pylist() == list(range(200))
    assert [stage.rows_done for stage in job.status().stages] == [COUNT, COUNT, 200]


def test_removed_rows_name_the_kept_one_whatever_the_size_of_shards(client: batchmill.Client) -> None:
    rows = [{"id": n, "embedding": [float(n % 50), 1.0, (n % 50) ** 2 / 50]} for n in range(20_000)]
    stages = [Stage("echo"), Stage("dedup", threshold=1.0, carry=["id"])]
    job = client.submit(rows=rows, stages=stages).wait(GRACE_S)
    found = job.to_table()
    assert found["id"].to_pylist() == list(range(20_000))
    assert found["kept"].to_pylist() == [n < 50 for n in range(20_000)]
    assert found["duplicate_of"].to_pylist() == [None if n < 50 else n % 50 for n in range(20_000)]


@pytest.mark.slow
def test_all_rows_of_a_source_are_compared_by_a_job_of_one_stage(client: batchmill.Client, tmp_path: Path) -> None:
    rows = [{"id": n, "embedding": [float(n % 50), 1.0, (n % 50) ** 2 / 50]} for n in range(9_000)]
    for part in range(3):
        pq.write_table(pa.Table.from_pylist(rows[part * 3_000 : (part + 1) * 3_000]), tmp_path / f"{part}.parquet")
    inputs: list[tuple[int, dict[str, Any]]] = [
        (900, {"rows": rows[:900]}),
        (9_000, {"rows": rows}),
        (9_000, {"source": tmp_path}),
    ]
    for count, given in inputs:
        job = client.submit("dedup", **given, params={"threshold": 1.0, "only": "kept"}).wait(GRACE_S)
        status = job.status()
        assert job.to_table()["id"].to_pylist() == list(range(50))
        assert (status.rows_done, status.shards_done) == (count, 1)


def test_rows_of_a_job_that_ends_with_a_comparison_are_those_that_were_compared(client: batchmill.Client) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "embedding": [1.0, float(n)]} for n in range(400)]
    rows[2]["embedding"] = [0.0, 0.0]
    job = client.submit(rows=rows, stages=[Stage("echo"), Stage("dedup")]).wait(GRACE_S)
    status = job.status()
    assert (status.rows_done, status.rows_dead) == (399, 1)
    assert job.to_table().num_rows == 399


def test_what_compares_all_rows_cannot_be_replayed(client: batchmill.Client) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "embedding": [1.0, float(n)]} for n in range(4)]
    rows[2]["embedding"] = [0.0, 0.0]
    job = client.submit(rows=rows, stages=[Stage("echo"), Stage("dedup")]).wait(GRACE_S)
    (letter,) = job.dead_letters()
    assert (letter.index, letter.stage) == (2, 1)
    with pytest.raises(Conflict, match="depend on all rows"):
        job.replay()
