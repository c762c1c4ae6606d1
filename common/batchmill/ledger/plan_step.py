"""What one step of planning adds to a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.shard import Shard
    from batchmill.sources.base import RowCount


@dataclass(frozen=True, slots=True)
class PlanStep:
    """What the planner adds to a job in one step."""

    shards: Sequence[Shard]
    sizes: Sequence[int]  # of each shard, in bytes
    cursor: str
    at_end: bool
    total: RowCount | None
