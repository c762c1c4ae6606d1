"""How much there is to do, and how it stands: sums over the jobs that have not ended. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.job import JobState
from batchmill.telemetry.metrics import OTHER
from batchmill_coordinator.status.status import is_over_budget, status_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from batchmill.ledger import JobRecord
    from batchmill.ledger.survey import Survey

_MAY_RUN = (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Sums, by (operator, pool, state) or by pool; of pools that have work or workers, none is left out."""

    jobs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    shards: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    depth_shards: Counter[str] = field(default_factory=Counter)
    depth_rows: Counter[str] = field(default_factory=Counter)
    at_risk: Counter[str] = field(default_factory=Counter)
    over_budget: Counter[str] = field(default_factory=Counter)
    oldest_s: dict[str, float] = field(default_factory=dict)


def backlog_of(records: Iterable[JobRecord], survey: Survey, names: Mapping[str, str]) -> Backlog:
    """The sums. names: what each pool is called in them; those that are missing go under `OTHER`."""
    found = Backlog()
    for name in names.values():
        for sums in (found.depth_shards, found.depth_rows, found.at_risk, found.over_budget):
            sums[name] = 0
        found.oldest_s[name] = 0.0
    for record in records:
        _add(found, record, survey, names.get(record.spec.pool, OTHER))
    for pool, at in survey.oldest_queued_ms.items():
        _note_wait(found, names.get(pool, OTHER), survey.now_ms - at)
    return found


def _add(found: Backlog, record: JobRecord, survey: Survey, pool: str) -> None:
    operator = record.spec.operator
    found.jobs[operator, pool, record.state] += 1
    for state, count in shards_by_state(record, survey.waiting.get(record.id, 0)).items():
        found.shards[operator, pool, state] += count
    for state, count in (("left", record.rows_left), ("done", record.rows_done), ("dead", record.rows_dead)):
        found.rows[operator, pool, state] += count
    found.over_budget[pool] += is_over_budget(record)
    if record.state not in _MAY_RUN:
        return
    found.depth_shards[pool] += record.shards_live
    found.depth_rows[pool] += record.rows_left
    found.at_risk[pool] += is_at_risk(record, survey.now_ms / 1000)
    if record.rows_left and not record.shards_running:
        _note_wait(found, pool, survey.now_ms - (record.last_queued_at or record.created_at))


def _note_wait(found: Backlog, pool: str, wait_ms: float) -> None:
    found.oldest_s[pool] = max(found.oldest_s.get(pool, 0.0), wait_ms / 1000)


def shards_by_state(record: JobRecord, waiting: int) -> dict[str, int]:
    """A job's shards that are not settled; `waiting`: how many of them wait for another attempt."""
    planned = record.shards_live - record.shards_queued - record.shards_running - waiting
    return {
        "planned": max(planned, 0),  # what was counted a moment later may be more than all
        "queued": record.shards_queued,
        "running": record.shards_running,
        "waiting": waiting,
    }


def is_at_risk(record: JobRecord, now_s: float) -> bool:
    """Whether a job will miss its deadline: at its pace, or because half of its time is over and nothing is done."""
    deadline = record.spec.deadline_at
    if deadline is None:
        return False
    if record.rows_done == 0:
        return now_s > (record.created_at / 1000 + deadline) / 2
    left_s = status_of(record, now_s).eta_s
    return left_s is not None and now_s + left_s > deadline


def names_of(with_workers: Collection[str], with_work: Collection[str], limit: int) -> dict[str, str]:
    """What at most `limit` pools are called in metrics: their own names; those with workers come first."""
    ranked = [*sorted(with_workers), *sorted(set(with_work) - set(with_workers))]
    return {name: name for name in ranked[:limit]} | dict.fromkeys(ranked[limit:], OTHER)
