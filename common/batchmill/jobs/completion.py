"""The result of an attempt as it is committed, and the limit of failed rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.jobs.cost import Parts
from batchmill.jobs.job import JobError
from batchmill.jobs.shard import ShardId
from batchmill.jobs.status import NO_TOKENS, TokenSums

if TYPE_CHECKING:
    from batchmill.jobs.job import StageSpec
    from batchmill.jobs.shard import Shard


@dataclass(frozen=True, slots=True)
class ShardRest:
    """The rows of a shard that a commit leaves to another one, because its results became too many."""

    shard: Shard  # with those rows, its checkpoint, and the token of the attempt
    failures: int = 0  # of the row that failed most, of those to be tried again
    delay_s: float = 0.0  # until the first attempt

    @property
    def split_id(self) -> ShardId:
        """The shard that it is a part of."""
        return ShardId(self.shard.shard_id[:-1])

    @property
    def parts(self) -> int:
        """How many parts that one has with it."""
        return self.shard.shard_id[-1] + 1

    @property
    def part_id(self) -> ShardId:
        """The part before it, which is committed."""
        return ShardId((*self.split_id, self.parts - 2))


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of an attempt, to be committed."""

    rows: int
    rows_dead: int
    nbytes: int
    busy_s: float = 0.0  # computing time, without waiting
    inline: bytes = b""  # the results as an Arrow stream; empty: they are in the sink
    dead_by_type: tuple[tuple[str, int], ...] = ()  # failed rows by error type
    results: int | None = None  # of an operator that expands: the number of results of `rows`; None: the same number
    rows_cached: int = 0  # of `rows`, those that were not computed
    rows_filtered: int = 0  # of `rows`, those without a result
    tokens: TokenSums = NO_TOKENS  # of its results, by language models
    roots_dead: int | None = None  # rows of the job's source that the failed rows are from; None: as many
    borders: str = ""  # where source rows begin among the results, if a later stage gathers them
    incomplete: tuple[int, ...] = ()  # likewise the source rows of the failed rows
    rest: ShardRest | None = None  # None: all rows of the shard are settled


@dataclass(frozen=True, slots=True)
class DeadLimit:
    """The largest number of rows of a job's source with a failed row, and the error that stops the job beyond it."""

    most: float  # below 1: that share of the rows of its source
    error: JobError

    @classmethod
    def of(cls, spec: StageSpec) -> DeadLimit | None:
        """The limit that a stage's retry policy sets, if it sets one."""
        most = spec.retry.max_dead
        if most is None:
            return None
        allowed = f"{most:.1%} of its rows" if 0 < most < 1 else f"{most:.0f} rows"
        message = f"More than {allowed} failed, the limit set by max_dead; `batchmill dead` lists them."
        return cls(most, JobError(code="too_many_dead", message=message))


@dataclass(frozen=True, slots=True)
class PassedStage:
    """What an attempt has made of its shard in a later stage that runs with its own."""

    completion: Completion
    limit: DeadLimit | None
    used: Parts  # what the attempt's time there was spent on
    version: str  # of the operator
    revision: str  # the same with its code


@dataclass(frozen=True, slots=True)
class TriedStage:
    """What becomes of a shard in the stage behind those that an attempt has passed, where it was not settled."""

    delay_s: float  # until the next attempt
    failures: int = 0  # of the shard there
    checkpoint: str = ""  # the blob with what is done
    stop_with: JobError | None = None  # what stops the job
    stalled_by: str = ""  # why storage could not be used
    pause_for: str = ""  # why the job is paused
    used: Parts = field(default_factory=Parts)  # what the attempt's time there was spent on
