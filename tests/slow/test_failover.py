"""A failover to a stale replica: the old primary's last writes are lost, and no result is lost, doubled or wrong."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from support.cluster import manifest
from support.outputs import manifest_path
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster

ROWS = 1000
STALE_S = 4.0


def test_results_are_exact_although_the_last_commits_were_lost(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    running, journal = cluster(SHARD_TARGET_S=0.3).start(slots=(2,)), tmp_path / "journal"
    client = running.clients["a"]
    params = {"seconds": 0.02, "journal": str(journal)}
    job = client.submit("slow", rows=[{"id": row} for row in range(ROWS)], params=params, carry=["id"])
    until(lambda: job.status().rows_done > 0, "the first commit")
    running.failover(STALE_S)
    until(lambda: running.ask(lambda _: job.status()).is_final, "the job's end")
    status = job.status()
    assert (str(status.state), status.rows_done, status.rows_dead) == ("completed", ROWS, 0)
    assert [row["id"] for row in job.results()] == list(range(ROWS))
    computed = Counter(journal.read_text().split())
    assert set(computed) == {str(row) for row in range(ROWS)}
    assert max(computed.values()) > 1, "no write was lost: the replica was not stale"


def test_a_replica_that_has_every_write_takes_over_without_any_work_done_twice_in_results(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=0.3).start(slots=(2,))
    client = running.clients["a"]
    params = {"seconds": 0.02, "journal": str(tmp_path / "journal")}
    job = client.submit("slow", rows=[{"id": row} for row in range(ROWS)], params=params, carry=["id"])
    until(lambda: job.status().rows_done > 0, "the first commit")
    running.failover(0)
    after = running.ask(lambda _: client.submit("shout", rows=[{"text": "after"}]))
    assert [row["loud"] for row in after.wait(timeout=60).results()] == ["AFTER!"]
    assert str(running.ask(lambda _: job.wait(timeout=90)).status().state) == "completed"
    assert [row["id"] for row in job.results()] == list(range(ROWS))


def test_a_job_whose_end_was_lost_is_done_again_into_its_output(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(1,))
    client, out, journal = running.clients["a"], tmp_path / "out", tmp_path / "journal"
    params = {"seconds": 0.1, "journal": str(journal)}
    output = {"path": str(out), "format": "jsonl"}
    job = client.submit("slow", rows=[{"id": row} for row in range(20)], params=params, carry=["id"], output=output)
    until(journal.exists, "the first row")
    running.failover(STALE_S)
    assert manifest_path(out).exists(), "the job had not ended before the failover"
    assert not running.ask(lambda _: job.status()).is_final, "the replica was not stale"
    until(lambda: running.ask(lambda _: job.status()).is_final, "the job's end")
    assert (str(job.status().state), job.status().rows_dead) == ("completed", 0)
    parts = manifest(out)["parts"]
    assert sorted(path.name for path in out.iterdir()) == [part["name"] for part in parts]
    found = [json.loads(line) for part in parts for line in (out / part["name"]).read_text().splitlines()]
    assert [row["id"] for row in found] == [row["id"] for row in job.results()] == list(range(20))
