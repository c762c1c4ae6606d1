"""A worker that hangs over the last shard of a job, while others have nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.job_log import LogEvent
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster

ROWS = 400


def test_a_shard_that_hangs_in_one_worker_is_done_by_another_and_counts_once(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(1, 1))
    gate, rows = tmp_path / "gate", [{"id": number} for number in range(ROWS)]
    params = {"gate": str(gate), "victim": ROWS - 1}
    job = running.clients["a"].submit("hangs_once", rows=rows, params=params, carry=["id"])
    hung = tmp_path / "gate.hung"
    job.wait(timeout=GRACE_S)
    assert hung.exists()
    assert not gate.exists()
    results = list(job.results())
    assert [row["id"] for row in results] == list(range(ROWS))
    assert results[-1]["pid"] != int(hung.read_text())
    (stage,) = job.status().stages
    assert stage.shards_speculated >= 1  # on a busy machine, others that end the stage may be late as well
    assert (job.status().rows_done, job.status().rows_dead) == (ROWS, 0)
    assert LogEvent.STRAGGLED in [entry.event for entry in job.log()]
    gate.touch()  # the hung attempt returns, and finds that its shard is done
    until(lambda: "lost its shard" in running.logs(), "the refusal of the late attempt")
    assert len(list(job.results())) == ROWS
