"""What must hold when rows and workers fail: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import batchmill
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path


def test_rows_that_fail_now_and_then_are_tried_again_and_no_other_row_runs_twice(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows = [{"id": n} for n in range(100)]
    retry = batchmill.RetryPolicy(max_attempts=5, backoff_s=0.2)
    job = client.submit("flaky", rows=rows, params={"log": str(tmp_path)}, carry=["id"], retry=retry)
    assert [row["id"] for row in job.results()] == list(range(100))
    assert job.wait(timeout=GRACE_S).status().rows_dead == 0
    done = {path.stem: path.read_text() for path in tmp_path.glob("*.done")}
    assert done == {str(n): "x" for n in range(100)}


def test_rows_that_fail_every_time_are_given_up_on_with_their_story(client: batchmill.Client, tmp_path: Path) -> None:
    retry = batchmill.RetryPolicy(max_attempts=2, backoff_s=0.1)
    params = {"log": str(tmp_path), "failures": 99}
    job = client.submit("flaky", rows=[{"id": n} for n in range(30)], params=params, retry=retry)
    assert [row["id"] for row in job.results()] == [n for n in range(30) if n % 3]
    letters = job.wait(timeout=GRACE_S).dead_letters()
    assert [letter.index for letter in letters] == [n for n in range(30) if n % 3 == 0]
    first = letters[0]
    assert (first.row, first.operator, first.error_type, first.attempts) == ({"id": 0}, "flaky", "ConnectionError", 2)
    assert "not in the mood" in first.message
    assert "mill_operators.py" in first.traceback
    assert first.first_failed_at < first.last_failed_at
    assert job.dead_letter_counts() == {"ConnectionError": 10}


def test_too_many_dead_rows_fail_the_job_early(client: batchmill.Client, tmp_path: Path) -> None:
    retry = batchmill.RetryPolicy(max_attempts=1, max_dead=5)
    params = {"log": str(tmp_path), "failures": 99}
    job = client.submit("flaky", rows=[{"id": n} for n in range(3000)], params=params, retry=retry)
    with pytest.raises(batchmill.JobFailed, match="max_dead"):
        job.wait(timeout=GRACE_S)
    assert job.status().rows_dead < 1000


@pytest.mark.slow
def test_the_last_worker_may_die_and_a_new_one_goes_on(client: batchmill.Client) -> None:
    job = client.submit("echo", rows=[{"id": n} for n in range(10)])
    for worker in client.workers():
        os.kill(worker.pid, signal.SIGKILL)
    assert [row["id"] for row in job.results()] == list(range(10))
    later = client.submit("echo", rows=[{"id": 1}])
    assert list(later.results()) == [{"id": 1}]
