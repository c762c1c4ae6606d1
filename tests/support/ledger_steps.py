"""The first steps of a job in a ledger, for tests that go through its scripts one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchmill.jobs.completion import Completion
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import Submission
from batchmill.sources.base import RowCount
from batchmill.workspace import stream_from_table
from support.records import spec_of

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger

LEASE_MS = 10_000
SPEC = spec_of(operator="echo")


def submit(ledger: Ledger, job_id: str = "job-1", **changes: Any) -> str:
    submission = replace(Submission(job_id, SPEC, "digest"), **changes)
    return ledger.jobs.submit(submission, max_live_jobs=100)[0]


def plan(ledger: Ledger, epoch: int, rows: list[int], *, at_end: bool = True, job_id: str = "job-1") -> str:
    stage = ledger.jobs.read(job_id).first
    shards = [
        Shard(job_id, 0, ShardId((stage.shards_planned + n,)), 0, count, (Slice(0, 0, count, count),))
        for n, count in enumerate(rows)
    ]
    cursor = f"cursor-{stage.shards_planned + len(rows)}"
    step = PlanStep(shards, [10] * len(rows), cursor, at_end, RowCount(sum(rows), exact=True))
    return ledger.shards.plan(job_id, stage, step, epoch)


def queue_one(ledger: Ledger, epoch: int, number: int = 0) -> ShardRef:
    ref = ledger.shards.queue("job-1", ledger.jobs.read("job-1").first, ShardId((number,)), epoch)
    assert ref is not None
    return ref


def to_queue(ledger: Ledger, job_id: str, limit: int, now_ms: int, stage: int = 0) -> list[ShardId]:
    """The first `limit` shards of a stage that could be queued at that time."""
    stages = ledger.jobs.read_stages([(job_id, stage)])  # none of a job that was deleted
    return ledger.shards.to_queue_of(stages, limit, now_ms).get((job_id, stage), [])


def claim(ledger: Ledger, ref: ShardRef, holder: str = "w1", price_nano: int = 0) -> Shard:
    claimed = ledger.shards.claim(ref, "default", holder, LEASE_MS, with_job=False, price_nano=price_nano)
    assert claimed is not None
    return claimed.shard


def settle_one(ledger: Ledger, epoch: int, job_id: str, results: pa.Table, rows_total: int) -> None:
    """Plan one more shard of a job, and settle it with these results, as a planner, a dispatcher and a worker would."""
    stage = ledger.jobs.read(job_id).first
    rows, shard_id = results.num_rows, ShardId((stage.shards_planned,))
    shard = Shard(job_id, stage.number, shard_id, stage.rows_planned, rows, (Slice(0, 0, rows, rows),))
    step = PlanStep([shard], [10], f"cursor-{stage.shards_planned + 1}", False, RowCount(rows_total, exact=True))
    ledger.shards.plan(job_id, stage, step, epoch)
    ref = ledger.shards.queue(job_id, stage, shard_id, epoch)
    assert ref is not None
    claim(ledger, ref)
    stream = stream_from_table(results)
    assert ledger.shards.commit(ref, Completion(rows, 0, len(stream), inline=stream))


def begin(ledger: Ledger, epoch: int, job_id: str, rows_total: int) -> None:
    """Begin a job of that many rows, with no shard yet."""
    step = PlanStep([], [], "", False, RowCount(rows_total, exact=True))
    ledger.shards.plan(job_id, ledger.jobs.read(job_id).first, step, epoch)


def end_plan(ledger: Ledger, epoch: int, job_id: str, rows_total: int) -> None:
    """Say that a job has no more rows than are planned."""
    step = PlanStep([], [], "the end", True, RowCount(rows_total, exact=True))
    ledger.shards.plan(job_id, ledger.jobs.read(job_id).first, step, epoch)
