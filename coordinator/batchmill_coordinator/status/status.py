"""A job's status for a user, from its record. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.cost import NANO, job_cost
from batchmill.jobs.job import JobState
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.jobs.status import NO_TOKENS, JobStatus, StageStatus, StageStatuses
from batchmill.jobs.streams.offsets import StreamOffsets
from batchmill.jobs.streams.rolls import Rolls
from batchmill.jobs.streams.status import StreamStatus
from batchmill_coordinator.status.forecast import (
    Forecast,
    Interval,
    RemainingWork,
    forecast,
    intervals_from,
    pace_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.jobs.status import JobCost, TokenSums
    from batchmill.ledger import JobRecord
    from batchmill.ledger.formats.record import StageRecord

MAX_ERROR_TYPES = 10


def status_of(
    record: JobRecord,
    now_s: float,
    note: str | None = None,
    dead_counts: Mapping[str, int] | None = None,
    *,
    loading: Mapping[int, int] | None = None,
    currency: str = "USD",
) -> JobStatus:
    """Describe a job at `now_s`, seconds since the epoch.

    note: why it is blocked; then there is no forecast. dead_counts: its failed rows by error type.
    loading: by stage, the workers that load its model. currency: what its cost is in.
    """
    spec, stage = record.spec, record.counted
    shown = (spec.computing or spec.stages)[-1]
    left = _forecast(record, stage, now_s) if note is None else None
    return JobStatus(
        id=record.id,
        state=record.state,
        operator=shown.operator,
        name=spec.name,
        pool=shown.pool,
        priority=spec.priority,
        deadline_at=spec.deadline_at,
        rows_total=None if stage.rows_total is None else stage.rows_total + record.rows_dead - stage.rows_dead,
        rows_total_is_estimate=stage.rows_total is not None and not stage.rows_exact,
        rows_done=stage.rows_done,
        rows_dead=record.rows_dead,
        dead_by_error=_most_frequent(dead_counts or {}),
        rows_cached=stage.rows_cached,
        tokens=_tokens(record.stages),
        rows_per_second=_rows_per_second(record, stage, now_s),
        **_time_left(left),
        shards_done=stage.shards_done,
        shards_running=record.shards_running,
        stream=stream_status(record, now_s),
        stages=StageStatuses(
            [
                _stage(record, one, now_s, (loading or {}).get(one.number, 0), is_blocked=note is not None)
                for one in record.stages
            ]
        ),
        created_at=record.created_at / 1000,
        started_at=_seconds(record.started_at),
        finished_at=_seconds(record.finished_at),
        error=record.error,
        output=spec.output.path if spec.output else None,
        replay_of=record.replay_of,
        resumed_from=record.resumed_from,
        tenant=record.tenant,
        cost=cost_of(record, currency),
        note=note,
    )


def stream_status(record: JobRecord, now_s: float) -> StreamStatus | None:
    """Describe how far the stream of a job is read; None without one. now_s: seconds since the epoch."""
    source = record.spec.stream
    if source is None:
        return None
    offsets = StreamOffsets.parse(record.first.cursor or record.savepoint)
    rolls = Rolls.parse(record.last.rolled)
    return StreamStatus(
        source=source.title,
        lag=None if record.state.is_final else record.first.lag,  # it was measured before the job ended
        watermark_at=_seconds(offsets.watermark_ms(round(now_s * 1000), source.idle_s)),
        partitions=len(offsets.partitions),
        rows_lost=offsets.rows_lost,
        away=record.stream_away or None,
        rolls=rolls.number,
        rows_rolled=rolls.rows,
        drained=bool(record.savepoint),
    )


def _time_left(left: Forecast | None) -> dict[str, float | None]:
    times = (None, None, None) if left is None else (left.eta_s, left.low_s, left.high_s)
    names = ("eta_s", "eta_low_s", "eta_high_s")
    return {name: None if time_s is None else round(time_s, 1) for name, time_s in zip(names, times, strict=True)}


def cost_of(record: JobRecord, currency: str) -> JobCost:
    """Sum up what a job cost so far."""
    tokens = _tokens(record.stages)
    costs = {stage.number: stage.cost for stage in record.stages}
    return job_cost(costs, record.budget_nano, currency, tokens.total if tokens else 0)


def _tokens(stages: Iterable[StageRecord]) -> TokenSums | None:
    found = sum((stage.tokens for stage in stages), NO_TOKENS)
    return found if found.total else None


def is_over_budget(record: JobRecord) -> bool:
    """Return whether a job is paused because its budget is used up."""
    budget = record.budget_nano
    return record.state is JobState.PAUSED and budget is not None and record.cost_nano >= budget


def why_paused(record: JobRecord, currency: str) -> str | None:
    """Say what to do about a job that is paused because its budget or a service's quota is used up; None for others."""
    if not is_over_budget(record):
        is_blocked = record.state is JobState.PAUSED and record.paused_for
        return f"{record.paused_for} Then `batchmill resume {record.id}`." if is_blocked else None
    cost, budget = record.cost_nano / NANO, (record.budget_nano or 0) / NANO
    return (
        f"it has cost {cost:.6g} of its budget of {budget:.6g} {currency}; "
        f"`batchmill resume {record.id} --budget N` gives it more"
    )


def _seconds(moment_ms: int | None) -> float | None:
    return None if moment_ms is None else moment_ms / 1000


def _settled(stage: StageRecord) -> int:
    return stage.rows_done + stage.rows_dead


def _stage(record: JobRecord, stage: StageRecord, now_s: float, loading: int, *, is_blocked: bool) -> StageStatus:
    left = None if is_blocked else _forecast(record, stage, now_s)
    total, settled = stage.rows_total, _settled(stage)
    if record.state is JobState.COMPLETED:
        share: float | None = 1.0
    else:
        share = None if total is None else round(min(settled / total, 1.0), 4) if total else 1.0
    is_last = stage.buffer_bytes is None
    return StageStatus(
        name=stage.spec.title,
        operator=stage.spec.operator,
        pool=stage.spec.pool,
        rows_filtered=stage.rows_filtered,
        rows_cached=stage.rows_cached,
        tokens=_tokens([stage]),
        results=None if is_last else stage.rows_out,
        buffered_bytes=0 if is_last or record.state.is_final else stage.buffered,
        buffer_bytes=stage.buffer_bytes,
        rows_total=total,
        rows_done=stage.rows_done,
        rows_dead=stage.rows_dead,
        share=share,
        shards_done=stage.shards_done,
        shards_running=stage.shards_running,
        shards_preempted=stage.shards_preempted,
        shards_speculated=stage.shards_speculated,
        workers_loading=loading,
        rows_per_second=_rows_per_second(record, stage, now_s),
        eta_s=_time_left(left)["eta_s"],
        fused=stage.joins,
        why_fused=stage.spec.why_joins,
    )


def expected_rows(record: JobRecord, stage: StageRecord) -> tuple[float, bool] | None:
    """Return how many rows a stage will be given, and whether that is known; None while there is no estimate.

    A later stage gets what the one before is expected to get, times the results that it has made of a row so far.
    """
    if stage.rows_total is not None:
        return stage.rows_total, stage.rows_exact
    if stage.number == FIRST_STAGE:
        return None
    before = record.stages[stage.number - 1]
    upstream, settled = expected_rows(record, before), _settled(before)
    return None if upstream is None or not settled else (upstream[0] * before.rows_out / settled, False)


def _most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    ranked = sorted(counts.items(), key=lambda counted: (counted[0] == "other", -counted[1], counted[0]))
    if len(ranked) <= MAX_ERROR_TYPES:
        return dict(ranked)
    kept = dict(ranked[: MAX_ERROR_TYPES - 1])
    return {**kept, "other": sum(count for _, count in ranked[MAX_ERROR_TYPES - 1 :])}


def _rows_per_second(record: JobRecord, stage: StageRecord, now_s: float) -> float | None:
    """Return the recent rate while the job runs, the overall rate once it has ended; pauses do not count."""
    settled = _settled(stage) - stage.rows_resumed
    if record.started_at is None or settled <= 0 or record.state is JobState.PAUSED:
        return None
    pace = None if record.state.is_final else pace_of(intervals_from(stage.paces))
    if pace is not None:
        return round(pace.rate, 3)
    end_s = record.finished_at / 1000 if record.finished_at else now_s
    run_s = end_s - (record.started_at + record.paused_ms) / 1000
    return round(settled / max(run_s, 1e-3), 3)


def _forecast(record: JobRecord, stage: StageRecord, now_s: float) -> Forecast | None:
    expected = expected_rows(record, stage)
    if record.state is not JobState.RUNNING or expected is None:
        return None
    total, is_exact = round(expected[0]), expected[1]
    settled = _settled(stage)
    open_since = stage.rate_at
    open_s = 0.0 if open_since is None else max(now_s - open_since / 1000, 0.0)
    open_rows = 0 if open_since is None else settled - stage.rate_rows
    estimated = 0 if is_exact else max(total - stage.rows_planned, 0)
    left = RemainingWork(max(total - settled, 0), estimated, Interval(open_s, open_rows))
    return forecast(intervals_from(stage.paces), left)
