"""Which job's shard is queued next. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

AGEING_S = 60.0
"""A job that waits for this long without a shard being queued rises by one priority class."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stage of a job that has shards to queue. Times are seconds since the epoch."""

    job_id: str
    stage: int
    priority: int  # higher goes first
    created_at_s: float
    waiting_since_s: float  # when a shard of it was last queued, or when it was accepted or resumed
    in_flight: int  # its shards that are queued or running
    deadline_at_s: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The job's id and the stage's number."""
        return self.job_id, self.stage


def next_job(candidates: list[Candidate], now_s: float) -> Candidate:
    """Choose the candidate whose turn it is; `candidates` is not empty.

    The highest class first, where waiting lifts a job by a class each `AGEING_S`; inside a class the earliest
    deadline, a job without one after all that have one; then the job with the fewest shards in flight, so that jobs
    get even shares; then the oldest.
    """

    def rank(candidate: Candidate) -> tuple[float, float, int, float, tuple[str, int]]:
        lifted = candidate.priority + (now_s - candidate.waiting_since_s) // AGEING_S
        deadline = math.inf if candidate.deadline_at_s is None else candidate.deadline_at_s
        return (-lifted, deadline, candidate.in_flight, candidate.created_at_s, candidate.key)

    return min(candidates, key=rank)
