"""The result of an attempt, for Celery, the metrics and the job's log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.jobs.completion import Completion


class AttemptStatus(StrEnum):
    """How an attempt ended. The ledger knows already."""

    SETTLED = "settled"  # its results are the shard's
    REQUEUED = "requeued"  # another attempt will follow
    FAILED = "failed"  # none will follow, and there are no results
    DROPPED = "dropped"  # the shard is another attempt's, or its job takes no more work


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt ended and why, in words for a person."""

    status: AttemptStatus
    reason: str
    traceback: str = ""  # of the operator's exception, if one is behind it

    @classmethod
    def of_commit(cls, completion: Completion) -> AttemptResult:
        """Return the result of a committed attempt: a failure if every row of the shard failed."""
        types = ", ".join(kind for kind, _ in completion.dead_by_type)
        if completion.rows_dead == 0:
            return cls(AttemptStatus.SETTLED, f"{completion.rows} rows")
        if completion.rows == 0:
            return cls(AttemptStatus.FAILED, f"all {completion.rows_dead} rows failed: {types}")
        return cls(AttemptStatus.SETTLED, f"{completion.rows} rows, {completion.rows_dead} failed: {types}")
