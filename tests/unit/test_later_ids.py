"""Ids of the steps of a job over a stream."""

from __future__ import annotations

from batchmill.jobs.ids import later_id, new_id
from batchmill.jobs.sink import step_of


def test_steps_sort_behind_their_job_and_each_other_and_before_later_jobs() -> None:
    job = "job-01kz9zzzzz0123456789"
    steps = [step_of(job, shard) for shard in (0, 1, 31, 32, 1000, 10**6)]
    assert [job, *steps] == sorted([job, *steps])
    assert len({len(one) for one in [job, *steps]}) == 1
    assert all(one.endswith("0123456789") for one in steps)
    assert steps[0] == "job-01kza000000123456789"
    later = later_id(job, 10**6 + 2)
    assert steps[-1] < later


def test_no_time_later_is_the_same_id() -> None:
    job = new_id("job")
    assert later_id(job, 0) == job
