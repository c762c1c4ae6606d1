"""How much work there is, for metrics: sums over the jobs that have not ended. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.telemetry.metrics import OTHER
from batchmill_coordinator.fleet.backlog import MAY_RUN
from batchmill_coordinator.status.status import is_over_budget, status_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from batchmill.ledger import JobRecord
    from batchmill.ledger.formats.record import StageKey, StageRecord
    from batchmill_coordinator.fleet.backlog import PoolLoad


@dataclass(frozen=True, slots=True)
class WorkSums:
    """Sums by (operator, pool, state) or by pool. Every pool that has work or workers is in the sums by pool."""

    jobs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    shards: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    depth_shards: Counter[str] = field(default_factory=Counter)
    depth_rows: Counter[str] = field(default_factory=Counter)
    at_risk: Counter[str] = field(default_factory=Counter)
    over_budget: Counter[str] = field(default_factory=Counter)
    oldest_s: dict[str, float] = field(default_factory=dict)


def work_sums(
    records: Iterable[JobRecord],
    loads: Mapping[str, PoolLoad],
    waiting: Mapping[StageKey, int],
    names: Mapping[str, str],
    now_s: float,
) -> WorkSums:
    """Sum up the work.

    loads: of all pools that have work or workers. waiting: by stage, how many shards wait for another attempt.
    names: what each pool is called in the sums; those that are missing go under `OTHER`.
    """
    sums = WorkSums()
    for pool, load in loads.items():
        name = names.get(pool, OTHER)
        sums.depth_shards[name] += load.shards
        sums.depth_rows[name] += load.rows
        sums.oldest_s[name] = max(sums.oldest_s.get(name, 0.0), load.oldest_wait_s)
        sums.at_risk[name] += 0
        sums.over_budget[name] += 0
    for record in records:
        pool = names.get(record.spec.first.pool, OTHER)
        sums.jobs[record.spec.first.operator, pool, record.state] += 1
        sums.over_budget[pool] += is_over_budget(record)
        sums.at_risk[pool] += record.state in MAY_RUN and is_at_risk(record, now_s)
        for stage in record.stages:
            pool = names.get(stage.spec.pool, OTHER)
            _add_stage(sums, stage, waiting.get((record.id, stage.number), 0), pool)
    return sums


def _add_stage(sums: WorkSums, stage: StageRecord, waiting: int, pool: str) -> None:
    operator = stage.spec.operator
    for state, count in shards_by_state(stage, waiting).items():
        sums.shards[operator, pool, state] += count
    for state, count in (("left", stage.rows_left), ("done", stage.rows_done), ("dead", stage.rows_dead)):
        sums.rows[operator, pool, state] += count


def shards_by_state(stage: StageRecord, waiting: int) -> dict[str, int]:
    """Count a stage's shards that are not settled; `waiting`: how many of them wait for another attempt."""
    planned = stage.shards_live - stage.shards_in_flight - waiting
    return {
        "planned": max(planned, 0),  # `waiting` was counted a moment later and may be more than all
        "queued": stage.shards_queued,
        "running": stage.shards_running,
        "waiting": waiting,
    }


def is_at_risk(record: JobRecord, now_s: float) -> bool:
    """Return whether a job will miss its deadline: at its pace, or since half of its time is over with nothing done."""
    deadline = record.spec.deadline_at
    if deadline is None:
        return False
    if record.last.rows_done == 0:
        return now_s > (record.created_at / 1000 + deadline) / 2
    left_s = status_of(record, now_s).eta_s
    return left_s is not None and now_s + left_s > deadline


def names_of(with_workers: Collection[str], with_work: Collection[str], limit: int) -> dict[str, str]:
    """Choose what pools are called in metrics: `limit` of them by their own names, those with workers first."""
    ranked = [*sorted(with_workers), *sorted(set(with_work) - set(with_workers))]
    return {name: name for name in ranked[:limit]} | dict.fromkeys(ranked[limit:], OTHER)
