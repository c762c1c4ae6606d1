"""Which shards are run a second time: those that hold up the end of a stage while workers are idle. Pure.

An attempt is a straggler once it has run for `factor` times as long as its rows are expected to take, by what the rows
of its stage took so far, and for the time on top that a model may take to load. The second attempt only takes a slot
that nothing else can use: all rows of the stage are planned, none of its shards waits, and its pool has free slots.

Stages are left out whose shards run one after the other or that limit how many run at once: there the others wait by
design. So is one of which nothing is done yet, since nothing can be expected of it, and one whose rows may be tried
once only: the second attempt could fail them for good while the first one is about to succeed.

This is the backup task of MapReduce (Dean and Ghemawat, 2004). Rejected: to take the shard from the slow attempt. It is
often nearly done, and the second one may be as slow if the rows are to blame; whichever is first should count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger.formats.record import JobStage
    from batchmill_coordinator.fleet.pools import PoolView


@dataclass(frozen=True, slots=True)
class Lateness:
    """From when on an attempt counts as a straggler.

    factor: of the predicted time; 0: never. min_extra_s: after the predicted time, since that does not count what an
    attempt does beside computing (reading, storing).
    """

    factor: float
    min_extra_s: float

    def limit_s(self, predicted_s: float, load_s: float) -> float:
        """Return how long an attempt may run."""
        return max(self.factor * predicted_s, predicted_s + self.min_extra_s) + load_s


def may_have_stragglers(one: JobStage) -> bool:
    """Return whether a stage has nothing left to do but the shards that run."""
    spec, stage = one.spec, one.stage
    if one.job.state is not JobState.RUNNING or not (stage.planned and stage.rows_timed):
        return False
    if spec.in_turn or spec.keeps_state or spec.max_at_once is not None or spec.retry.max_attempts == 1:
        return False
    return stage.shards_queued == 0 and 0 < stage.shards_running == stage.shards_live


def stragglers_of(
    one: JobStage, running: Mapping[ShardRef, tuple[int, int]], pool: PoolView, now_ms: int, lateness: Lateness
) -> list[ShardRef]:
    """Return the attempts of a stage that are stragglers, the latest first.

    running: by attempt, when it was claimed (ms) and how many rows it has.
    """
    row_s = one.busy_us / 1e6 / one.stage.rows_timed
    load_s = max((worker.load_s for worker in pool.members), default=0.0)
    late = {}
    for ref, (claimed_at, rows) in running.items():
        age_s = (now_ms - claimed_at) / 1000
        if age_s > lateness.limit_s(rows * row_s, load_s):
            late[ref] = age_s
    return sorted(late, key=lambda ref: late[ref], reverse=True)
