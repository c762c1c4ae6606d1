"""Which attempts make room for jobs of far higher priority. Pure.

A job whose priority is higher by at least `by` (`BATCHMILL_PREEMPT_PRIORITY`) does not wait until shards of another end
by themselves, which can take minutes: as many attempts as it has use for end at their next batch. What they have done
is saved, so each of them loses less than a batch. The lowest priority goes first, and of it what began last.

Left alone are attempts whose slot is free soon anyway, those whose shard has made room `MAX_PREEMPTIONS` times, so
that it is done in the end, and stages whose shards run one after the other or keep a state: those cannot be divided at
a batch.
Priorities are compared as they were submitted: that a job is lifted while it waits decides its turn only (`fairness`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger.formats.record import JobStage
    from batchmill.ledger.workers.stragglers import LoneAttempt

MIN_LEFT_S = 5.0
"""An attempt that is predicted to end within this time is not worth ending: about as long as until it hears of it."""

MAX_PREEMPTIONS = 3


class Waiting(NamedTuple):
    """A stage with shards that wait for slots. shards: how many of them may run now."""

    stage: JobStage
    shards: int

    @property
    def priority(self) -> int:
        """Of its job."""
        return self.stage.job.spec.priority


class Victim(NamedTuple):
    """An attempt that may make room. age_s: since it was claimed."""

    ref: ShardRef
    stage: JobStage
    age_s: float

    @property
    def priority(self) -> int:
        """Of its job."""
        return self.stage.job.spec.priority


def victims_of(one: JobStage, running: Iterable[LoneAttempt], now_ms: int) -> list[Victim]:
    """Return the attempts of a stage that may make room. running: those without another one beside them."""
    if one.spec.in_turn or one.spec.keeps_state:
        return []
    row_s = one.busy_us / 1e6 / one.stage.rows_timed if one.stage.rows_timed else math.inf
    found = []
    for attempt in running:
        age_s = (now_ms - attempt.claimed_at_ms) / 1000
        is_worth_it = attempt.rows * row_s - age_s > MIN_LEFT_S
        if is_worth_it and not attempt.is_preempted and attempt.preemptions < MAX_PREEMPTIONS:
            found.append(Victim(attempt.ref, one, age_s))
    return found


def to_preempt(
    waiting: Iterable[Waiting], victims: Sequence[Victim], coming: int, by: int
) -> list[tuple[Victim, Waiting]]:
    """Choose attempts that make room, each with what it makes room for.

    coming: how many slots are free, or become so, as other attempts were asked before.
    """
    left = sorted(victims, key=lambda one: (one.priority, one.age_s))
    chosen = []
    for one in sorted(waiting, key=lambda one: -one.priority):
        covered = min(coming, one.shards)
        coming -= covered
        for _ in range(one.shards - covered):
            if not left or one.priority - left[0].priority < by:
                break
            chosen.append((left.pop(0), one))
    return chosen
