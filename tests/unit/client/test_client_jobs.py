from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Generator
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

import batchmill
from batchmill import Client, Job
from batchmill.errors import BatchmillError, Conflict, JobCancelled, JobExpired, JobFailed, NotFound
from batchmill.jobs.job import JobState
from support.fault_proxy import Fault
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from support.live_service import LiveService


@pytest.fixture
def held(service: LiveService, client: Client) -> Job:
    """A job that does what the test says, and what the service knows of it."""
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"id": i} for i in range(10)])
    service.begun(job.id)
    return job


def _ids(start: int, stop: int) -> pa.Table:
    return pa.table({"id": list(range(start, stop))})


def test_results_come_while_the_job_runs_and_end_with_it(held: Job, service: LiveService) -> None:
    rows = held.results()
    service.change(held.id, _ids(0, 2))
    assert [next(rows), next(rows)] == [{"id": 0}, {"id": 1}]
    service.change(held.id, _ids(2, 5))
    assert next(rows) == {"id": 2}
    service.change(held.id, _ids(5, 10), state=JobState.COMPLETED)
    assert [row["id"] for row in rows] == list(range(3, 10))


@pytest.mark.usefixtures("small_pages")
def test_the_next_page_is_fetched_while_the_caller_is_busy(held: Job, service: LiveService) -> None:
    service.change(held.id, _ids(0, 5))
    service.change(held.id, _ids(5, 10), state=JobState.COMPLETED)
    batches = held.batches()
    first = next(batches)
    held.status()  # a later request has been answered, so the earlier one for page two has gone out
    assert first.num_rows == 5
    assert sum(path.endswith("/results") for path in service.asked("GET")) == 2
    assert next(batches)["id"].to_pylist() == [5, 6, 7, 8, 9]


def test_pages_of_different_types_become_one_table(held: Job, service: LiveService) -> None:
    service.change(held.id, pa.table({"id": [0], "note": pa.nulls(1)}))
    service.change(held.id, pa.table({"id": [1.5], "note": ["x"], "more": [True]}), state=JobState.COMPLETED)
    assert held.to_table().to_pylist() == [
        {"id": 0.0, "note": None, "more": None},
        {"id": 1.5, "note": "x", "more": True},
    ]


def test_a_failed_job_gives_its_rows_and_then_raises_why(held: Job, service: LiveService) -> None:
    service.change(held.id, _ids(0, 3))
    service.fail(held.id)
    rows = held.results()
    seen = [next(rows)["id"] for _ in range(3)]
    with pytest.raises(JobFailed, match="no weights"):
        next(rows)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("method", ["to_table", "wait"])
def test_a_failed_job_raises_why(held: Job, service: LiveService, method: str) -> None:
    service.change(held.id, _ids(0, 3))
    service.fail(held.id)
    with pytest.raises(JobFailed, match="no weights") as caught:
        getattr(held, method)()
    assert caught.value.details == {"code": "invalid_operator", "job": held.id}


def test_a_cancelled_job_gives_what_was_kept(held: Job, service: LiveService) -> None:
    service.change(held.id, _ids(0, 3))
    assert held.cancel().state in (JobState.CANCELLING, JobState.CANCELLED)
    assert held.to_table().num_rows == 3
    assert len(list(held.results())) == 3
    with pytest.raises(JobCancelled, match="after 3 of 10 rows"):
        held.wait()


def test_an_expired_job_gives_what_it_had_and_says_so(held: Job, service: LiveService) -> None:
    service.change(held.id, _ids(0, 3))
    service.change(held.id, state=JobState.EXPIRED)
    assert held.to_table().num_rows == 3
    assert len(list(held.results())) == 3
    with pytest.raises(JobExpired, match="passed its deadline after 3 of 10 rows"):
        held.wait()


def test_a_job_is_paused_and_goes_on(held: Job, service: LiveService) -> None:
    assert held.pause().state is JobState.PAUSED
    assert held.latest is not None
    assert held.latest.state is JobState.PAUSED
    assert held.resume().state is JobState.RUNNING
    service.change(held.id, _ids(0, 10), state=JobState.COMPLETED)
    for refused in (held.pause, held.resume):
        with pytest.raises(Conflict, match=r"has ended \(completed\)"):
            refused()


def test_a_paused_job_is_waited_for(held: Job, service: LiveService) -> None:
    held.pause()
    with pytest.raises(TimeoutError, match="is still paused"):
        held.wait(timeout=0.05)
    held.resume()
    service.change(held.id, state=JobState.COMPLETED)
    assert held.wait(timeout=GRACE_S) is held


def test_a_deleted_job_is_gone_even_if_the_answer_was_lost(held: Job, service: LiveService) -> None:
    with pytest.raises(Conflict, match="has not ended"):
        held.delete()
    held.cancel()
    service.ended(held.id)
    service.faults.append(Fault("DELETE", held.id, lose_answer=True))
    held.delete()
    assert service.asked("DELETE") == [f"/v1/jobs/{held.id}"] * 3
    with pytest.raises(NotFound, match=held.id):
        held.delete()


def test_wait_gives_the_job_back_when_it_completed(held: Job, service: LiveService) -> None:
    end = threading.Timer(0.05, service.change, [held.id], {"state": JobState.COMPLETED})
    end.start()
    assert held.wait(timeout=GRACE_S) is held
    end.join(GRACE_S)  # it looks for the end itself, and must not meet the next test


def test_wait_gives_up_after_its_timeout_and_the_job_goes_on(held: Job) -> None:
    with pytest.raises(TimeoutError, match=r"is still (pending|running) after 0\.05 s"):
        held.wait(timeout=0.05)
    assert not held.status().state.is_final


def test_watch_tells_each_change_once_and_ends_after_the_final_one(held: Job, service: LiveService) -> None:
    statuses = held.watch()
    assert next(statuses).rows_done == 0
    service.change(held.id, rows_done=4)
    assert next(statuses).rows_done == 4
    service.change(held.id, state=JobState.COMPLETED, rows_done=10)
    rest = list(statuses)
    assert (rest[-1].state, rest[-1].rows_done) == (JobState.COMPLETED, 10)
    assert [status.state for status in rest].count(JobState.COMPLETED) == 1
    assert all(one != another for one, another in pairwise(rest))


def test_watch_goes_on_after_a_broken_connection(held: Job, service: LiveService) -> None:
    service.faults.append(Fault("GET", "/events", drop=True))
    statuses = held.watch()
    assert next(statuses).rows_done == 0
    service.change(held.id, rows_done=4)
    assert next(statuses).rows_done == 4
    service.faults.append(Fault("GET", "/events", answer=(503, "away")))  # to the next try
    service.cut("/events")
    service.change(held.id, rows_done=10, state=JobState.COMPLETED)
    assert [status.rows_done for status in statuses] == [10]
    assert len([path for path in service.asked("GET") if path.endswith("/events")]) == 4


def test_watch_and_results_outlive_a_restart_of_the_service(held: Job, service: LiveService) -> None:
    statuses, rows = held.watch(), held.results()
    service.change(held.id, _ids(0, 2))
    assert next(rows) == {"id": 0}
    next(statuses)
    service.restart()
    service.change(held.id, _ids(2, 10), state=JobState.COMPLETED)
    assert [row["id"] for row in rows] == list(range(1, 10))
    assert list(statuses)[-1].state is JobState.COMPLETED


def test_a_page_cut_off_on_the_way_is_refused(held: Job, service: LiveService) -> None:
    service.change(held.id, _ids(0, 10), state=JobState.COMPLETED)
    service.faults.append(Fault("GET", "/results", ends_at=100))
    with pytest.raises(BatchmillError, match="page of results"):
        held.to_table()


def test_an_unknown_job_is_told_by_its_first_use(client: Client) -> None:
    job = client.job("job-nope")
    steering = (job.status, job.pause, job.resume, job.cancel, job.delete)
    for use in (*steering, job.to_table, job.wait, lambda: list(job.watch()), lambda: list(job.results())):
        with pytest.raises(NotFound, match="job-nope"):
            use()


@pytest.mark.slow
def test_jobs_are_listed_newest_first_page_by_page(client: Client, service: LiveService) -> None:
    submitted = [client.submit("echo", rows=[{"i": i}], name=f"job {i}") for i in range(120)]
    listed = client.jobs()
    assert [job.id for job in listed] == sorted((job.id for job in submitted), reverse=True)
    assert {job.latest and job.latest.name for job in listed} == {f"job {i}" for i in range(120)}
    assert len(client.jobs(limit=7)) == 7
    assert service.asked("GET") == ["/v1/jobs"] * 3


def test_a_job_shows_how_it_stands(client: Client, service: LiveService) -> None:
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"id": 1}])
    service.begun(job.id)
    job.status()
    assert repr(job) == f"<Job {job.id} 'echo' running: 0 of 1 rows>"
    assert repr(client.job("job-x")) == "<Job job-x>"


def test_workers_and_operators_are_told(client: Client) -> None:
    assert [worker.name for worker in client.workers()] == ["cpu0@here"]
    assert {"echo", "embed"} <= {operator.name for operator in client.operators()}


def test_a_client_is_shared_by_many_threads(client: Client) -> None:
    tables = {}

    def work(number: int) -> None:
        tables[number] = client.submit("echo", rows=[{"n": number}] * number).to_table().num_rows

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GRACE_S)
    assert tables == {number: number for number in range(1, 17)}


def test_a_closed_client_says_so(service: LiveService) -> None:
    client = batchmill.Client(service.url, service.token)
    job = client.submit("echo", rows=[{"a": 1}])
    rows = job.results()
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        job.status()
    with pytest.raises(RuntimeError, match="closed"):
        next(rows)


def test_a_client_that_is_dropped_ends_its_thread_but_not_under_a_job_in_use(service: LiveService) -> None:
    client = batchmill.Client(service.url, service.token)
    loop = weakref.ref(client._loop)
    thread = client._loop._thread
    rows = client.submit("echo", rows=[{"a": 1}, {"a": 2}]).results()
    del client
    gc.collect()
    assert list(rows) == [{"a": 1}, {"a": 2}]
    del rows
    gc.collect()
    thread.join(GRACE_S)
    assert not thread.is_alive()
    assert loop() is None


def test_an_iterator_left_half_way_leaves_the_client_usable(held: Job, service: LiveService) -> None:
    service.change(held.id, _ids(0, 5))
    rows = held.results()
    next(rows)
    assert isinstance(rows, Generator)
    rows.close()
    statuses = held.watch()
    next(statuses)
    del statuses
    assert held.status().rows_done == 5
