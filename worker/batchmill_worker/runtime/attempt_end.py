"""How an attempt ended, as whoever started it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.completion import Completion


class EndingKind(StrEnum):
    """The four ways; the ledger has already been told."""

    SETTLED = "settled"  # its results are the shard's
    PUT_BACK = "put back"  # another attempt will follow
    FAILED = "failed"  # none will follow, and there are no results
    DROPPED = "dropped"  # the shard is another attempt's, or its job takes no more work


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of an attempt, and why, in words for a person."""

    kind: EndingKind
    why: str

    @classmethod
    def of_commit(cls, completion: Completion) -> Ending:
        """The ending of an attempt that was committed: a failure if every row of the shard was given up on."""
        types = ", ".join(kind for kind, _ in completion.dead_by_type)
        if completion.rows_dead == 0:
            return cls(EndingKind.SETTLED, f"{completion.rows} rows")
        if completion.rows == 0:
            return cls(EndingKind.FAILED, f"all {completion.rows_dead} rows were given up on: {types}")
        return cls(EndingKind.SETTLED, f"{completion.rows} rows, {completion.rows_dead} given up on: {types}")
