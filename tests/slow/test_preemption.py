"""A job of far higher priority gets its slot at the next batch of another, which loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.job_log import LogEvent
from batchmill.jobs.shard import FIRST_ROWS
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster

ROWS = 2 * FIRST_ROWS  # a shard for each slot


def test_an_urgent_job_is_done_long_before_the_shards_that_had_all_slots(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=600, SHARDS_AT_ONCE=1).start(slots=(2,))
    client, journal = running.clients["a"], tmp_path / "journal"
    rows = [{"id": number} for number in range(ROWS)]
    params = {"seconds": 0.5, "journal": str(journal)}
    low = client.submit("slow", rows=rows, params=params, carry=["id"], priority=-20)
    until(lambda: journal.exists() and low.status().stages[0].shards_running == 2, "both slots at work")
    client.submit("shout", rows=[{"text": "now"}], priority=20).wait(timeout=GRACE_S)
    status = low.status()
    assert not status.state.is_final
    assert status.stages[0].shards_preempted >= 1
    low.wait(timeout=GRACE_S)
    assert [row["id"] for row in low.results()] == list(range(ROWS))
    ran = [int(line) for line in journal.read_text().split()]
    assert sorted(set(ran)) == list(range(ROWS))
    assert len(ran) - ROWS <= low.status().stages[0].shards_preempted  # less than a batch for each
    assert (low.status().rows_done, low.status().rows_dead) == (ROWS, 0)
    assert LogEvent.PREEMPTED in [entry.event for entry in low.log()]
