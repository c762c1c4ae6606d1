"""How much work there is, for metrics: the ledger's sums over the jobs that have not ended. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.telemetry.metrics import OTHER
from batchmill_coordinator.fleet.backlog import MAY_RUN
from batchmill_coordinator.status.status import status_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from batchmill.ledger import JobRecord
    from batchmill.ledger.formats.work import Work
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
    work: Work,
    loads: Mapping[str, PoolLoad],
    with_deadlines: Iterable[JobRecord],
    names: Mapping[str, str],
    now_s: float,
) -> WorkSums:
    """Put the work together under the names that pools have in metrics.

    loads: of all pools that have work or workers. with_deadlines: the jobs to be checked for theirs. names: what each
    pool is called in the sums; those that are missing go under `OTHER`.
    """
    sums = WorkSums()
    for pool, load in loads.items():
        name = names.get(pool, OTHER)
        sums.depth_shards[name] += load.shards
        sums.depth_rows[name] += load.rows
        sums.oldest_s[name] = max(sums.oldest_s.get(name, 0.0), load.oldest_wait_s)
        sums.at_risk[name] += 0
        sums.over_budget[name] += work.pools[pool].over_budget if pool in work.pools else 0
    for record in with_deadlines:
        pool = names.get(record.spec.first.pool, OTHER)
        sums.at_risk[pool] += record.state in MAY_RUN and is_at_risk(record, now_s)
    for found, into in ((work.jobs, sums.jobs), (work.shards, sums.shards), (work.rows, sums.rows)):
        for (operator, pool, state), count in found.items():
            into[operator, names.get(pool, OTHER), state] += count
    return sums


def is_at_risk(record: JobRecord, now_s: float) -> bool:
    """Return whether a job will miss its deadline: at its pace, or since half of its time is over with nothing done."""
    deadline = record.spec.deadline_at
    if deadline is None:
        return False
    if record.counted.rows_done == 0:
        return now_s > (record.created_at / 1000 + deadline) / 2
    left_s = status_of(record, now_s).eta_s
    return left_s is not None and now_s + left_s > deadline


def names_of(with_workers: Collection[str], with_work: Collection[str], limit: int) -> dict[str, str]:
    """Choose what pools are called in metrics: `limit` of them by their own names, those with workers first."""
    ranked = [*sorted(with_workers), *sorted(set(with_work) - set(with_workers))]
    return {name: name for name in ranked[:limit]} | dict.fromkeys(ranked[limit:], OTHER)
