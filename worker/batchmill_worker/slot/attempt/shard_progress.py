"""What several attempts have done of one shard: rows with results, rows that failed for good, rows to be tried again.

An attempt that cannot complete every row saves a checkpoint in a blob. The next attempt runs only the other rows, and
when none is left, the results of all attempts are joined in input order and committed as one. So a row that fails
sometimes, or a worker that is stopped half way, costs no other row a second run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.jobs.dead_letters import DeadLetter
from batchmill.jobs.retry import tries_row_again
from batchmill.storage.indexed import INDEX, in_order
from batchmill_worker.generation.base import BegunAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.jobs.job import RetryPolicy
    from batchmill.jobs.shard import Shard
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.runtime.failures import DeadRow
    from batchmill_worker.slot.attempt.unusable_rows import UnusableRows

_META = b"batchmill"


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that failed and is to be tried again."""

    failures: int
    first_failed_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """The progress of a shard. Rows are named by their index in the job's input, so that the halves of a split shard
    can share their parent's.
    """

    results: tuple[pa.Table, ...] = ()  # each in input order, its last column the index of the source row
    empty: frozenset[int] = frozenset()  # rows that are done without a result
    dead: tuple[DeadLetter, ...] = ()
    failed: dict[int, FailedRow] = field(default_factory=dict)
    cached: frozenset[int] = frozenset()  # rows that are done, with results from the row cache
    begun: dict[int, BegunAnswer] = field(default_factory=dict)  # answers of rows that are still to be run

    def pending(self, shard: Shard) -> Rows:
        """Return the rows of a shard that are still to be run, ascending."""
        rows = np.arange(shard.first_row, shard.first_row + shard.rows, dtype=np.int64)
        settled = [np.array([letter.index for letter in self.dead], dtype=np.int64)]
        settled += [table[INDEX].to_numpy() for table in self.results]
        settled.append(_indices(self.empty))
        return np.setdiff1d(rows, np.concatenate(settled)) if self.is_begun else rows

    @property
    def is_begun(self) -> bool:
        """Whether any row is settled."""
        return bool(self.results or self.dead or self.empty)

    @property
    def nbytes(self) -> int:
        """The bytes of its results."""
        return sum(table.nbytes for table in self.results)

    @property
    def rows_done(self) -> int:
        """The number of rows that are done, with any number of results."""
        return sum(_count_different(table[INDEX].to_numpy()) for table in self.results) + len(self.empty)

    def window(self, shard: Shard) -> ShardProgress:
        """Return the part about this shard's own rows."""
        first, behind = shard.first_row, shard.first_row + shard.rows
        inside = [
            table.filter(pc.and_(pc.greater_equal(table[INDEX], first), pc.less(table[INDEX], behind)))
            for table in self.results
        ]
        return ShardProgress(
            tuple(table for table in inside if table.num_rows),
            frozenset(row for row in self.empty if first <= row < behind),
            tuple(letter for letter in self.dead if first <= letter.index < behind),
            {row: failed for row, failed in self.failed.items() if first <= row < behind},
            frozenset(row for row in self.cached if first <= row < behind),
            {row: answer for row, answer in self.begun.items() if first <= row < behind},
        )

    def add(self, pending: Rows, result: ShardResult, context: AttemptContext) -> ShardProgress:
        """Return this progress with the result of an attempt added, which ran the rows `pending`."""
        made = pending[result.sources]
        results = (result.table.append_column(INDEX, pa.array(made)),) if made.size else ()
        without_result = np.zeros(pending.size, dtype=bool)  # a mask, since to sort sets of rows takes longer
        without_result[result.settled] = True
        without_result[[row.index for row in result.dead]] = False
        without_result[result.sources] = False
        empty = pending[without_result]
        ran = set(pending[result.settled].tolist()) if self.failed or self.begun else set()
        begun = self.begun | {int(pending[place]): answer for place, answer in result.begun.items()}
        begun = {row: answer for row, answer in begun.items() if row not in ran}
        again = {row: failed for row, failed in self.failed.items() if row not in ran}
        dead = list(self.dead)
        for one in result.dead:
            row = int(pending[one.index])
            _judge(row, self.failed.get(row, FailedRow(0, context.now)), one, context, again, dead)
        cached = self.cached if result.cached is None else self.cached | set(pending[result.cached].tolist())
        now_empty = self.empty | frozenset(empty.tolist())
        return ShardProgress(self.results + results, now_empty, tuple(dead), again, cached, begun)

    def with_unusable(self, rows: UnusableRows, stage: int, operator: str, worker: str, now: float) -> ShardProgress:
        """Return this progress with the rows that the operator does not see; those it has are left out."""
        known = {letter.index for letter in self.dead}
        letters = [
            DeadLetter(
                index=row.index,
                row=row.row,
                stage=stage,
                operator=operator,
                error_type=row.error_type,
                message=row.message,
                attempts=1,
                worker=worker,
                first_failed_at=now,
                last_failed_at=now,
            )
            for row in rows.dead
            if row.index not in known
        ]
        if not letters and not rows.skipped:
            return self
        return replace(self, dead=(*self.dead, *letters), empty=self.empty | rows.skipped)

    def table(self) -> pa.Table:
        """Return the results in input order, the index of the source row last; without any, a table without columns."""
        return in_order(self.results) if self.results else pa.table({})

    @property
    def letters(self) -> list[DeadLetter]:
        """The dead letters in input order."""
        return sorted(self.dead, key=lambda letter: letter.index)

    @property
    def worst(self) -> int:
        """The number of failures of the row that failed most, of those to be tried again."""
        return max((failed.failures for failed in self.failed.values()), default=0)


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The circumstances of an attempt that its dead letters record, and the policy that decides about failed rows."""

    stage: int
    operator: str
    worker: str
    now: float  # seconds since the epoch
    policy: RetryPolicy


def _count_different(ascending: Rows) -> int:
    return int(np.count_nonzero(np.diff(ascending))) + min(ascending.size, 1)


def _indices(rows: Iterable[int]) -> Rows:
    return np.array(sorted(rows), dtype=np.int64)


def _judge(
    row: int,
    before: FailedRow,
    one: DeadRow,
    context: AttemptContext,
    again: dict[int, FailedRow],
    dead: list[DeadLetter],
) -> None:
    """Add a row that failed to those tried `again`, or to the `dead`."""
    failures = before.failures + 1
    if one.retryable and tries_row_again(failures, one.failure.error_type, context.policy):
        again[row] = FailedRow(failures, before.first_failed_at)
        return
    dead.append(
        DeadLetter(
            stage=context.stage,
            index=row,
            row=one.row,
            operator=context.operator,
            error_type=one.failure.error_type,
            message=one.failure.message,
            traceback=one.failure.traceback,
            attempts=failures,
            worker=context.worker,
            first_failed_at=before.first_failed_at,
            last_failed_at=context.now,
        )
    )


def encode_progress(progress: ShardProgress, *, count_from_shard: bool = False) -> pa.Table:
    """Encode a progress as one table, to be stored as an Arrow file.

    count_from_shard: whether its indices count from the first row of the shard, because that is not known yet.
    """
    about: dict[str, Any] = {
        "count_from_shard": count_from_shard,
        "empty": sorted(progress.empty),
        "dead": [letter.model_dump(mode="json") for letter in progress.dead],
        "cached": sorted(progress.cached),
        "begun": [[row, answer.text, answer.tokens, answer.model] for row, answer in progress.begun.items()],
        "failed": [[row, failed.failures, failed.first_failed_at] for row, failed in progress.failed.items()],
    }
    table = in_order(progress.results) if progress.results else pa.table({INDEX: pa.array([], pa.int64())})
    return table.replace_schema_metadata({_META: json.dumps(about)})


def decode_progress(table: pa.Table, first_row: int = 0) -> ShardProgress:
    """Decode what `encode_progress` made. first_row: of the shard that it was made for."""
    about = json.loads(table.schema.metadata[_META])
    start = first_row if about.get("count_from_shard") else 0
    letters = (DeadLetter.model_validate(letter) for letter in about["dead"])
    return ShardProgress(
        (_counted_from(start, table.replace_schema_metadata(None)),) if table.num_rows else (),
        frozenset(start + row for row in about["empty"]),
        tuple(letter.model_copy(update={"index": start + letter.index}) for letter in letters),
        {start + row: FailedRow(failures, first) for row, failures, first in about["failed"]},
        frozenset(start + row for row in about["cached"]),
        {start + row: BegunAnswer(*answer) for row, *answer in about.get("begun", ())},
    )


def _counted_from(start: int, results: pa.Table) -> pa.Table:
    place = results.schema.get_field_index(INDEX)
    return results.set_column(place, INDEX, pc.add(results[INDEX], start)) if start else results
