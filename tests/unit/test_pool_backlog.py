"""What waits in each pool, from records of jobs and what is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.fleet import PoolStatus
from batchmill.ledger.views.overview import QueueHead
from batchmill_coordinator.fleet.backlog import pool_loads, pool_status
from batchmill_coordinator.fleet.pools import EMPTY, PoolView
from support.records import job_record, spec_of

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord


def record(pool: str = "default", **changes: Any) -> JobRecord:
    return job_record(spec=spec_of("echo", pool=pool), **changes)


def test_a_pool_adds_up_its_jobs() -> None:
    records = [
        record(rows_total=100, rows_done=30, rows_dead=10, shards_live=9, shards_queued=2, shards_running=3),
        record(job_id="job-2", rows_planned=50, shards_live=5),
        record("gpu", job_id="job-3", rows_total=7, shards_live=1),
    ]
    heads = {"default": QueueHead(2, 4_000), "gpu": QueueHead(0, None)}
    views = {"default": PoolView(2, 4, frozenset())}
    loads = pool_loads(records, heads, now_ms=5_500)
    assert [pool_status(name, load, views.get(name, EMPTY)) for name, load in loads.items()] == [
        PoolStatus(
            name="default",
            workers=2,
            capacity=4,
            jobs=2,
            shards_queued=2,
            shards_running=3,
            shards_waiting=9,
            rows_waiting=110,
            oldest_queued_s=1.5,
        ),
        PoolStatus(
            name="gpu",
            workers=0,
            capacity=0,
            jobs=1,
            shards_queued=0,
            shards_running=0,
            shards_waiting=1,
            rows_waiting=7,
        ),
    ]


def test_a_job_that_may_not_run_has_no_work_for_its_pool() -> None:
    for state in ("paused", "cancelling", "failing", "expiring"):
        stopped = record(state=state, rows_total=100, shards_live=9, shards_running=1)
        load = pool_loads([stopped], {"default": QueueHead(0, None)}, 0)["default"]
        assert (load.jobs, load.shards_running) == (1, 1)
        assert (load.shards, load.shards_waiting, load.rows, load.oldest_wait_s) == (0, 0, 0, 0)


def test_the_oldest_wait_is_a_published_shards_or_a_jobs_that_nobody_works_on() -> None:
    served = record(shards_running=1, rows_total=10, last_queued_at=50_000)
    starved = record(rows_total=10, last_queued_at=70_000)
    new = record("gpu", state="pending", rows_total=10)
    nothing = {"default": QueueHead(0, None), "gpu": QueueHead(0, None)}

    def waits(records: list[JobRecord], heads: dict[str, QueueHead]) -> list[float]:
        return [load.oldest_wait_s for load in pool_loads(records, heads, 100_001).values()]

    assert waits([served], nothing) == [0, 0]
    assert waits([served, starved, new], nothing) == [30.001, 100.0]
    assert waits([served, starved], nothing | {"default": QueueHead(1, 60_001)}) == [40.0, 0]
