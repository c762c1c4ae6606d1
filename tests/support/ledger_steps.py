"""The first steps of a job in a ledger, for tests that go through its scripts one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchmill.completion import Completion
from batchmill.job import JobSpec
from batchmill.ledger.jobs import Submission
from batchmill.ledger.shards import PlanStep
from batchmill.shard import Shard, ShardId, Slice
from batchmill.sources.base import RowCount
from batchmill.workspace import stream_from_table

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.ledger import Ledger
    from batchmill.shard import ShardRef

LEASE_MS = 10_000
SPEC = JobSpec(operator="echo")


def submit(ledger: Ledger, job_id: str = "job-1", **changes: Any) -> str:
    submission = replace(Submission(job_id, SPEC, "digest"), **changes)
    return ledger.jobs.submit(submission, max_live_jobs=100)[0]


def plan(ledger: Ledger, epoch: int, rows: list[int], *, at_end: bool = True, job_id: str = "job-1") -> str:
    record = ledger.jobs.read(job_id)
    shards = [
        Shard(job_id, ShardId((record.shards_planned + n,)), 0, count, (Slice(0, 0, count, count),))
        for n, count in enumerate(rows)
    ]
    cursor = f"cursor-{record.shards_planned + len(rows)}"
    step = PlanStep(shards, [10] * len(rows), cursor, at_end, RowCount(sum(rows), exact=True))
    return ledger.shards.plan(record, step, epoch)


def queue_one(ledger: Ledger, epoch: int, number: int = 0) -> ShardRef:
    ref = ledger.shards.queue(ledger.jobs.read("job-1"), 0, ShardId((number,)), epoch)
    assert ref is not None
    return ref


def claim(ledger: Ledger, ref: ShardRef, holder: str = "w1") -> Shard:
    claimed = ledger.shards.claim(ref, "default", holder, LEASE_MS, with_job=False)
    assert claimed is not None
    return claimed.shard


def settle_one(ledger: Ledger, epoch: int, job_id: str, results: pa.Table, rows_total: int) -> None:
    """Plan one more shard of a job, and settle it with these results, as a planner, a dispatcher and a worker would."""
    record = ledger.jobs.read(job_id)
    rows, shard_id = results.num_rows, ShardId((record.shards_planned,))
    shard = Shard(job_id, shard_id, record.rows_planned, rows, (Slice(0, 0, rows, rows),))
    step = PlanStep([shard], [10], f"cursor-{record.shards_planned + 1}", False, RowCount(rows_total, exact=True))
    ledger.shards.plan(record, step, epoch)
    ref = ledger.shards.queue(ledger.jobs.read(job_id), 0, shard_id, epoch)
    assert ref is not None
    claim(ledger, ref)
    stream = stream_from_table(results)
    assert ledger.shards.commit(ref, Completion(rows, 0, len(stream), inline=stream))


def begin(ledger: Ledger, epoch: int, job_id: str, rows_total: int) -> None:
    """Begin a job of that many rows, with no shard yet."""
    ledger.shards.plan(ledger.jobs.read(job_id), PlanStep([], [], "", False, RowCount(rows_total, exact=True)), epoch)


def end_plan(ledger: Ledger, epoch: int, job_id: str, rows_total: int) -> None:
    """Say that a job has no more rows than are planned."""
    record = ledger.jobs.read(job_id)
    ledger.shards.plan(record, PlanStep([], [], "the end", True, RowCount(rows_total, exact=True)), epoch)
