"""Attempts with too many results, followed from one to the next: which rows each runs, and what it commits."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batchmill.jobs.job import RetryPolicy
from batchmill.jobs.shard import Shard, ShardId
from batchmill_worker.engine.shard_result import ShardResult
from batchmill_worker.runtime.failures import DeadRow, Failure
from batchmill_worker.slot.attempt.partial_results import (
    GROWTH,
    MAX_ROW_PARTS,
    part_and_rest,
    rows_to_run,
    with_results_of,
    without_too_large_rows,
)
from batchmill_worker.slot.attempt.shard_progress import AttemptContext, ShardProgress

FIRST, LIMIT, BATCH, ATTEMPTS = 100, 1_000, 3, 2
CONTEXT = AttemptContext(0, "op", "w", 5.0, RetryPolicy(max_attempts=ATTEMPTS))
RESULT = 100  # bytes


def run(shard: Shard, before: ShardProgress, sizes: list[int], flaky: set[int]) -> ShardProgress:
    """An attempt in batches of `BATCH` rows, until it has `LIMIT` bytes. sizes: results of each row; 0: none."""
    pending = rows_to_run(shard, before, before.pending(shard), LIMIT)
    settled, sources, dead, made = 0, list[int](), list[DeadRow](), 0
    while settled < pending.size and made < LIMIT:
        for place in range(settled, min(settled + BATCH, pending.size)):
            row = int(pending[place])
            if row in flaky and row not in before.failed:
                dead.append(DeadRow(place, Failure("ValueError", "no", ""), {"n": row}, retryable=True))
            else:
                sources += [place] * sizes[row - FIRST]
                made += RESULT * sizes[row - FIRST]
        settled = min(settled + BATCH, pending.size)
    table = pa.table({"n": [str(int(pending[place])).ljust(RESULT - 12) for place in sources]})
    ran = np.arange(settled, dtype=np.int64)
    result = ShardResult(table, np.array(sources, dtype=np.int64), ran, tuple(dead), (), stopped=settled < pending.size)
    return before.add(pending, result, CONTEXT)


@given(
    st.lists(st.sampled_from([0, 1, 1, 3, 9, 30]), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=5).map(lambda rows: {FIRST + row for row in rows}),
)
def test_every_row_is_committed_once_in_parts_of_bounded_size(sizes: list[int], flaky: set[int]) -> None:
    shard: Shard | None = Shard("job-1", 0, ShardId((0,)), FIRST, len(sizes), ())
    progress, done, attempts = ShardProgress(), list[tuple[int, int]](), 0
    ids = list[ShardId]()
    while shard is not None:
        attempts += 1
        assert attempts <= 3 * len(sizes) + ATTEMPTS, "it makes no progress"
        progress = run(shard, progress, sizes, flaky)
        found = part_and_rest(shard, progress, LIMIT)
        if found is None and (progress.failed or progress.pending(shard).size):
            continue
        settled, part = (found.settled, found.part) if found else (progress, shard)
        assert not settled.pending(part).size
        assert settled.nbytes <= LIMIT + RESULT // 4 or part.rows == 1  # a copy has other padding than a slice
        rows = settled.table()
        done += [(part.first_row, part.rows)]
        ids.append(part.shard_id)
        expected = [str(row).ljust(RESULT - 12) for row in range(part.first_row, part.first_row + part.rows)]
        counts = sizes[part.first_row - FIRST : part.first_row - FIRST + part.rows]
        made = [text for text, count in zip(expected, counts, strict=True) for _ in range(count)]
        assert (rows["n"].to_pylist() if made else []) == made
        shard, progress = (found.rest, found.left) if found else (None, ShardProgress())
        assert progress.nbytes <= LIMIT
    assert [row for first, rows in done for row in range(first, first + rows)] == [FIRST + n for n in range(len(sizes))]
    assert ids == sorted(ids)


def test_an_attempt_of_a_rest_runs_twice_as_many_rows_as_fitted_before() -> None:
    shard = Shard("job-1", 0, ShardId((0,)), FIRST, 50, ())
    _, rest = shard.part_and_rest(4)
    pending = ShardProgress().pending(rest)
    assert rows_to_run(rest, ShardProgress(), pending, LIMIT).tolist() == pending[: GROWTH * 4].tolist()
    assert rows_to_run(rest, ShardProgress(), pending, None).size == 46
    assert rows_to_run(shard, ShardProgress(), pending, LIMIT).size == 46


def test_what_a_gap_keeps_from_being_committed_is_not_added_to() -> None:
    shard = Shard("job-1", 0, ShardId((0,)), FIRST, 30, ())
    progress = run(shard, ShardProgress(), [0, 5, 5, 5, *[1] * 26], {FIRST})
    assert part_and_rest(shard, progress, LIMIT) is None
    assert rows_to_run(shard, progress, progress.pending(shard), LIMIT).tolist() == [FIRST]


def test_only_the_results_of_a_part_are_kept_for_the_next_attempt() -> None:
    shard = Shard("job-1", 0, ShardId((0,)), FIRST, 30, ())
    progress = run(shard, ShardProgress(), [9] * 30, {FIRST + 2})
    found = part_and_rest(shard, progress, LIMIT)
    assert found is not None
    kept = with_results_of(found, progress)
    assert kept.nbytes <= LIMIT + RESULT // 4 < progress.nbytes
    assert kept.failed == progress.failed


def test_a_row_whose_results_alone_are_too_many_has_failed() -> None:
    shard = Shard("job-1", 0, ShardId((0,)), FIRST, 3, ())
    large = MAX_ROW_PARTS * LIMIT // RESULT
    progress = run(shard, ShardProgress(), [large - 5, large + 5, 1], set())
    found = without_too_large_rows(progress, CONTEXT, LIMIT, lambda rows: pa.table({"n": rows}))
    (letter,) = found.dead
    assert (letter.index, letter.row, letter.error_type) == (FIRST + 1, {"n": FIRST + 1}, "TooManyResults")
    assert found.rows_done == 2
    assert without_too_large_rows(found, CONTEXT, LIMIT, lambda rows: pa.table({"n": rows})) == found
