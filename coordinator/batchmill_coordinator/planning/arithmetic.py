"""What a job takes, from what rounds over its sample took. Pure.

1. The first round warms up: it loads models and lets the controllers find batch sizes. What it took sizes the next one.
   Where rows then turn out to take less than half of it, that one was a warm-up too, and the next is larger.
2. Each round is one shard in each stage. A shard has costs of its own: it waits for its first batch, its last batches
   are small, and rows of few others are padded to each other's length. With 64 texts in a shard, embeddings take 10 to
   35 % more time a row than with 500. So the rounds that count have two sizes, large, small, small, large, and the line
   `a row + a shard / rows` through what a row took in each says what rows take in shards of the job's size. Their
   order is balanced, so that a machine that becomes slower or faster changes the level of the line only.
3. Where neighbours in the source are of a size, as in sorted texts, a job needs less padding than the sample, whose
   order is mixed. The time for padding, which the rounds have measured, then counts by as much less as they are alike.
4. How far they are from the line says how well it is known there, by the interval of a prediction with Student's t,
   whatever it comes from: rows that differ, or a machine that is not quiet.
5. The interval also has the spread of what plans are wrong by: `PRIOR_SPREAD` until jobs of past plans have ended, then
   more and more theirs. It holds what the rounds cannot see, as a machine that changes between plan and job. So a
   service whose plans are worse shows wider intervals.
6. Failed rows have the interval of Wilson (JASA 22, 1927).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from batchmill.insights.plans import Estimate, PastPlans, PlannedStage
from batchmill_coordinator.scheduling.shard_size import expected_shards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.insights.plans import PlanOutcome
    from batchmill.jobs.job import StageSpec
    from batchmill_coordinator.planning.record import Round

WARM_UP_ROWS = 128
MAX_WARM_UPS = 4
GROWTH = 2.0  # from a warm-up to the next, at least
MIN_ROUND_ROWS = 16
SMALL = 3  # times fewer rows are in the small rounds
ROUNDS = 4  # two large ones and two small ones
SAMPLE_S = 12.0  # of device time in the rounds, at most about
SAMPLE_SHARE = 0.1  # of the work of the job, at most about
MIN_SAMPLE_S = 2.0
QUANTILE = 1.2816  # of the normal distribution: 10 % are beyond it on each side
STUDENT = {1: 3.078, 2: 1.886, 3: 1.638}  # the same of Student's t, by degrees of freedom
PRIOR_SPREAD = 0.06  # of the logarithm of the actual time over the planned one
PRIOR_PLANS = 3  # that the prior counts as
MAX_PAST = 50
MAX_START_S = 2.0


def next_rows(rounds: Sequence[Round], kept: int, taken: int, total: int) -> int:
    """Return how many rows of the sample the next round gets; 0: there is no further one.

    kept: rows of the sample. taken: by the rounds before. total: rows of the job.
    """
    left = kept - taken
    if not rounds:
        return min(WARM_UP_ROWS, max(kept // (ROUNDS + 1), 1), left)
    if len(rounds) == 1:
        return _round_rows(rounds[0], left, total)
    measured = _measured(rounds)
    if len(measured) >= ROUNDS:
        return 0
    large, small = measured[0].rows, _small(measured[0].rows)
    if len(measured) == 1 and len(rounds) <= MAX_WARM_UPS:
        larger = _round_rows(measured[0], left, total)
        if larger >= GROWTH * large:
            return larger
    return min(small if len(measured) < ROUNDS - 1 else large, left)


def _small(large: int) -> int:
    return max(large // SMALL, 1)


def _round_rows(last: Round, left: int, total: int) -> int:
    """Return how many rows each large one of `ROUNDS` rounds may have, by what those of the last one took."""
    row_s = max(_row_s(last), 1e-7)
    budget_s = min(SAMPLE_S, max(SAMPLE_SHARE * row_s * total, MIN_SAMPLE_S))
    large = ROUNDS / 2 * (1 + 1 / SMALL)  # that all rounds are as many rows as
    return min(max(int(budget_s / large / row_s), MIN_ROUND_ROWS), int(left / large))


def _row_s(one: Round) -> float:
    return one.work_us / 1e6 / max(one.rows, 1)


def row_work(
    rounds: Sequence[Round], outcomes: Sequence[PlanOutcome], rows_of_shard: float = math.inf, alike: float = 0.0
) -> Estimate:
    """Return the seconds of devices a row, without loading models.

    outcomes: of past plans. rows_of_shard: of the job, on average. alike: how much neighbours in the source are.
    """
    measured = _measured(rounds)
    value, spread = _on_line(measured, 1 / rows_of_shard)
    padding = sum(one.padding_us for one in measured) / max(sum(one.work_us for one in measured), 1)
    around = Estimate.around(value, math.hypot(spread, QUANTILE * _plan_spread(outcomes)))
    return around.scaled(1 - alike * padding)


def shard_rows(rounds: Sequence[Round], rows: int, workers: int, target_s: float) -> float:
    """Return how many rows of the source a shard of the job has on average, in the stages that take the time.

    target_s: how long workers should be at work on a shard.
    """
    measured = _measured(rounds)
    given = max(sum(one.rows for one in measured), 1)
    work_us = max(sum(one.work_us for one in measured), 1)
    shards = 0.0
    for stages in zip(*(one.stages for one in measured), strict=True):
        stage_rows, stage_us = sum(one.rows for one in stages), sum(one.work_us for one in stages)
        row_s = max(stage_us / 1e6 / max(stage_rows, 1), 1e-9)
        shards += stage_us / work_us * expected_shards(round(rows * stage_rows / given), row_s, workers, target_s)
    return max(rows / max(shards, 1.0), 1.0)


def _on_line(measured: Sequence[Round], at: float) -> tuple[float, float]:
    """Return what a row takes where 1 / rows of a shard is `at`, and half the width of the interval of its logarithm.

    Nothing has negative costs: a line that says so is replaced by the mean, or by that of the largest rounds.
    """
    shares, values = [1 / max(one.rows, 1) for one in measured], [_row_s(one) for one in measured]
    mean, middle = statistics.fmean(values), statistics.fmean(shares)
    width = sum((share - middle) ** 2 for share in shares)
    if len(measured) < ROUNDS or not width:
        return _around_mean(values)
    shard_s = sum((share - middle) * value for share, value in zip(shares, values, strict=True)) / width
    if shard_s <= 0:
        return _around_mean(values)
    row_s = mean - shard_s * middle
    if row_s <= 0:
        return _around_mean([value for share, value in zip(shares, values, strict=True) if share == min(shares)])
    squares = sum((value - row_s - shard_s * share) ** 2 for share, value in zip(shares, values, strict=True))
    free, found = len(measured) - 2, row_s + shard_s * at
    deviation = math.sqrt(squares / free * (1 / len(measured) + (at - middle) ** 2 / width))
    return found, STUDENT.get(free, QUANTILE) * deviation / found


def _around_mean(values: Sequence[float]) -> tuple[float, float]:
    count, mean = len(values), max(statistics.fmean(values), 1e-9)
    if count < 2:
        return mean, 0.5  # a warm-up alone says little
    return mean, STUDENT.get(count - 1, QUANTILE) * statistics.stdev(values) / mean / math.sqrt(count)


def _plan_spread(outcomes: Sequence[PlanOutcome]) -> float:
    squares = sum(one.log_error**2 for one in outcomes[:MAX_PAST])
    known = len(outcomes[:MAX_PAST])
    return math.sqrt((PRIOR_PLANS * PRIOR_SPREAD**2 + squares) / (PRIOR_PLANS + known))


def past(outcomes: Sequence[PlanOutcome]) -> PastPlans | None:
    """Summarize how good plans were, the latest first; None without any."""
    latest = outcomes[:MAX_PAST]
    if not latest:
        return None
    errors = [abs(math.expm1(one.log_error)) for one in latest]
    return PastPlans(
        plans=len(latest), within=sum(one.is_within for one in latest), median_error=statistics.median(errors)
    )


def row_cost(rounds: Sequence[Round]) -> float:
    """Return what a second of devices cost, in units of the currency."""
    measured = _measured(rounds)
    work_us = sum(one.work_us for one in measured)
    return sum(one.nano for one in measured) / 1e9 / (work_us / 1e6) if work_us else 0.0


def start_s(rounds: Sequence[Round], workers: int) -> float:
    """Return the time of a job in which no device is at work for it: before its first row, and after its last."""
    spent = (one.seconds - (one.work_us + one.load_us) / 1e6 / max(workers, 1) for one in _measured(rounds))
    return min(max(min(spent), 0.0), MAX_START_S)


def planned_stages(specs: Sequence[StageSpec], rounds: Sequence[Round], rows: int, work_s: float) -> list[PlannedStage]:
    """Return what each stage of a job of `rows` rows takes, without what its workers say of their batches.

    work_s: of all of them together.
    """
    measured = _measured(rounds)
    source_rows = max(sum(one.rows for one in measured), 1)
    measured_us = max(sum(one.work_us for one in measured), 1)
    found = []
    for number, spec in enumerate(specs):
        stages = [one.stages[number] for one in measured]
        every = [one.stages[number] for one in rounds]
        given = rows * sum(one.rows for one in stages) / source_rows
        seconds = work_s * sum(one.work_us for one in stages) / measured_us
        share = wilson(sum(one.dead for one in every), sum(one.rows for one in every))
        found.append(
            PlannedStage(
                name=spec.title,
                operator=spec.operator,
                pool=spec.pool,
                rows=round(given, 1),
                seconds=seconds,
                failing=share.scaled(given),
            )
        )
    return found


def errors(rounds: Sequence[Round]) -> dict[str, int]:
    """Return how many rows of the sample failed with which error."""
    found: Counter[str] = Counter()
    for one in rounds:
        found.update(one.errors)
    return dict(found)


def wilson(failed: int, rows: int) -> Estimate:
    """Return the share of rows that fail, from how many of some did."""
    if rows == 0:
        return Estimate(value=0.0, low=0.0, high=0.0)
    share, square = failed / rows, QUANTILE**2
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    half = QUANTILE / (1 + square / rows) * math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    return Estimate(value=share, low=max(middle - half, 0.0) if failed else 0.0, high=min(middle + half, 1.0))


def _measured(rounds: Sequence[Round]) -> Sequence[Round]:
    """Return the last large round and the others of its size and the small one, without the first of all.

    The first if there is no other.
    """
    if len(rounds) < 2:
        return rounds

    def is_first(number: int) -> bool:
        large = rounds[number].rows
        return all(one.rows in (large, _small(large)) for one in rounds[number:])

    return rounds[next(filter(is_first, range(1, len(rounds)))) :]
