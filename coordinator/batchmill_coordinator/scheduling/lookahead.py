"""Which shards may be queued before a worker is free to take them. Pure.

A message that waits in a queue keeps workers from waiting for the next one, but has its place from then on: a stage
whose first results are committed, a job of a higher priority, or another tenant comes after it. With shards of seconds
that is a long time, and nothing is gained: a worker computes one shard while it loads the next one, so the dispatcher
has time to choose a shard for the place that is free. So only short shards wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.ledger.formats.record import JobStage
    from batchmill_coordinator.fleet.pools import PoolView

MAX_SHARD_S = 0.5
"""A shard that takes longer is queued only for a free place: a message arrives within hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many more shards of a pool may be queued."""

    shards: int
    for_short: int  # of those, how many beyond what its workers take at once
    is_for_all: bool  # whether these may be of any length

    @classmethod
    def beside(cls, pool: PoolView, in_flight: int) -> Room:
        """Return the room beside shards in flight. Workers that take one shard at a time would wait for messages."""
        takes_one = any(worker.slots == 1 for worker in pool.members)
        return cls(pool.capacity + pool.window - in_flight, pool.window, takes_one)

    def has_place_for(self, one: JobStage) -> bool:
        """Return whether a shard of a stage may be queued."""
        return self.shards > (0 if self.is_for_all or _is_short(one) else self.for_short)

    def after_one(self) -> Room:
        """Return the room that is left beside one more shard."""
        return replace(self, shards=self.shards - 1)


def _is_short(one: JobStage) -> bool:
    """Return whether shards of a stage are known to be short; one that is alone in its stage is a small job's."""
    stage = one.stage
    if not stage.shards_done:
        return stage.planned and stage.shards_planned == 1
    return one.busy_us <= MAX_SHARD_S * 1e6 * stage.shards_done
