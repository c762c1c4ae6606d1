"""The work that a job leaves which ends before it is done: the ledger reads it, and a manifest keeps it."""

from __future__ import annotations

from pydantic import Field

from batchmill.jobs.frozen import Frozen


class UnfinishedShard(Frozen):
    """A shard that was planned and not settled."""

    id: str
    token: int  # of its last attempt; the next must have a higher one
    plan: str  # as `Shard.plan` writes it


FORMAT = 2
"""The form of unfinished work. It rises when names of blobs or entries of the ledger change their form."""


class StageWork(Frozen):
    """What a job has done and left of a stage."""

    settled: dict[str, str]  # by shard id, the ledger's entries
    shards: tuple[UnfinishedShard, ...]
    cursor: str  # where the planner stopped
    at_end: bool  # whether that was the input's end
    rows_planned: int
    shards_planned: int
    rows_filtered: int = 0
    joins: bool = False  # whether it ran with the stage before it, and has the same shards
    freed: str = ""  # of a stage that is not the last: how far its parts are freed, see `FreedParts`
    bytes_freed: int = 0
    borders: dict[str, str] = Field(default_factory=dict)  # `SourceRowBorders` by shard id


class UnfinishedWork(StageWork):
    """What a job has done and left that ended before its work was done, so that another one can resume it.

    Its own fields are about the last stage.
    """

    version: int = 1  # its form; manifests from before there were versions have none
    earlier: tuple[StageWork, ...] = ()  # of the stages before the last one
    incomplete: tuple[int, ...] = ()  # source rows with failed rows, before a stage that gathers

    @property
    def stages(self) -> tuple[StageWork, ...]:
        """The work of all stages, in order."""
        return (*self.earlier, self)
