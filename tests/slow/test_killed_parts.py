"""Workers are killed between the commits of parts of one shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Stage
from support.cluster import Cluster
from support.operators.bulky_operators import results_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES, SIZE, ROWS, VICTIMS = 40_000, 4_000, 96, 33


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", "bulky_operators", MAX_RESULT_BYTES=MAX_BYTES) as cluster:
        yield cluster.start(slots=(2,))


@pytest.mark.parametrize("gathers", [False, True], ids=["flat", "gathered"])
@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_no_row_is_lost_or_doubled(running: Cluster, tmp_path: Path, *, fuse: bool, gathers: bool) -> None:
    source, killed = tmp_path / "in.parquet", tmp_path / "killed"
    killed.mkdir()
    pq.write_table(pa.table({"id": range(ROWS)}), source)
    stages = [
        Stage("echo", name="first"),
        Stage("bulky", size=SIZE, kills=str(killed), victims=VICTIMS),
        Stage("echo", name="second"),
    ]
    if gathers:
        stages.append(Stage("gather", name="gather", mean=["piece"], count="pieces", carry=["id"]))
    job = running.clients["a"].submit(source=source, stages=stages, fuse=fuse).wait(300)
    expected = [(n, piece) for n in range(ROWS) for piece in range(len(results_of(n, SIZE)))]
    if gathers:
        found = [(row["source_row"], row["id"], row["pieces"]) for row in job.results()]
        assert found == [(n, n, n % 5) for n in range(ROWS) if n % 5]
    else:
        assert [(row["source_row"], row["piece"]) for row in job.results()] == expected
    assert [one.rows_done for one in job.status().stages][:3] == [ROWS, ROWS, len(expected)]
    assert len(list(killed.iterdir())) == -(-ROWS // VICTIMS)
