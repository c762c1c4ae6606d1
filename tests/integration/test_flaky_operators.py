"""Operators that fail for a while, or now and then: nobody's rows are to blame, and the job finishes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import batchmill
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from batchmill.jobs.status import JobStatus


def calls(well: Path) -> list[float]:
    path = Path(f"{well}.calls")
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def ended(job: batchmill.Job) -> JobStatus:
    return job.wait(timeout=GRACE_S).status()


def test_an_operator_that_fails_on_everything_for_a_while_is_tried_again_with_backoff_and_the_job_finishes(
    client: batchmill.Client, tmp_path: Path
) -> None:
    well = tmp_path / "well"
    retry = batchmill.RetryPolicy(max_attempts=100, backoff_s=0.2, backoff_max_s=0.8)
    job = client.submit("recovering", rows=[{"id": n} for n in range(40)], params={"well": str(well)}, retry=retry)
    until(
        lambda: any(later - at > 0.25 for at, later in pairwise(calls(well))), "a pause longer than the first backoff"
    )
    assert job.status().rows_dead == 0
    well.touch()
    assert [row["id"] for row in job.results()] == list(range(40))
    assert (ended(job).rows_done, ended(job).rows_dead) == (40, 0)


def test_an_operator_that_never_recovers_fails_the_job_and_no_row_is_held_to_blame(
    client: batchmill.Client, tmp_path: Path
) -> None:
    well = tmp_path / "well"
    retry = batchmill.RetryPolicy(max_attempts=3, backoff_s=0.1)
    job = client.submit("recovering", rows=[{"id": n} for n in range(40)], params={"well": str(well)}, retry=retry)
    with pytest.raises(batchmill.JobFailed, match="the model server is away"):
        job.wait(timeout=GRACE_S)
    status = job.status()
    assert (status.rows_done, status.rows_dead) == (0, 0)
    assert len(calls(well)) < 3 * 40  # three attempts that bisected to the last row would make twice as many


def test_an_operator_that_fails_at_random_three_times_in_ten_does_every_row(client: batchmill.Client) -> None:
    rows = [{"id": n} for n in range(500)]
    retry = batchmill.RetryPolicy(max_attempts=20, backoff_s=0.05, backoff_max_s=0.5)
    job = client.submit("moody", rows=rows, params={"share": 0.3}, retry=retry)
    assert [row["id"] for row in job.results()] == list(range(500))
    assert (ended(job).rows_done, ended(job).rows_dead) == (500, 0)
