"""What waits in each pool, from the ledger's sums and what is published."""

from __future__ import annotations

from batchmill.fleet import PoolStatus
from batchmill.ledger.formats.work import Work
from batchmill.ledger.views.overview import QueueHead
from batchmill_coordinator.fleet.backlog import pool_loads, pool_status
from batchmill_coordinator.fleet.pools import EMPTY, PoolView


def work(**sums: int) -> Work:
    """Sums as the scripts write them: `planned_1_default_echo=7`."""
    return Work.from_hash({name.replace("_", " ").encode(): str(count).encode() for name, count in sums.items()})


def test_a_pool_adds_up_its_operators() -> None:
    found = work(
        held_1_default_echo=1,
        planned_1_default_echo=3,
        queued_1_default_echo=2,
        running_1_default_echo=3,
        waiting_1_default_echo=1,
        left_1_default_echo=60,
        done_1_default_echo=30,
        held_1_default_embed=1,
        planned_1_default_embed=5,
        left_1_default_embed=50,
        held_1_gpu_echo=1,
        planned_1_gpu_echo=1,
        left_1_gpu_echo=7,
    )
    heads = {"default": QueueHead(2, 4_000), "gpu": QueueHead(0, None)}
    views = {"default": PoolView(2, 4, frozenset())}
    loads = pool_loads(found, heads, now_ms=5_500)
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
    stopped = work(held_0_default_echo=1, planned_0_default_echo=8, running_0_default_echo=1, left_0_default_echo=100)
    load = pool_loads(stopped, {"default": QueueHead(0, None)}, 0)["default"]
    assert (load.jobs, load.shards_running) == (1, 1)
    assert (load.shards, load.shards_waiting, load.rows, load.oldest_wait_s) == (0, 0, 0, 0)


def test_the_oldest_wait_is_a_published_shards_or_a_jobs_that_nobody_works_on() -> None:
    def wait(head: QueueHead) -> float:
        return pool_loads(Work(), {"default": head}, 100_001)["default"].oldest_wait_s

    assert wait(QueueHead(0, None)) == 0
    assert wait(QueueHead(0, None, starved_since_ms=70_000)) == 30.001
    assert wait(QueueHead(1, 60_001)) == 40.0
    assert wait(QueueHead(1, 60_001, starved_since_ms=70_000)) == 40.0
