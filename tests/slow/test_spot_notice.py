"""A cloud takes a machine back: it works until shortly before its end, and no row is lost or done twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support.metadata_service import metadata_service
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster

ROWS = 500
ROW_S = 0.05
NOTICE_S = 16.0
DRAIN_S = 3.0  # and five seconds until what still runs is killed


def test_a_machine_that_is_taken_back_is_used_until_shortly_before_its_end(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with metadata_service() as service:
        running = cluster().start(slots=())
        spot = running.start_supervisor(1, NOTICES="aws", NOTICES_URL=service.url, DRAIN_S=DRAIN_S)
        client = running.clients["a"]
        params = {"seconds": ROW_S, "journal": str(journal)}
        job = client.submit("slow", rows=[{"id": n} for n in range(ROWS)], params=params)
        until(journal.exists, "the first row")
        ends_at = float(round(time.time() + NOTICE_S))
        service.announce("aws", ends_at)
        until(lambda: client.workers()[0].leaves_at == ends_at, "the announced end")
        until(lambda: client.scale("default").workers_wanted == 2, "the scaler's wish for a replacement")
        assert "1 more that soon leave" in client.scale("default").why
        spot.process.wait(timeout=NOTICE_S + GRACE_S)
        ended_at = time.time()
        assert ends_at - DRAIN_S - 5 - 1 < ended_at < ends_at
        assert spot.process.returncode == 0
        assert 0 < job.status().rows_done < ROWS
        running.start_supervisor(1)
        assert [row["id"] for row in job.results()] == list(range(ROWS))
        assert job.wait(timeout=GRACE_S).status().rows_dead == 0
        begun = len(journal.read_text().splitlines())
        assert begun <= ROWS + 2, "a drain costs at most the batches that run"


def test_a_machine_that_goes_three_seconds_after_its_notice_costs_no_row(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with metadata_service() as service:
        running = cluster().start(slots=(1,))
        spot = running.start_supervisor(1, NOTICES="gcp", NOTICES_URL=service.url, DRAIN_S=1)
        params = {"seconds": ROW_S, "journal": str(journal)}
        job = running.clients["a"].submit("slow", rows=[{"id": n} for n in range(ROWS)], params=params)
        until(journal.exists, "the first row")
        service.announce("gcp", time.time())
        until(lambda: "this machine ends in" in running.log(spot.name), "the notice")
        killed_at = time.monotonic() + 3
        until(lambda: time.monotonic() >= killed_at or spot.process.poll() is not None, "the machine's end")
        spot.kill()
        del running.supervisors[spot.name]
        assert [row["id"] for row in job.results()] == list(range(ROWS))
        assert job.wait(timeout=GRACE_S).status().rows_dead == 0
