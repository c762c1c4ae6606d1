"""The work that a job leaves which ends before it is done: the ledger reads it, and a manifest keeps it."""

from __future__ import annotations

from batchmill.jobs.frozen import Frozen


class UnfinishedShard(Frozen):
    """A shard that was planned and not settled."""

    id: str
    token: int  # of its last attempt; the next must have a higher one
    plan: str  # as `Shard.plan` writes it


FORMAT = 2
"""The form of unfinished work. It rises when names of blobs or entries of the ledger change their form."""


class UnfinishedWork(Frozen):
    """What a job has done and left that ended before its work was done, so that another one can resume it."""

    version: int = 1  # its form; manifests from before there were versions have none
    settled: dict[str, str]  # by shard id, the ledger's entries
    shards: tuple[UnfinishedShard, ...]
    cursor: str  # where the planner stopped
    at_end: bool  # whether that was the source's end
    rows_planned: int
    shards_planned: int
