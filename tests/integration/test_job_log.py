"""What a job's log and status tell after things went wrong, on a whole service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import batchmill
from batchmill.jobs.job_log import LogEntry, LogEvent, LogLevel
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"id": n} for n in range(60)]
QUICK = batchmill.RetryPolicy(max_attempts=2, backoff_s=0.05)


def find(job: batchmill.Job, event: LogEvent) -> LogEntry:
    """The first entry of that kind; an attempt's may come a moment after the end of its job."""
    until(lambda: any(entry.event is event for entry in job.log()), f"an entry of {event}")
    return next(entry for entry in job.log() if entry.event is event)


def test_rows_that_fail_and_die_are_told_with_error_worker_shard_and_traceback(client: batchmill.Client) -> None:
    job = client.submit("picky", rows=ROWS, retry=QUICK).wait()
    again, dead = find(job, LogEvent.REQUEUED), find(job, LogEvent.DEAD)
    assert "1 row failed; the first: ValueError: 25 is not to my taste" in again.message
    assert (again.level, again.shard, again.attempt) == (LogLevel.WARNING, "0", 1)
    assert again.worker.startswith("cpu")
    assert 'raise ValueError("25 is not to my taste")' in again.traceback
    assert dead.message == "7 rows failed; the first, row 0: RowError: a tenth"
    status = job.status()
    assert status.dead_by_error == {"RowError": 6, "ValueError": 1}
    assert [(stage.operator, stage.share, stage.rows_dead) for stage in status.stages] == [("picky", 1.0, 7)]
    assert [entry.event for entry in job.log("info")][:2] == [LogEvent.ACCEPTED, LogEvent.STARTED]


def test_a_job_that_fails_tells_the_error_of_its_operator(client: batchmill.Client) -> None:
    job = client.submit("broken", rows=ROWS, retry=QUICK)
    with pytest.raises(batchmill.JobFailed):
        job.wait()
    failed, stopping = find(job, LogEvent.FAILED), find(job, LogEvent.STOPPING)
    for entry in failed, stopping:
        assert entry.level is LogLevel.ERROR
        assert "RuntimeError: no row of 1 will do" in entry.message
        assert "Traceback" in entry.traceback
    assert {entry.event for entry in job.log("error")} == {LogEvent.STOPPING, LogEvent.ENDED, LogEvent.FAILED}


def test_a_process_that_dies_with_a_shard_is_told_by_its_signal(client: batchmill.Client, tmp_path: Path) -> None:
    job = client.submit("suicidal", rows=ROWS, params={"once": str(tmp_path / "once")}, retry=QUICK).wait()
    died, lost = find(job, LogEvent.DIED), find(job, LogEvent.LOST)
    assert died.level is LogLevel.ERROR
    assert "was ended by SIGKILL; the shard was in infer" in died.message
    assert (died.shard, died.attempt) == (lost.shard, lost.attempt) == ("0", 1)
    assert died.worker == lost.worker


def test_a_log_is_followed_to_the_end_of_the_job_by_both_clients(
    client: batchmill.Client, service_record: dict[str, str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = client.submit("gated", rows=ROWS[:2], params={"gate": str(gate)})
    entries = job.follow_log()
    assert next(entries).event is LogEvent.ACCEPTED
    job.pause()
    job.resume()
    gate.touch()
    events = [entry.event for entry in entries]
    assert events.index(LogEvent.PAUSED) < events.index(LogEvent.RESUMED) < events.index(LogEvent.ENDED)

    async def follow() -> list[LogEvent]:
        async with batchmill.AsyncClient(service_record["url"], service_record["token"]) as other:
            return [entry.event for entry in await other.job(job.id).log("info")]

    assert asyncio.run(follow()) == [LogEvent.ACCEPTED, *events]


def test_a_job_that_goes_well_leaves_nothing_in_its_log_but_its_life(client: batchmill.Client) -> None:
    job = client.submit("echo", rows=ROWS).wait()
    until(lambda: bool(job.log()), "the first millisecond")
    assert [entry.event for entry in job.log()] == [LogEvent.ACCEPTED, LogEvent.STARTED, LogEvent.ENDED]
    assert job.log("warning") == []
