"""`batchmill up --workers auto`: processes start with the work, end without it, and no row is done twice."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import batchmill
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill import Client, Job

ROW_S = 0.02
ROWS = 3000  # a minute for one process: far more than the target time of ten seconds

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is one worker")


def begin(client: Client, journal: Path, rows: int = ROWS) -> Job:
    """A job that takes `ROW_S` for each row."""
    params = {"seconds": ROW_S, "journal": str(journal)}
    return client.submit("slow", rows=[{"id": n} for n in range(rows)], params=params, carry=["id"])


def workers(client: Client) -> int:
    """The processes that are there."""
    return len(client.workers())


def is_done_once(job: Job, journal: Path, rows: int = ROWS) -> None:
    """Every row has one result; a row began twice only where a worker was stopped in the middle of its batch."""
    assert [row["id"] for row in job.results()] == list(range(rows))
    began = Counter(map(int, journal.read_text().split()))
    assert set(began) == set(range(rows))
    assert sum(began.values()) - rows <= 2


def test_workers_follow_a_burst_an_idle_time_and_a_burst(tmp_path: Path) -> None:
    with batchmill.local("auto", tmp_path / "data", operators=["mill_operators"]) as client:
        until(lambda: client.scale("default").workers_wanted == 0, "the first decision")
        assert workers(client) == 1
        first = begin(client, tmp_path / "first")
        until(lambda: workers(client) > 1, "more workers for the burst")
        assert client.scale("default").workers_wanted > 1
        is_done_once(first, tmp_path / "first")
        until(lambda: workers(client) == 1, "the end of the workers that are idle")
        assert client.scale("default").workers_wanted == 0

        second, small = begin(client, tmp_path / "second"), begin(client, tmp_path / "small", rows=900)
        until(lambda: workers(client) > 1, "more workers for the second burst")
        until(lambda: small.status().rows_done > 0, "the first rows of the small job")
        second.pause()
        until(lambda: workers(client) == 1, "the end of a worker in the middle of the small job")
        is_done_once(small, tmp_path / "small", rows=900)
        assert small.wait(timeout=GRACE_S).cost().seconds.retried <= 2 * ROW_S
        second.resume()
        is_done_once(second, tmp_path / "second")
        assert second.wait(timeout=GRACE_S).cost().seconds.retried <= 2 * ROW_S
    log = (tmp_path / "data" / "logs" / "worker.log").read_text()
    assert log.count("is drained: the pool needs 1 slot(s)") >= 2
    assert "ended with exit code" not in log
