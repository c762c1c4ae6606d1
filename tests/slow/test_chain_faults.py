"""Jobs of several stages whose processes and ledger fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill import Stage
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster


def test_a_row_that_kills_its_process_holds_no_full_buffer_forever(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=0.3).start(slots=(2,))
    source, victim = tmp_path / "in.parquet", 3
    pq.write_table(pa.table({"id": range(2_000), "text": [f"{row}".ljust(8_000) for row in range(2_000)]}), source)
    stages = [Stage("killer", victim=victim, name="first", buffer="1MiB"), Stage("echo", name="last")]
    job = running.clients["a"].submit(source=source, stages=stages)
    until(lambda: job.status().stages["last"].rows_done > 0, "the first results behind the row")
    assert [row["id"] for row in job.wait(300).results()] == [row for row in range(2_000) if row != victim]
    assert [letter.path for letter in job.dead_letters()] == [(victim,)]


def test_a_row_that_kills_its_process_in_a_stage_that_runs_with_another_is_found_there_alone(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(2,))
    source, victim = tmp_path / "in.parquet", 6
    pq.write_table(pa.table({"id": range(12)}), source)
    stages = [
        Stage("unfold", cure=str(tmp_path)),
        Stage("echo"),
        Stage("killer", victim=victim, carry=["id"]),
        Stage("echo", name="last"),
    ]
    job = running.clients["a"].submit(source=source, stages=stages, fuse=True).wait(300)
    paths = [(row, [piece]) for row in range(12) for piece in range(row % 4)]
    assert [(row["source_row"], row["source_path"]) for row in job.results()] == [
        path for path in paths if path[0] != victim
    ]
    letters = [(letter.operator, letter.path, letter.error_type) for letter in job.dead_letters()]
    assert letters == [("killer", (row, *rest), "WorkerLost") for row, rest in paths if row == victim]


ROWS = 2_000
STALE_S = 4.0


def test_a_stage_whose_last_commits_were_lost_reads_again_what_was_freed(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=0.3).start(slots=(2,))
    client, journal = running.clients["a"], tmp_path / "journal"
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": range(ROWS)}), source)
    stages = [
        Stage("staged", name="first"),
        Stage("slow", seconds=0.004, journal=str(journal), carry=["id"]),
        Stage("echo", name="last"),
    ]
    job = client.submit(source=source, stages=stages)
    until(lambda: job.status().stages["last"].rows_done > 0, "the first results")
    running.failover(STALE_S)
    running.ask(lambda _: job.wait(300))
    assert [row["id"] for row in job.results()] == list(range(ROWS))
    assert [stage.rows_done for stage in job.status().stages] == [ROWS] * 3
    assert len(journal.read_text().split()) > ROWS, "no write was lost: the replica was not stale"
