"""How long a job will still take, with a range, from the pace of its last commits. Pure.

1. The ledger keeps the last intervals between commits: how long each was, how many rows were settled in it.
2. They are observations of a rate that drifts: a local level model (J. F. Muth, "Optimal properties of exponentially
   weighted forecasts", JASA 55, 1960; A. C. Harvey, "Forecasting, structural time series models and the Kalman filter",
   1989). How much it drifts compared with its noise is not known: each of some ratios is filtered, and weighted by how
   well it predicted the intervals.
3. The remaining rows take until a process with that rate and noise has settled them, the first passage time of Brownian
   motion with drift (J. L. Folks, R. S. Chhikara, "The inverse Gaussian distribution and its statistical application",
   JRSS B 40, 1978): at rate m over T seconds its relative variance is noise / (T m²), to which the variances of the
   level and of its drift over the horizon are added, and the error of an estimated total.
4. The range is that of a log-normal of this spread, widened as Student's t is for few intervals: an 80 % prediction
   interval.
5. The present interval counts: between commits the remaining time falls with the clock, by as much as the longest
   interval at most. When no interval ends for twice as long, the silence is an observation too, and the time grows.

Rejected:

- Rows settled so far divided by the run time. It follows a change of pace, such as a worker that joins, only after as
  long again, and has no range.
- A moving average or exponential smoothing with a fixed weight. The right weight depends on how noisy the job is; the
  mixture of ratios finds it for each job from its own intervals.
- The time of a shard multiplied by the shards that remain. The sizes of shards grow while a job runs, and how many run
  at once changes with the pool.
- Quantiles of the last intervals (bootstrap). There are too few of them, and they ignore that the rate drifts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.ledger.formats.encodings import CommitInterval

MIN_INTERVALS = 2  # for a range
DRIFT_RATIOS = (0.002, 0.02, 0.2, 2.0)
"""Variance of the change of the rate from one interval to the next, divided by the variance of one interval's noise.
Before anything is known, each is assumed to be half as likely as the one before it."""
PRIOR_SPREAD = 0.2
"""Relative noise of an interval that is assumed before any is known; it weighs as much as one interval."""
TOTAL_SPREAD = 0.15
"""Relative error of the number of rows where it is estimated from bytes."""
QUANTILE = 1.2816  # of the normal distribution: 10 % are beyond it on each side
OVERDUE_FACTOR = 2.0  # times the longest interval: then the open one is an observation too


@dataclass(frozen=True, slots=True)
class Interval:
    """The time between two commits."""

    seconds: float
    rows: int  # settled in it


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """What is still to be done.

    estimated_rows: how many of the rows are an estimate. open: what happened since the last interval.
    """

    rows: int
    estimated_rows: int = 0
    open: Interval = Interval(0.0, 0)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds left: the most likely, and an 80 % prediction interval."""

    eta_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate in rows per second, with its uncertainty: variances of rows per second."""

    rate: float
    variance: float  # of the rate now
    noise: float  # of the rows settled in one second
    drift: float  # by which the variance of the rate grows in a second
    intervals: int


def pace_of(intervals: Sequence[Interval]) -> Pace | None:
    """Estimate the present pace; None without an interval in which rows were settled."""
    seconds = sum(interval.seconds for interval in intervals)
    rows = sum(interval.rows for interval in intervals)
    if not rows or seconds <= 0:
        return None
    fits = [_filter(intervals, ratio, rows / seconds) for ratio in DRIFT_RATIOS]
    best = max(likelihood for likelihood, _ in fits)
    weights = [math.exp(likelihood - best) * math.ldexp(1.0, -place) for place, (likelihood, _) in enumerate(fits)]
    total = sum(weights)

    def mean(values: list[float]) -> float:
        return math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / total

    paces = [pace for _, pace in fits]
    rate = mean([pace.rate for pace in paces])
    spread = mean([(pace.rate - rate) ** 2 for pace in paces])
    return Pace(
        rate=max(rate, 1e-9),
        variance=mean([pace.variance for pace in paces]) + spread,
        noise=mean([pace.noise for pace in paces]),
        drift=mean([pace.drift for pace in paces]),
        intervals=len(intervals),
    )


def forecast(intervals: Sequence[Interval], left: RemainingWork) -> Forecast | None:
    """Forecast the time left; None until there are enough intervals for a range."""
    longest_s = max((interval.seconds for interval in intervals), default=0.0)
    is_overdue = left.open.seconds > OVERDUE_FACTOR * longest_s
    pace = pace_of([*intervals, left.open] if is_overdue else intervals)
    if pace is None or len(intervals) < MIN_INTERVALS:
        return None
    if left.rows <= 0:
        return Forecast(0.0, 0.0, 0.0)
    horizon_s = left.rows / pace.rate
    variance = pace.noise / horizon_s + pace.variance + pace.drift * horizon_s / 3
    total_error = TOTAL_SPREAD * left.estimated_rows / left.rows
    spread = math.sqrt(variance / pace.rate**2 + total_error**2)
    factor = math.exp(min(_quantile(pace.intervals - 1) * spread, 20.0))
    gone_s = 0.0 if is_overdue or left.open.rows else min(left.open.seconds, longest_s)
    eta_s, low_s, high_s = (max(at - gone_s, 0.0) for at in (horizon_s, horizon_s / factor, horizon_s * factor))
    return Forecast(eta_s, low_s, high_s)


def _filter(intervals: Sequence[Interval], ratio: float, mean_rate: float) -> tuple[float, Pace]:
    """Run the Kalman filter of the local level model at one ratio; returns its log likelihood and final pace.

    The noise is a factor of all variances, so it is estimated last.
    """
    mean_s = sum(interval.seconds for interval in intervals) / len(intervals)
    drift = ratio / mean_s**2
    level, variance = intervals[0].rows / intervals[0].seconds, 1 / intervals[0].seconds
    squares, logs = (PRIOR_SPREAD * mean_rate) ** 2 * mean_s, 0.0
    for before, interval in pairwise(intervals):
        variance += drift * (before.seconds + interval.seconds) / 2
        predicted = variance + 1 / interval.seconds
        error = interval.rows / interval.seconds - level
        gain = variance / predicted
        level, variance = level + gain * error, variance * (1 - gain)
        squares, logs = squares + error**2 / predicted, logs + math.log(predicted)
    seen = len(intervals)  # errors, and the prior as one more
    noise = squares / seen
    pace = Pace(level, noise * variance, noise, noise * drift, seen)
    return -(seen * math.log(noise) + logs) / 2, pace


def _quantile(freedom: int) -> float:
    """Approximate a quantile of Student's t by the first term of its Cornish-Fisher expansion."""
    return QUANTILE + (QUANTILE**3 + QUANTILE) / (4 * max(freedom, 1))


def intervals_from(paces: Iterable[CommitInterval]) -> list[Interval]:
    """Convert the intervals between commits that the ledger keeps of a job, the latest last."""
    return [Interval(pace.length_ms / 1000, pace.rows) for pace in paces]
