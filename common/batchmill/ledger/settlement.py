"""How shards are settled: what a commit brings, when it is one dead row too many, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.job import JobError
from batchmill.shard import ShardId

if TYPE_CHECKING:
    from batchmill.job import JobSpec


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
    def of(cls, spec: JobSpec) -> DeadLimit | None:
        """The limit that a job's retry policy sets, if it sets one."""
        most = spec.retry.max_dead
        if most is None:
            return None
        allowed = f"{most:.1%} of its rows" if 0 < most < 1 else f"{most:.0f} rows"
        message = f"More than {allowed} were given up on, the most that max_dead allows; `batchmill dead` lists them."
        return cls(most, JobError(code="too_many_dead", message=message))


@dataclass(frozen=True, slots=True)
class Settled:
    """A committed shard: whose attempt counts, and how much it brought."""

    shard_id: ShardId
    token: int
    rows: int
    rows_dead: int
    nbytes: int
    first_row: int  # 0-based index of the shard's first row in the job's input
    expanded_to: int | None = None  # how many results the rows made; None: one each
    plan: str = ""  # of a shard that was cut short, because its job stopped: rows of it were left

    @property
    def results(self) -> int:
        """How many results it has."""
        return self.rows if self.expanded_to is None else self.expanded_to

    def entry(self) -> str:
        """What the ledger keeps of it: the inverse of `parse_settled`."""
        entry = f"{self.token} {self.rows} {self.rows_dead} {self.nbytes} {self.first_row}"
        if self.expanded_to is None and not self.plan:
            return entry
        return f"{entry} {'-' if self.expanded_to is None else self.expanded_to} {self.plan}".rstrip()


@dataclass(frozen=True, slots=True)
class SplitUp:
    """A shard that was replaced by its halves."""

    shard_id: ShardId
    parts: int

    def children(self) -> list[ShardId]:
        """The shards that took over, in input order."""
        return [ShardId((*self.shard_id, number)) for number in range(self.parts)]


def parse_settled(shard_id: ShardId, value: bytes | None) -> Settled | SplitUp | None:
    """What the ledger's entry of a settled shard says; None for none."""
    if value is None:
        return None
    if value.startswith(b"split "):
        return SplitUp(shard_id, int(value.removeprefix(b"split ")))
    token, rows, dead, nbytes, first_row, *more = value.split(maxsplit=6)
    expanded_to = int(more[0]) if more and more[0] != b"-" else None
    plan = more[1].decode() if len(more) > 1 else ""
    return Settled(shard_id, int(token), int(rows), int(dead), int(nbytes), int(first_row), expanded_to, plan)
