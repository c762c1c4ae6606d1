"""What several attempts have done of one shard: rows with results, rows given up on, rows to be tried again.

An attempt that cannot do every row keeps what it did in a blob; the next one runs only the others, and when none is
left the results of all attempts are put together in input order and committed as one. So a row that fails now and
then, or a worker that is stopped half way, costs no other row a second run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.dead_letters import DeadLetter
from batchmill.indexed import INDEX, in_order
from batchmill.retry import tries_row_again

if TYPE_CHECKING:
    from batchmill.job import RetryPolicy
    from batchmill.shard import Shard
    from batchmill_worker.failures import DeadRow
    from batchmill_worker.shard_result import ShardResult

Rows = npt.NDArray[np.int64]
"""Indices of rows in the job's input, ascending."""

_META = b"batchmill"


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that failed and is to be tried again."""

    failures: int
    first_failed_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """Rows are named by their index in the job's input, so that the halves of a split shard share their parent's."""

    results: tuple[pa.Table, ...] = ()  # each in input order, its last column the row's index
    dead: tuple[DeadLetter, ...] = ()
    failed: dict[int, FailedRow] = field(default_factory=dict)

    def pending(self, shard: Shard) -> Rows:
        """The rows of a shard that are still to be run, in input order."""
        rows = np.arange(shard.first_row, shard.first_row + shard.rows, dtype=np.int64)
        settled = [np.array([letter.index for letter in self.dead], dtype=np.int64)]
        settled += [table[INDEX].to_numpy() for table in self.results]
        return np.setdiff1d(rows, np.concatenate(settled), assume_unique=True) if self.is_begun else rows

    @property
    def is_begun(self) -> bool:
        """Whether any row is settled."""
        return bool(self.results or self.dead)

    def window(self, shard: Shard) -> ShardProgress:
        """The part that is about a shard's own rows."""
        first, behind = shard.first_row, shard.first_row + shard.rows
        inside = [
            table.filter(pc.and_(pc.greater_equal(table[INDEX], first), pc.less(table[INDEX], behind)))
            for table in self.results
        ]
        return ShardProgress(
            tuple(table for table in inside if table.num_rows),
            tuple(letter for letter in self.dead if first <= letter.index < behind),
            {row: failed for row, failed in self.failed.items() if first <= row < behind},
        )

    def add(self, pending: Rows, result: ShardResult, told: Told) -> ShardProgress:
        """This progress and what an attempt brought, which ran the rows `pending`."""
        settled = pending[: result.rows_settled]
        done = np.delete(settled, [row.index for row in result.dead])
        results = (result.table.append_column(INDEX, pa.array(done)),) if done.size else ()
        ran = set(settled.tolist()) if self.failed else set()
        again = {row: failed for row, failed in self.failed.items() if row not in ran}
        dead = list(self.dead)
        for one in result.dead:
            row = int(settled[one.index])
            _judge(row, self.failed.get(row, FailedRow(0, told.now)), one, told, again, dead)
        return ShardProgress(self.results + results, tuple(dead), again)

    def table(self) -> pa.Table:
        """The results in input order; without any, no columns."""
        return in_order(self.results).drop_columns([INDEX]) if self.results else pa.table({})

    @property
    def letters(self) -> list[DeadLetter]:
        """The dead letters in input order."""
        return sorted(self.dead, key=lambda letter: letter.index)

    @property
    def worst(self) -> int:
        """How often the row that failed most, of those to be tried again, has failed."""
        return max((failed.failures for failed in self.failed.values()), default=0)


@dataclass(frozen=True, slots=True)
class Told:
    """Who ran an attempt, when, and by which policy."""

    operator: str
    worker: str
    now: float  # seconds since the epoch
    policy: RetryPolicy


def _judge(
    row: int, before: FailedRow, one: DeadRow, told: Told, again: dict[int, FailedRow], dead: list[DeadLetter]
) -> None:
    """Decide about a row that failed: it goes to those tried `again`, or to the `dead`."""
    failures = before.failures + 1
    if one.retryable and tries_row_again(failures, one.failure.error_type, told.policy):
        again[row] = FailedRow(failures, before.first_failed_at)
        return
    dead.append(
        DeadLetter(
            index=row,
            row=one.row,
            operator=told.operator,
            error_type=one.failure.error_type,
            message=one.failure.message,
            traceback=one.failure.traceback,
            attempts=failures,
            worker=told.worker,
            first_failed_at=before.first_failed_at,
            last_failed_at=told.now,
        )
    )


def encode_progress(progress: ShardProgress) -> pa.Table:
    """A progress as one table, to be kept as an Arrow file."""
    about: dict[str, Any] = {
        "dead": [letter.model_dump(mode="json") for letter in progress.dead],
        "failed": [[row, failed.failures, failed.first_failed_at] for row, failed in progress.failed.items()],
    }
    table = in_order(progress.results) if progress.results else pa.table({INDEX: pa.array([], pa.int64())})
    return table.replace_schema_metadata({_META: json.dumps(about)})


def decode_progress(table: pa.Table) -> ShardProgress:
    """The inverse of `encode_progress`."""
    about = json.loads(table.schema.metadata[_META])
    return ShardProgress(
        (table.replace_schema_metadata(None),) if table.num_rows else (),
        tuple(DeadLetter.model_validate(letter) for letter in about["dead"]),
        {row: FailedRow(failures, first) for row, failures, first in about["failed"]},
    )
