"""What becomes of an attempt whose results are too many: it commits the first rows of its shard, as a part.

1. A part ends between two rows. It has as many rows as are settled without a gap from the first of the shard on, and
   have at most `max_bytes` of results, at least one. Another shard has the other rows: the rest.
2. What is settled of the rest is kept in its checkpoint, if that is at most `max_bytes` too; else it runs again.
3. An attempt of a rest runs at most twice as many rows as the part before it had, so that it makes little beyond the
   limit. If a gap keeps results from being committed, only the rows before the last result are run.
4. A row cannot be divided. One whose results alone exceed `MAX_ROW_PARTS` times the limit is a failed row.

Rejected: several parts in one commit. Their results would have to be in memory together, and so would those of a stage
that runs with this one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from batchmill.columns import rows_of
from batchmill.jobs.dead_letters import TOO_MANY_RESULTS, DeadLetter, json_value
from batchmill.storage.indexed import INDEX
from batchmill.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchmill.jobs.shard import Shard
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.slot.attempt.shard_progress import AttemptContext, ShardProgress

MAX_ROW_PARTS = 4
"""A row may have this many times the results of a part: it is stored as one."""

GROWTH = 2


class PartAndRest(NamedTuple):
    """The first rows of a shard, all settled, and the others."""

    part: Shard
    settled: ShardProgress
    rest: Shard
    left: ShardProgress


def rows_to_run(shard: Shard, before: ShardProgress, pending: Rows, max_bytes: int | None) -> Rows:
    """Return which of the pending rows an attempt runs. before: what earlier attempts have done."""
    if max_bytes is None or not pending.size:
        return pending
    if before.nbytes >= max_bytes:
        last = max(int(table[INDEX].to_numpy()[-1]) for table in before.results if table.num_rows)
        return pending[pending < last]
    return pending[: GROWTH * shard.fitting_rows] if shard.fitting_rows else pending


def part_and_rest(shard: Shard, progress: ShardProgress, max_bytes: int) -> PartAndRest | None:
    """Cut a shard behind the rows that a part can have; None if these are all of its rows, or none."""
    table, first = progress.table(), shard.first_row
    most = _settled_rows(shard, progress)
    index = table[INDEX].to_numpy() if table.num_columns else np.empty(0, dtype=np.int64)
    fits, beyond = 0, most + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if table.slice(0, int(np.searchsorted(index, first + middle))).nbytes <= max_bytes:
            fits = middle
        else:
            beyond = middle
    rows = min(max(fits, 1), most)
    if not 0 < rows < shard.rows:
        return None
    part, rest = shard.part_and_rest(rows)
    left = progress.window(rest)
    if left.nbytes > max_bytes:
        left = replace(left, results=(), empty=frozenset(), cached=frozenset())
    return PartAndRest(part, progress.window(part), rest, left)


def with_results_of(cut: PartAndRest, progress: ShardProgress) -> ShardProgress:
    """Return the progress of a shard with no results but those of its part."""
    settled = cut.settled
    return replace(progress, results=settled.results, empty=settled.empty, cached=settled.cached)


def without_too_large_rows(
    progress: ShardProgress, context: AttemptContext, max_bytes: int, input_rows: Callable[[Sequence[int]], pa.Table]
) -> ShardProgress:
    """Let rows fail whose results alone are too many for a part, whatever their retry policy is.

    input_rows: returns rows of the shard, by their index in the stage's input.
    """
    limit = MAX_ROW_PARTS * max_bytes
    if progress.nbytes <= limit:
        return progress
    table = progress.table()
    too_large = {row: made for row, made in _by_row(table) if made.nbytes > limit}
    if not too_large:
        return progress
    given = dict(zip(too_large, rows_of(input_rows(list(too_large))), strict=True))
    letters = [
        DeadLetter(
            index=row,
            row=json_value(given[row]),
            stage=context.stage,
            operator=context.operator,
            error_type=TOO_MANY_RESULTS,
            message=f"its {count(made.num_rows, 'result')} have {made.nbytes:,} bytes; one row may make {limit:,}. Let "
            "the operator make less from a row, or raise BATCHMILL_MAX_RESULT_BYTES of the workers.",
            attempts=progress.failed[row].failures + 1 if row in progress.failed else 1,
            worker=context.worker,
            first_failed_at=context.now,
            last_failed_at=context.now,
        )
        for row, made in too_large.items()
    ]
    keep = ~np.isin(table[INDEX].to_numpy(), list(too_large))
    kept = table.filter(pa.array(keep))
    return replace(
        progress,
        results=(kept,) if kept.num_rows else (),
        dead=(*progress.dead, *letters),
        cached=progress.cached - too_large.keys(),
    )


def _settled_rows(shard: Shard, progress: ShardProgress) -> int:
    """Return how many rows are settled, from the first of the shard on, without a gap."""
    pending = progress.pending(shard)
    return int(pending[0]) - shard.first_row if pending.size else shard.rows


def _by_row(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield each row with its results, which are in input order."""
    rows, starts = np.unique(table[INDEX].to_numpy(), return_index=True)
    stops = [*starts[1:].tolist(), table.num_rows]
    for row, start, stop in zip(rows.tolist(), starts.tolist(), stops, strict=True):
        yield row, table.slice(start, stop - start)
