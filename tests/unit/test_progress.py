from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batchmill.jobs.job import RetryPolicy
from batchmill.jobs.shard import Shard, ShardId
from batchmill.storage.indexed import INDEX
from batchmill_worker.engine.shard_result import ShardResult
from batchmill_worker.generation.base import BegunAnswer
from batchmill_worker.runtime.failures import DeadRow, Failure
from batchmill_worker.slot.attempt.shard_progress import (
    AttemptContext,
    ShardProgress,
    decode_progress,
    encode_progress,
)

FIRST, ROWS, ATTEMPTS = 1000, 12, 3
SHARD = Shard("job-1", 0, ShardId((0,)), FIRST, ROWS, ())
TOLD = AttemptContext(0, "op", "w", 5.0, RetryPolicy(max_attempts=ATTEMPTS))


@dataclass
class Attempt:
    """What one attempt is to do: stop after so many rows; fail on some of them."""

    rows: int = ROWS
    failing: set[int] = field(default_factory=set)
    retryable: bool = True


def run(progress: ShardProgress, attempt: Attempt, shard: Shard = SHARD) -> ShardProgress:
    pending = progress.pending(shard)
    settled = pending[: attempt.rows].tolist()
    dead = tuple(
        DeadRow(at, Failure("ValueError", "no", ""), {"n": row}, attempt.retryable)
        for at, row in enumerate(settled)
        if row - FIRST in attempt.failing
    )
    done = [row for row in settled if row - FIRST not in attempt.failing]
    table = pa.table({"n": pa.array(done, pa.int64())})
    sources = np.array([at for at, row in enumerate(settled) if row - FIRST not in attempt.failing], dtype=np.int64)
    ran = np.arange(len(settled), dtype=np.int64)
    result = ShardResult(table, sources, ran, dead, (), stopped=len(settled) < len(pending))
    return progress.add(pending, result, TOLD)


attempts = st.builds(
    Attempt,
    rows=st.integers(0, ROWS),
    failing=st.sets(st.integers(0, ROWS - 1)),
    retryable=st.booleans(),
)


@given(st.lists(attempts, max_size=6))
def test_whatever_attempts_do_every_row_is_done_or_dead_once_and_in_order(plan: list[Attempt]) -> None:
    progress, ran = ShardProgress(), []
    for attempt in [*plan, *[Attempt()] * 2]:
        ran += progress.pending(SHARD)[: attempt.rows].tolist()
        progress = decode_progress(encode_progress(run(progress, attempt)))
    assert not progress.failed
    done = [row["n"] for row in progress.table().to_pylist()]
    dead = [letter.index for letter in progress.letters]
    assert done == sorted(done)
    assert dead == sorted(dead)
    assert sorted(done + dead) == list(range(FIRST, FIRST + ROWS))
    assert all(ran.count(row) == 1 for row in done if not any(row - FIRST in attempt.failing for attempt in plan))


def test_a_row_is_tried_as_often_as_the_policy_allows_and_its_history_is_recorded() -> None:
    progress = ShardProgress()
    for failures in range(1, ATTEMPTS):
        progress = run(progress, Attempt(failing={3}))
        assert (progress.worst, progress.dead) == (failures, ())
    progress = run(progress, Attempt(failing={3}))
    (letter,) = progress.dead
    assert (letter.index, letter.attempts, letter.row) == (FIRST + 3, ATTEMPTS, {"n": FIRST + 3})
    assert progress.worst == 0


def test_a_row_that_may_not_be_tried_again_fails_at_once() -> None:
    progress = run(ShardProgress(), Attempt(failing={0}, retryable=False))
    assert [letter.attempts for letter in progress.dead] == [1]


def test_the_halves_of_a_split_shard_share_the_checkpoint_of_their_parent() -> None:
    whole = run(ShardProgress(), Attempt(rows=8, failing={1, 7}))
    left, right = (whole.window(half) for half in SHARD.halves())
    assert left.table()["n"].to_pylist() == [FIRST + n for n in (0, 2, 3, 4, 5)]
    assert right.table()["n"].to_pylist() == [FIRST + 6]
    assert (set(left.failed), set(right.failed)) == ({FIRST + 1}, {FIRST + 7})
    halves = SHARD.halves()
    assert left.pending(halves[0]).tolist() == [FIRST + 1]
    assert right.pending(halves[1]).tolist() == [FIRST + n for n in (7, 8, 9, 10, 11)]


def test_rows_that_were_not_computed_are_counted_over_all_attempts_and_by_each_half() -> None:
    progress = ShardProgress()
    for settled, cached in (([1, 3, 5], [1, 5]), ([0, 1, 6, 7, 8], [0, 8]), ([0], None)):
        pending = progress.pending(SHARD)
        ran = np.array(settled, dtype=np.int64)
        table = pa.table({"n": pa.array(pending[ran])})
        found = None if cached is None else np.array(cached, dtype=np.int64)
        result = ShardResult(table, ran, ran, (), (), stopped=True, cached=found)
        progress = decode_progress(encode_progress(progress.add(pending, result, TOLD)))
    assert sorted(progress.cached) == [FIRST + n for n in (0, 1, 5, 11)]
    assert [len(progress.window(half).cached) for half in SHARD.halves()] == [3, 1]


def test_begun_answers_are_kept_until_their_row_is_settled_and_go_with_its_half() -> None:
    def attempt(progress: ShardProgress, settled: list[int], begun: dict[int, int]) -> ShardProgress:
        pending = progress.pending(SHARD)
        ran = np.array(settled, dtype=np.int64)
        answers = {place: BegunAnswer("x" * tokens, tokens, "m") for place, tokens in begun.items()}
        table = pa.table({"n": pa.array(pending[ran])})
        result = ShardResult(table, ran, ran, (), (), stopped=True, begun=answers)
        return decode_progress(encode_progress(progress.add(pending, result, TOLD)))

    progress = attempt(ShardProgress(), [], {0: 20, 3: 30, ROWS - 1: 5})
    assert not progress.is_begun
    progress = attempt(progress, [0], {0: 40, 1: 7})
    assert {row - FIRST: one.tokens for row, one in progress.begun.items()} == {1: 7, 3: 30, ROWS - 1: 5}
    first, second = (progress.window(half).begun for half in SHARD.halves())
    assert sorted(first) + sorted(second) == [FIRST + 1, FIRST + 3, FIRST + ROWS - 1]
    assert FIRST + ROWS - 1 in second


def test_results_know_their_rows() -> None:
    progress = run(ShardProgress(), Attempt())
    assert progress.results[0].column_names == ["n", INDEX]
    assert progress.table().column_names == ["n", INDEX]


def expanded(settled: dict[int, int], pending: list[int]) -> ShardResult:
    """An attempt that ran some rows, in any place, each of which made so many results."""
    sources = np.repeat(sorted(settled), [settled[at] for at in sorted(settled)]).astype(np.int64)
    table = pa.table({"piece": pa.array([f"{pending[at]}" for at in sources])})
    ran = np.array(sorted(settled), dtype=np.int64)
    return ShardResult(table, sources, ran, (), (), stopped=len(settled) < len(pending))


@given(st.lists(st.dictionaries(st.integers(0, ROWS - 1), st.integers(0, 3)), max_size=4), st.integers(0, 3))
def test_rows_that_make_any_number_of_results_are_done_once_each_and_their_results_stay_in_order(
    plan: list[dict[int, int]], rest: int
) -> None:
    progress, made = ShardProgress(), dict[int, int]()
    for counts in [*plan, dict.fromkeys(range(ROWS), rest)]:
        pending = progress.pending(SHARD)
        counts = {at: count for at, count in counts.items() if at < len(pending)}
        made |= {int(pending[at]): count for at, count in counts.items()}
        progress = progress.add(pending, expanded(counts, pending.tolist()), TOLD)
        progress = decode_progress(encode_progress(progress))
    table = progress.table()
    expected = [row for row in range(FIRST, FIRST + ROWS) for _ in range(made[row])]
    assert (table[INDEX].to_pylist() if table.num_rows else []) == expected
    assert [int(piece) for piece in table.to_pydict().get("piece", [])] == expected
    assert progress.rows_done == ROWS
    assert progress.pending(SHARD).size == 0
    halves = [progress.window(half) for half in SHARD.halves()]
    assert sum(half.rows_done for half in halves) == ROWS
