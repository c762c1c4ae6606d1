"""What waits in each pool, from records of jobs and what is published."""

from __future__ import annotations

from batchmill.job import JobSpec, PoolStatus
from batchmill.ledger import JobRecord
from batchmill.ledger.overview import QueueHead
from batchmill_coordinator.fleet.pool_backlog import backlog_of
from batchmill_coordinator.fleet.pools import PoolView


def record(pool: str = "default", **changes: object) -> JobRecord:
    fields = {"spec": JobSpec(operator="echo", pool=pool).model_dump_json(), "state": "running", "created_at": "1"}
    told = fields | {name: str(value) for name, value in changes.items()}
    return JobRecord.from_hash("job-1", {name.encode(): value.encode() for name, value in told.items()})


def test_a_pool_adds_up_its_jobs() -> None:
    records = [
        record(rows_total=100, rows_done=30, rows_dead=10, shards_live=9, shards_queued=2, shards_running=3),
        record(rows_planned=50, shards_live=5),
        record("gpu", rows_total=7, shards_live=1),
    ]
    heads = {"default": QueueHead(2, 4_000), "gpu": QueueHead(0, None)}
    views = {"default": PoolView(2, 4, frozenset())}
    assert backlog_of(records, views, heads, now_ms=5_500) == [
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


def test_a_paused_job_waits_for_nobody() -> None:
    (pool,) = backlog_of(
        [record(state="paused", rows_total=100, shards_live=9, shards_running=1)],
        {},
        {"default": QueueHead(0, None)},
        0,
    )
    assert (pool.jobs, pool.shards_running, pool.shards_waiting, pool.rows_waiting) == (1, 1, 0, 0)
