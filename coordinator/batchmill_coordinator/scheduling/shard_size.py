"""How many rows the next shard gets: few at first, then as many as make a worker busy for a while. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill.jobs.shard import FIRST_ROWS
from batchmill.jobs.stage_cost import StageCost, first_rows

MAX_GROWTH = 8  # times the rows of the shards before it
TAIL_SHARDS = 2  # that every worker process still gets, about, near the end of a source
MIN_SHARD_S = 0.5  # a shard of less work than this is mostly overhead
UNLIMITED_ROWS = 2**40  # of a shard that only its bytes limit
MAX_FORETOLD = 2_000  # shards; a stage with more has as many rows in each of the others as in the last of these


@dataclass(frozen=True, slots=True)
class StageProgress:
    """What is known of a stage when its next shard is planned."""

    rows_timed: int  # rows of the shards that are done
    busy_s: float  # the time they took together
    shards_done: int
    rows_left: int | None  # None when the source's end is not known
    workers: float  # processes of the pool, each with a device or a share of one: how many like the slowest do as much
    first_rows: int = FIRST_ROWS  # of a shard, while nothing of the stage is timed


def next_rows(progress: StageProgress, target_s: float) -> int:
    """Return the maximum of rows of the next shard: about `target_s` of work by the throughput measured so far.

    It has at most `MAX_GROWTH` times the rows of a shard so far, on average, or as many as were measured altogether:
    the first shards say nothing about rows that are unlike theirs.

    Guided self-scheduling towards the end (Polychronopoulos and Kuck, 1987), so that no worker is left with a long
    last shard while the others are idle. Any worker may take any shard, so where devices differ, it is sized for the
    slowest of them.
    """
    if progress.shards_done == 0 or progress.rows_timed == 0:
        return progress.first_rows
    rows_per_s = progress.rows_timed / max(progress.busy_s, 1e-6)
    grown = max(MAX_GROWTH * progress.rows_timed // progress.shards_done, progress.rows_timed)
    wanted = min(int(rows_per_s * target_s), grown)
    if progress.rows_left is not None:
        fair = int(progress.rows_left / (TAIL_SHARDS * max(progress.workers, 1)))
        wanted = min(wanted, max(fair, int(rows_per_s * MIN_SHARD_S)))
    return max(wanted, FIRST_ROWS if wanted >= FIRST_ROWS else 1)


def expected_shards(rows: int, row_s: float, workers: int, target_s: float) -> float:
    """Return in how many shards that many rows of a stage will be run, each of which takes `row_s`.

    Some are planned ahead of those that are done, as the planner does it.
    """
    ahead = 2 * workers + max(2, workers) + 2  # as `PoolView.horizon`, with two shards at once in each
    left, timed, done, first = rows, 0, 0, first_rows(StageCost(row_s, row_s))
    planned: list[int] = []
    while left > 0 and len(planned) < MAX_FORETOLD:
        if len(planned) - done >= ahead:
            timed, done = timed + planned[done], done + 1
        progress = StageProgress(timed, timed * row_s, done, left, workers, first)
        planned.append(min(next_rows(progress, target_s), left))
        left -= planned[-1]
    return len(planned) + left / planned[-1] if planned else 0.0
