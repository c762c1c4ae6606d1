"""What an attempt brings to its commit, and when that is one dead row too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.job import JobError

if TYPE_CHECKING:
    from batchmill.job import StageSpec


@dataclass(frozen=True, slots=True)
class Completion:
    """What an attempt brought, to be committed."""

    rows: int
    rows_dead: int
    nbytes: int
    busy_s: float = 0.0  # time at work on it, waiting not counted
    inline: bytes = b""  # the results as an Arrow stream; empty: they lie in the sink
    dead_by_type: tuple[tuple[str, int], ...] = ()  # how many rows died of which error
    results: int | None = None  # of an operator that expands: how many results `rows` made; None: as many
    rows_cached: int = 0  # of `rows`, those that were not computed


@dataclass(frozen=True, slots=True)
class DeadLimit:
    """When a job has too many dead rows, and the error that then stops it."""

    most: float  # below 1: that share of the job's rows
    error: JobError

    @classmethod
    def of(cls, spec: StageSpec) -> DeadLimit | None:
        """The limit that a stage's retry policy sets, if it sets one."""
        most = spec.retry.max_dead
        if most is None:
            return None
        allowed = f"{most:.1%} of its rows" if 0 < most < 1 else f"{most:.0f} rows"
        message = f"More than {allowed} were given up on, the most that max_dead allows; `batchmill dead` lists them."
        return cls(most, JobError(code="too_many_dead", message=message))
