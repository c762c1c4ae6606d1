"""What a job takes, from what rounds over its sample took. Pure.

1. The first round warms up: it loads models and lets the controllers find batch sizes. What it took sizes the next one.
   Where rows then turn out to take less than half of it, that one was a warm-up too, and the next is larger: shards and
   batches of a few cheap rows cost many times more a row than those of the job.
2. The last ones, of equally many rows each, are independent measurements of the same quantity, the time of devices a
   row: their mean is the estimate, and their spread says how well it is known, whatever it comes from: rows that
   differ, or a machine that is not quiet.
3. The interval also has the spread of what plans are wrong by: `PRIOR_SPREAD` until jobs of past plans have ended, then
   more and more theirs. So a service whose plans are worse shows wider intervals.
4. Failed rows have the interval of Wilson (JASA 22, 1927).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from batchmill.insights.plans import Estimate, PastPlans, PlannedStage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.insights.plans import PlanOutcome
    from batchmill.jobs.job import StageSpec
    from batchmill_coordinator.planning.record import Round

WARM_UP_ROWS = 128
MAX_WARM_UPS = 4
GROWTH = 2.0  # from a warm-up to the next, at least
MIN_ROUND_ROWS = 16
ROUNDS = 4
SAMPLE_S = 12.0  # of device time in the rounds, at most about
SAMPLE_SHARE = 0.1  # of the work of the job, at most about
MIN_SAMPLE_S = 2.0
QUANTILE = 1.2816  # of the normal distribution: 10 % are beyond it on each side
STUDENT = {2: 3.078, 3: 1.886, 4: 1.638}  # the same of Student's t for means of that many rounds
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
    measured = _measured(rounds)
    if len(measured) >= ROUNDS:
        return 0
    if len(rounds) == 1:
        return _round_rows(rounds[0], left, total)
    if len(measured) == 1 and len(rounds) <= MAX_WARM_UPS:
        larger = _round_rows(measured[0], left, total)
        if larger >= GROWTH * measured[0].rows:
            return larger
    return min(measured[0].rows, left)


def _round_rows(last: Round, left: int, total: int) -> int:
    """Return how many rows each of `ROUNDS` rounds may have, by what those of the last one took."""
    row_s = max(last.work_us / 1e6 / max(last.rows, 1), 1e-7)
    budget_s = min(SAMPLE_S, max(SAMPLE_SHARE * row_s * total, MIN_SAMPLE_S))
    return min(max(int(budget_s / ROUNDS / row_s), MIN_ROUND_ROWS), left // ROUNDS)


def row_work(rounds: Sequence[Round], outcomes: Sequence[PlanOutcome]) -> Estimate:
    """Return the seconds of devices a row, without loading models. outcomes: of past plans."""
    measured = _measured(rounds)
    values = [one.work_us / 1e6 / max(one.rows, 1) for one in measured]
    mean = max(statistics.fmean(values), 1e-9)
    return Estimate.around(mean, math.hypot(_spread_of(values), QUANTILE * _plan_spread(outcomes)))


def _spread_of(values: Sequence[float]) -> float:
    """Return half the width of the interval of the logarithm of the mean, from how the rounds differ."""
    count = len(values)
    if count < 2:
        return 0.5  # a warm-up alone says little
    deviation = statistics.stdev(values) / max(statistics.fmean(values), 1e-9)
    return STUDENT.get(count, QUANTILE) * deviation / math.sqrt(count)


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


def planned_stages(specs: Sequence[StageSpec], rounds: Sequence[Round], rows: int) -> list[PlannedStage]:
    """Return what each stage of a job of `rows` rows takes, without what its workers say of their batches."""
    measured = _measured(rounds)
    source_rows = max(sum(one.rows for one in measured), 1)
    found = []
    for number, spec in enumerate(specs):
        stages = [one.stages[number] for one in measured]
        every = [one.stages[number] for one in rounds]
        given = rows * sum(one.rows for one in stages) / source_rows
        seconds = rows * sum(one.work_us for one in stages) / 1e6 / source_rows
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
    """Return the last rounds of equally many rows, without the first of all; the first if there is no other."""
    if len(rounds) < 2:
        return rounds
    first = next(n for n in range(1, len(rounds)) if rounds[n].rows == rounds[-1].rows)
    return rounds[first:]
