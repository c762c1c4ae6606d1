"""Everything that the processes of a service write is a JSON object a line, which says what it is about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from support.cluster import TOKEN, Cluster
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = [{"id": n} for n in range(60)]
QUICK = batchmill.RetryPolicy(max_attempts=2, backoff_s=0.05)
PASSWORD = "of-the-ledger"  # noqa: S105  # made up


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_failing_job_can_be_told_from_the_logs_of_all_processes_by_a_machine(
    cluster: Callable[..., Cluster],
) -> None:
    running = cluster(LOG_FORMAT="json", LOG_LEVEL="DEBUG").start()
    client = running.clients["a"]
    job = client.submit("broken", rows=ROWS, retry=QUICK)
    with pytest.raises(batchmill.JobFailed):
        job.wait()
    (worker,) = client.workers()
    until(lambda: "is failed" in running.log("a"), "the finisher's line")
    for process in running.supervisors["worker-1"].children():
        process.terminate()
    until(lambda: bool(running.supervisors["worker-1"].children()), "the next slot")
    running.close()

    coordinator, workers = objects(running.log("a")), objects(running.log("worker-1"))
    assert any(line["message"].startswith("serving http://") for line in coordinator)
    assert any(line.get("role") == "finisher" and line.get("job") == job.id for line in coordinator)
    (failed,) = [line for line in workers if line["level"] == "error" and "fails on shard" in line["message"]]
    about = {"job": job.id, "stage": 0, "shard": "0", "attempt": 2, "worker": worker.name}
    assert {name: failed[name] for name in about} == about
    loggers = {line["logger"].partition(".")[0] for line in workers + coordinator}
    assert {"batchmill_worker", "batchmill_coordinator"} <= loggers
    assert TOKEN not in running.logs()


def test_the_password_of_a_redis_that_is_away_is_in_no_log(cluster: Callable[..., Cluster]) -> None:
    running = cluster(LOG_FORMAT="json", LOG_LEVEL="DEBUG")
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    running.start_supervisor(wait=False, REDIS_URL=url)
    until(lambda: "waiting for the ledger" in running.log("worker-1"), "the worker's line")
    running.close()
    objects(running.log("worker-1"))
    assert PASSWORD not in running.logs()
