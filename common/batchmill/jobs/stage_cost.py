"""What a row costs in a stage, as workers have measured it, for fusing stages and for the size of first shards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from batchmill.jobs.shard import FIRST_ROWS

if TYPE_CHECKING:
    from batchmill.jobs.job import StageSpec

FIRST_SHARD_S = 0.02  # what a first shard may take by the cost of other jobs' rows; about what a shard costs beside it
MAX_FIRST_ROWS = 4096


@dataclass(frozen=True, slots=True)
class StageCost:
    """Seconds a row of recent attempts, all of the operator's hooks included.

    low_s: the lowest, since first calls, and other work on the machine, only add. high_s: the highest, since rows may
    differ; an attempt of fewer than `FIRST_ROWS` rows counts as one of that many, since its fixed costs are most of it.
    """

    low_s: float
    high_s: float

    @classmethod
    def parse(cls, text: bytes | str) -> Self:
        """Read what `to_text` wrote. Raises `ValueError`."""
        low, high = text.split()
        return cls(float(low), float(high))

    def to_text(self) -> str:
        """Write it as it is kept among the profiles."""
        return f"{self.low_s:.3g} {self.high_s:.3g}"


def first_rows(cost: StageCost | None) -> int:
    """Return the maximum of rows of a first shard: more than usual only if they are known to cost next to nothing."""
    if cost is None or cost.high_s <= 0:
        return FIRST_ROWS
    return min(max(int(FIRST_SHARD_S / cost.high_s), FIRST_ROWS), MAX_FIRST_ROWS)


def stage_cost_name(stage: StageSpec, version: str) -> str:
    """Name the measured cost of a stage among the profiles. version: of its operator."""
    text = json.dumps(stage.params, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"cost:{stage.pool}:{stage.operator}:{version}:{digest}"
