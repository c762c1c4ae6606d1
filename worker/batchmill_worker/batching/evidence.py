"""Whether a setting makes batches faster, from pairs of batches on the same worker. Pure.

Each pair has one batch with the usual value and one with the candidate, in random order, and gives the logarithm of
the ratio of their times a unit. Around the mean of these logarithms there is a confidence sequence: an interval that
holds at every number of pairs at once, so that it may be looked at after each, and the trial may end when it is clear.

Source: the normal mixture of Robbins ("Statistical methods related to the law of the iterated logarithm", 1970), with
the variance estimated: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
asymptotic confidence sequences", Annals of Statistics 52, 2024. Being asymptotic, it is used from `MIN_PAIRS` on.

Rejected: a t-test after every pair, which raised false alarms in 35 to 42 % of trials on the noise of real machines,
where this raised 2 to 4 %; bandits, which need more of the work for the worse settings and keep no evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchmill.insights.trials import TrialState

ALPHA = 0.05
MIXTURE = 0.03  # rho squared: the interval is narrowest, for its kind, at some hundred pairs
MIN_PAIRS = 12
MAX_PAIRS = 400
ALIKE = 0.01  # of the time of a unit
MAX_LOG_RATIO = math.log(1.3)
"""One pair counts for no more: a disturbed batch would widen the interval for good. If nothing differs, that clips both
sides alike, and the mean stays 0. A larger gain is found all the same, and shown as this one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What pairs have shown so far. mean: of the logarithms. squares: the sum of their squared deviations from it."""

    pairs: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_pair(self, usual: float, candidate: float) -> Evidence:
        """Return the evidence with one more pair of times a unit, both above 0. Source of the sums: Welford, 1962."""
        value = max(-MAX_LOG_RATIO, min(math.log(candidate / usual), MAX_LOG_RATIO))
        pairs = self.pairs + 1
        mean = self.mean + (value - self.mean) / pairs
        return Evidence(pairs, mean, self.squares + (value - self.mean) * (value - mean))

    @property
    def half_width(self) -> float:
        """Half the width of the interval around the mean; infinite without a pair."""
        if not self.pairs:
            return math.inf
        deviation = math.sqrt(max(self.squares / self.pairs, 1e-12))
        scaled = self.pairs * MIXTURE + 1
        return deviation * math.sqrt(2 * scaled / (self.pairs**2 * MIXTURE) * math.log(math.sqrt(scaled) / ALPHA))

    @property
    def state(self) -> TrialState:
        """What follows from the pairs so far."""
        if self.pairs < MIN_PAIRS:
            return TrialState.RUNNING
        low, high = self.mean - self.half_width, self.mean + self.half_width
        if low > -ALIKE and high < ALIKE:
            return TrialState.ALIKE
        if high < 0:
            return TrialState.WON
        if low > 0:
            return TrialState.LOST
        return TrialState.UNDECIDED if self.pairs >= MAX_PAIRS else TrialState.RUNNING


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What a batch of a trial took. peak_bytes: None if not measured. max_s: the longest that it may take."""

    seconds: float
    max_s: float
    peak_bytes: float | None = None
    limit_bytes: float = math.inf


MAX_MEMORY = 0.9
"""The share of a device's memory from which a candidate is dropped."""
MAX_MORE_FAILURES = 1
"""Batches with the candidate that may fail beyond those with the usual value: a failing row may be in either."""


def broken_guard(outcome: BatchOutcome) -> str:
    """Say why a batch with the candidate ends its trial; "" if it does not."""
    if outcome.seconds > outcome.max_s:
        return f"latency: a batch took {outcome.seconds:.3g} s, at most {outcome.max_s:.3g} s are allowed"
    if outcome.peak_bytes is not None and outcome.peak_bytes > MAX_MEMORY * outcome.limit_bytes:
        return f"memory: a batch had {outcome.peak_bytes / outcome.limit_bytes:.0%} of what is usable"
    return ""


def broken_by_failure(*, out_of_memory: bool, failures: int, usual_failures: int) -> str:
    """Say why a batch with the candidate that failed ends its trial; "" if it does not."""
    if out_of_memory:
        return "memory: a batch did not fit"
    if failures - usual_failures > MAX_MORE_FAILURES:
        return f"errors: {failures} batches failed, {usual_failures} beside them"
    return ""
