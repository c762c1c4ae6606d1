"""What a user of Flower sees, read from Flower's own HTTP API over a real service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import JobCancelled, JobFailed
from batchmill.jobs.job import RetryPolicy
from support.flower_stack import FlowerStack, flower_stack
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import batchmill

RUNNING = {"RECEIVED", "STARTED"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[FlowerStack]:
    with flower_stack(tmp_path_factory.mktemp("flower"), valkey_url, "flower:") as started:
        yield started


def settled_tasks(stack: FlowerStack, job: batchmill.Job, *last: str) -> list[dict[str, object]]:
    """A job's tasks in the order of their attempts, once none runs and the last has succeeded, or as said."""

    def tasks() -> list[dict[str, object]]:
        return sorted(stack.tasks(job), key=lambda task: int(re.findall(r"^#(\d+) ", str(task["args"]))[0]))

    def is_settled() -> bool:
        states = [task["state"] for task in tasks()]
        return bool(states) and states[-1] in (last or ("SUCCESS",)) and not RUNNING.intersection(states)

    until(is_settled, "the last event")
    return tasks()


def test_a_finished_shard_is_seen_with_operator_job_shard_worker_and_runtime(stack: FlowerStack) -> None:
    job = stack.client.submit("steady", rows=[{"id": n} for n in range(8)], params={"log": "/tmp"})  # noqa: S108  # read only
    assert len(list(job.results())) == 8

    (task,) = settled_tasks(stack, job)
    (worker,) = stack.client.workers()
    assert task["name"] == "batchmill.steady"
    assert task["args"] == f"#1 shard 0 · {job.id}"
    assert task["state"] == "SUCCESS"
    assert task["result"] == "'8 rows'"
    assert task["worker"] == worker.name
    assert re.fullmatch(r"cpu0@\S+", str(task["worker"]))
    assert 0.1 <= float(str(task["runtime"])) <= 60  # two batches of 0.05 s
    assert task["retries"] == 0


def test_a_shard_that_runs_is_seen_as_started(stack: FlowerStack, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = stack.client.submit("gated", rows=[{"id": 1}], params={"gate": str(gate)})
    try:
        until(lambda: [task["state"] for task in stack.tasks(job)] == ["STARTED"], "the event of the start")
    finally:
        gate.touch()
    job.wait()
    assert [task["state"] for task in settled_tasks(stack, job)] == ["SUCCESS"]


def test_an_attempt_that_is_tried_again_is_seen_as_retry_and_the_next_one_as_success(
    stack: FlowerStack, tmp_path: Path
) -> None:
    job = stack.client.submit(
        "flaky", rows=[{"id": n} for n in range(6)], params={"log": str(tmp_path)}, retry=RetryPolicy(backoff_s=0.01)
    )
    assert len(list(job.results())) == 6

    *before, last = settled_tasks(stack, job)
    assert {task["state"] for task in before} == {"RETRY"}
    assert all("some rows failed and are tried again" in str(task["exception"]) for task in before)
    assert last["state"] == "SUCCESS"
    assert [task["retries"] for task in (*before, last)] == list(range(len(before) + 1))


def test_an_attempt_that_took_its_worker_along_is_seen_as_a_failure(stack: FlowerStack, tmp_path: Path) -> None:
    job = stack.client.submit("suicidal", rows=[{"id": n} for n in range(8)], params={"once": str(tmp_path / "once")})
    assert len(list(job.results())) == 8

    first, *_, last = settled_tasks(stack, job)
    assert first["state"] == "FAILURE"
    assert "WorkerLost" in str(first["exception"])
    assert str(first["worker"]).startswith("cpu0@")
    assert last["state"] == "SUCCESS"


def test_dead_letters_are_named_in_the_result(stack: FlowerStack) -> None:
    job = stack.client.submit("picky", rows=[{"id": n} for n in range(20)])
    assert len(list(job.results())) == 18

    (task,) = settled_tasks(stack, job)
    assert (task["state"], task["result"]) == ("SUCCESS", "'18 rows, 2 failed: RowError'")


def test_a_shard_without_any_result_is_seen_as_a_failure(stack: FlowerStack) -> None:
    job = stack.client.submit("picky", rows=[{"id": n} for n in (10, 20, 30)])
    assert list(job.results()) == []

    (task,) = settled_tasks(stack, job, "FAILURE")
    assert "all 3 rows failed: RowError" in str(task["exception"])


def test_an_operator_that_fails_on_everything_is_seen_as_a_failure_with_its_message(stack: FlowerStack) -> None:
    job = stack.client.submit("broken", rows=[{"id": n} for n in range(40)], retry=RetryPolicy(backoff_s=0.01))
    with pytest.raises(JobFailed):
        job.wait()

    *before, last = settled_tasks(stack, job, "FAILURE")
    assert {task["state"] for task in before} <= {"RETRY"}
    assert "no row of" in str(last["exception"])


def test_attempts_of_a_cancelled_job_are_seen_to_end(stack: FlowerStack, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    params = {"seconds": 0.05, "journal": str(journal)}
    job = stack.client.submit("slow", rows=[{"id": n} for n in range(2_000)], params=params)
    until(journal.exists, "the first row")
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait()

    tasks = settled_tasks(stack, job, "SUCCESS", "REVOKED")
    assert {task["state"] for task in tasks} <= {"SUCCESS", "REVOKED"}, tasks


def test_workers_are_listed_by_device_with_the_queue_of_their_pool(stack: FlowerStack) -> None:
    (worker,) = stack.client.workers()

    def knows_queues() -> bool:
        status, body = stack.ask("/api/workers?refresh=1")
        assert status == 200
        known = json.loads(body)
        return "pool.default" in [queue["name"] for queue in known.get(worker.name, {}).get("active_queues", [])]

    until(knows_queues, "the worker's answer")


def test_nothing_is_shown_without_the_password(stack: FlowerStack) -> None:
    for path in ("/workers", "/tasks", "/broker", "/api/tasks", "/api/workers"):
        assert stack.ask(path, user=None)[0] == 401
        assert stack.ask(path, user="looker:off")[0] == 401


def test_nothing_can_be_changed(stack: FlowerStack) -> None:
    (worker,) = stack.client.workers()
    for path in (f"/api/worker/shutdown/{worker.name}", "/api/task/send-task/batchmill.echo", "/api/task/revoke/x"):
        assert stack.ask(path, method="POST")[0] == 403
