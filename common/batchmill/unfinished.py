"""The progress of a job that ended before it was complete, as the ledger records it and a manifest stores it."""

from __future__ import annotations

from batchmill.job import Frozen


class RestShard(Frozen):
    """A shard that was planned and not settled."""

    id: str
    token: int  # of its last attempt; the next must have a higher one
    plan: str  # as `Shard.plan` writes it


class Rest(Frozen):
    """The progress of a job that ended before it was complete, so that another job can continue it."""

    settled: dict[str, str]  # by shard id, the ledger's entries
    shards: tuple[RestShard, ...]
    cursor: str  # where the planner stopped
    at_end: bool  # whether that was the source's end
    rows_planned: int
    shards_planned: int
