"""How long a job will still take, with a range, from the pace of its last commits. Pure.

1. The ledger keeps the last intervals between commits: how long each was, how many rows were settled in it.
2. They are taken for observations of a rate that wanders: a local level model (J. F. Muth, "Optimal properties of
   exponentially weighted forecasts", JASA 55, 1960; A. C. Harvey, "Forecasting, structural time series models and the
   Kalman filter", 1989). How much it wanders beside how noisy it is, is not known: each of some ratios is filtered, and
   weighted by how well it foretold the intervals.
3. The rows that are left take until a process with that rate and noise has come so far, the first passage time of
   Brownian motion with drift (J. L. Folks, R. S. Chhikara, "The inverse Gaussian distribution and its statistical
   application", JRSS B 40, 1978): at rate m over T seconds its relative variance is noise / (T m²), to which the
   variances of the level and of its wandering over the horizon are added, and what is unknown of the total.
4. The range is that of a log-normal of this spread, widened as Student's t is for few intervals. It is meant to hold
   the true time in eight of ten looks.
5. What runs now counts: between commits the time left goes down with the clock, by as much as the longest interval at
   most. When no interval ends for twice as long, the silence is an observation too, and the time left grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.ledger.encodings import CommitInterval

LEAST_INTERVALS = 2  # for a range
WANDERING = (0.002, 0.02, 0.2, 2.0)
"""Ratios of what the rate changes from one interval to the next to the noise of one interval, both as variances; before
anything is known, each is taken for half as likely as the one before it."""
PRIOR_SPREAD = 0.2
"""What is taken for the relative noise of an interval before any is known; weighs as much as one interval."""
TOTAL_SPREAD = 0.15
"""Relative error of how many rows there are where they are reckoned from bytes."""
QUANTILE = 1.2816  # of the normal distribution: 10 % lie beyond it on each side
OVERDUE = 2.0  # so many times the longest interval, and the one that is open counts too


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time between two commits."""

    seconds: float
    rows: int  # settled in it


@dataclass(frozen=True, slots=True)
class Left:
    """What is still to be done.

    unsure_rows: how many of the rows are a guess. open: what came since the last interval.
    """

    rows: int
    unsure_rows: int = 0
    open: Interval = Interval(0.0, 0)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds left: likely, and a range that holds eight times of ten."""

    eta_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate in rows a second, and what is unsure about it; variances of rows a second."""

    rate: float
    variance: float  # of the rate now
    noise: float  # of the rows settled in one second
    wander: float  # what the variance of the rate grows by in a second
    intervals: int


def pace_of(intervals: Sequence[Interval]) -> Pace | None:
    """The present pace; None without an interval in which rows were settled."""
    seconds = sum(interval.seconds for interval in intervals)
    rows = sum(interval.rows for interval in intervals)
    if not rows or seconds <= 0:
        return None
    fits = [_filter(intervals, ratio, rows / seconds) for ratio in WANDERING]
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
        wander=mean([pace.wander for pace in paces]),
        intervals=len(intervals),
    )


def forecast(intervals: Sequence[Interval], left: Left) -> Forecast | None:
    """The time left; None until a range can be told."""
    longest_s = max((interval.seconds for interval in intervals), default=0.0)
    is_overdue = left.open.seconds > OVERDUE * longest_s
    pace = pace_of([*intervals, left.open] if is_overdue else intervals)
    if pace is None or len(intervals) < LEAST_INTERVALS:
        return None
    if left.rows <= 0:
        return Forecast(0.0, 0.0, 0.0)
    horizon_s = left.rows / pace.rate
    variance = pace.noise / horizon_s + pace.variance + pace.wander * horizon_s / 3
    unsure = TOTAL_SPREAD * left.unsure_rows / left.rows
    spread = math.sqrt(variance / pace.rate**2 + unsure**2)
    factor = math.exp(min(_quantile(pace.intervals - 1) * spread, 20.0))
    gone_s = 0.0 if is_overdue or left.open.rows else min(left.open.seconds, longest_s)
    eta_s, low_s, high_s = (max(at - gone_s, 0.0) for at in (horizon_s, horizon_s / factor, horizon_s * factor))
    return Forecast(eta_s, low_s, high_s)


def _filter(intervals: Sequence[Interval], ratio: float, mean_rate: float) -> tuple[float, Pace]:
    """The Kalman filter of the local level model at one ratio: its log likelihood, and the pace it ends with.

    The noise is a factor of all variances, so it is estimated last.
    """
    mean_s = sum(interval.seconds for interval in intervals) / len(intervals)
    wander = ratio / mean_s**2
    level, variance = intervals[0].rows / intervals[0].seconds, 1 / intervals[0].seconds
    squares, logs = (PRIOR_SPREAD * mean_rate) ** 2 * mean_s, 0.0
    for before, interval in pairwise(intervals):
        variance += wander * (before.seconds + interval.seconds) / 2
        foretold = variance + 1 / interval.seconds
        error = interval.rows / interval.seconds - level
        gain = variance / foretold
        level, variance = level + gain * error, variance * (1 - gain)
        squares, logs = squares + error**2 / foretold, logs + math.log(foretold)
    seen = len(intervals)  # errors, and the prior as one more
    noise = squares / seen
    pace = Pace(level, noise * variance, noise, noise * wander, seen)
    return -(seen * math.log(noise) + logs) / 2, pace


def _quantile(freedom: int) -> float:
    """A quantile of Student's t, by the first term of its Cornish-Fisher expansion."""
    return QUANTILE + (QUANTILE**3 + QUANTILE) / (4 * max(freedom, 1))


def intervals_from(paces: Iterable[CommitInterval]) -> list[Interval]:
    """The intervals between commits that the ledger keeps of a job, the latest last."""
    return [Interval(pace.length_ms / 1000, pace.rows) for pace in paces]
