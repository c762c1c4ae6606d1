"""A job's status for a user, from its record. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.cost import NANO, job_cost
from batchmill.job import JobState, JobStatus

if TYPE_CHECKING:
    from batchmill.job import JobCost
    from batchmill.ledger import JobRecord


def status_of(record: JobRecord, now_s: float, note: str | None = None, currency: str = "USD") -> JobStatus:
    """How a job stands at `now_s`, seconds since the epoch. currency: what its cost is in."""
    rate = _rows_per_second(record, now_s)
    return JobStatus(
        id=record.id,
        state=record.state,
        operator=record.spec.operator,
        name=record.spec.name,
        pool=record.spec.pool,
        priority=record.spec.priority,
        deadline_at=record.spec.deadline_at,
        rows_total=record.rows_total,
        rows_total_is_estimate=record.rows_total is not None and not record.rows_exact,
        rows_done=record.rows_done,
        rows_dead=record.rows_dead,
        rows_cached=record.rows_cached,
        rows_per_second=rate,
        eta_s=_eta_s(record, rate),
        shards_done=record.shards_done,
        shards_running=record.shards_running,
        created_at=record.created_at / 1000,
        started_at=_seconds(record.started_at),
        finished_at=_seconds(record.finished_at),
        error=record.error,
        output=record.spec.output.path if record.spec.output else None,
        replay_of=record.replay_of,
        resumed_from=record.resumed_from,
        tenant=record.tenant,
        cost=cost_of(record, currency),
        note=note,
    )


def cost_of(record: JobRecord, currency: str) -> JobCost:
    """What a job cost so far."""
    return job_cost(dict(record.costs), record.budget_nano, currency)


def why_paused(record: JobRecord, currency: str) -> str | None:
    """What to do about a job that is paused since its budget is used up; None for any other."""
    budget = record.budget_nano
    if record.state is not JobState.PAUSED or budget is None or record.cost_nano < budget:
        return None
    return (
        f"it has cost {record.cost_nano / NANO:.6g} of its budget of {budget / NANO:.6g} {currency}; "
        f"`batchmill resume {record.id} --budget N` gives it more"
    )


def _seconds(moment_ms: int | None) -> float | None:
    return None if moment_ms is None else moment_ms / 1000


def _rows_per_second(record: JobRecord, now_s: float) -> float | None:
    """Of late while the job runs, over its whole run once it has ended; pauses do not count."""
    if record.started_at is None or record.rows_done == 0 or record.state is JobState.PAUSED:
        return None
    if record.rate is not None and not record.state.is_final:
        return record.rate
    end_s = record.finished_at / 1000 if record.finished_at else now_s
    run_s = end_s - (record.started_at + record.paused_ms) / 1000
    return round(record.rows_done / max(run_s, 1e-3), 3)


def _eta_s(record: JobRecord, rate: float | None) -> float | None:
    if record.state is not JobState.RUNNING or record.rows_total is None or not rate:
        return None
    left = max(record.rows_total - record.rows_done - record.rows_dead, 0)
    return round(left / rate, 1)
