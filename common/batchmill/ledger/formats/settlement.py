"""What the ledger keeps of a settled shard."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill.jobs.shard import ShardId, ShardRef


@dataclass(frozen=True, slots=True)
class Settled:
    """A committed shard: whose attempt counts, and how much it brought."""

    stage: int
    shard_id: ShardId
    token: int
    rows: int
    rows_dead: int
    nbytes: int
    first_row: int  # 0-based index of the shard's first row in the stage's input
    expanded_to: int | None = None  # how many results the rows made; None: one each
    plan: str = ""  # of a shard that was cut short, because its job stopped: rows of it were left

    def ref(self, job_id: str) -> ShardRef:
        """The attempt that counts."""
        return ShardRef(job_id, self.stage, self.shard_id, self.token)

    @property
    def results(self) -> int:
        """How many results it has."""
        return self.rows if self.expanded_to is None else self.expanded_to


@dataclass(frozen=True, slots=True)
class SplitUp:
    """A shard that was replaced by its halves."""

    shard_id: ShardId
    parts: int

    def children(self) -> list[ShardId]:
        """The shards that took over, in input order."""
        return [ShardId((*self.shard_id, number)) for number in range(self.parts)]
