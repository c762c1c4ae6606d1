"""Jobs of several stages whose processes and ledger fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import RetryPolicy, Stage
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchmill import Job
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


GATED_ROWS = 120
PIECES = [(row, [piece], row) for row in range(GATED_ROWS) for piece in range(row % 4)]


def gated_stages(folder: Path) -> list[Stage]:
    """Stages that each wait for a file of their name; `b` makes as many results of a row as its id leaves over 4."""
    (folder / "cure").touch()
    often = RetryPolicy(max_attempts=50, backoff_s=0.1)
    return [
        Stage("gated", name="a", gate=str(folder / "a"), carry=["id"], retry=often),
        Stage("unfold", name="b", cure=str(folder / "cure"), gate=str(folder / "b"), carry=["id"], retry=often),
        Stage("gated", name="c", gate=str(folder / "c"), carry=["id"], retry=often),
    ]


def kill_in_turn(running: Cluster, is_running: Callable[[], bool]) -> None:
    """Kill one of each, each while the stage runs."""
    until(is_running, "the first attempt")
    running.slots()[0].kill()
    until(is_running, "an attempt after the end of a slot")
    name, supervisor = next(iter(running.supervisors.items()))
    supervisor.kill()
    del running.supervisors[name]
    running.start_supervisor(2)
    until(is_running, "an attempt after the end of a supervisor")
    until(lambda: running.leader() is not None, "a leader")
    leader = running.leader()
    assert leader is not None
    leader.kill()
    until(lambda: running.leader() not in (None, leader), "the lead of the other coordinator")
    running.start_coordinator(leader.name)
    until(is_running, "an attempt after the end of the leader")
    assert running.valkey is not None
    running.valkey.process.kill()
    running.valkey.process.wait()
    running.start_valkey()
    until(is_running, "an attempt after the end of Valkey")


@pytest.mark.parametrize("stage", "abc")
def test_whatever_is_killed_while_a_stage_runs_every_row_of_a_chain_is_there_once(
    cluster: Callable[..., Cluster], tmp_path: Path, stage: str
) -> None:
    running = cluster(SHARD_TARGET_S=0.3).start(coordinators=2, slots=(2,))
    for other in {*"abc"} - {stage}:
        (tmp_path / other).touch()
    rows = [{"id": row} for row in range(GATED_ROWS)]
    job = running.clients["a"].submit(rows=rows, stages=gated_stages(tmp_path), output=tmp_path / "out")

    def ask() -> Job:
        return running.ask(lambda client: client.job(job.id))

    kill_in_turn(running, lambda: running.ask(lambda _: ask().status().stages[stage].shards_running > 0))
    (tmp_path / stage).touch()
    until(lambda: running.ask(lambda _: ask().status().is_final), "the end of the job")
    status = ask().status()
    assert (status.state, [one.rows_done for one in status.stages], status.rows_dead) == (
        "completed",
        [GATED_ROWS, GATED_ROWS, len(PIECES)],
        0,
    )
    found = [(row["source_row"], row["source_path"], row["id"]) for row in ask().results()]
    assert found == PIECES
    if stage == "c":
        leader = running.leader()
        assert leader is not None
        leader.kill()
        until(lambda: left_between(running, job.id) == set(), "the deletion of what is between stages")


def left_between(running: Cluster, job_id: str) -> set[str]:
    """The stages but the last of which results are stored."""
    folder = running.blobs / "jobs" / job_id / "results"
    return {each.name for each in folder.glob("[01]") if any(one.is_file() for one in each.rglob("*"))}
