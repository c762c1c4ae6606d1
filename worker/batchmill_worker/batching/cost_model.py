"""A model of the time of a batch, fitted to measured batches: `t = a + b·units`.

Disturbances only make a batch slower: a cold cache, another process, a garbage collection. So the fit starts from the
lower edge of the measurements, drops those that are far above it, and then follows Apache Beam's `BatchElements`
with the rest:

1. A first line has a fifth of the batches below it and the others above.
2. Batches slower than `MAX_SLOWNESS` times that line are left out, and the slowest fifth for their size.
3. Points whose Cook's distance is over 0.5 are left out.
4. The line through what is left is the model, small batches, which know most about the fixed cost, counting as much
   as large ones. The fixed cost is at most the time of the fastest batch, so that the slow batches of a start are not
   mistaken for a fixed cost once a single small batch has run undisturbed.

There are two more differences from Beam. Beam weights by 1/units, which is 1/time only if the fixed cost is small; here
the weight is 1/time, so that noise in tiny batches is not mistaken for a slope where nearly all cost is fixed. And
samples are kept by size: of a hundred, one of the most common size is dropped for the next, so that the small batches
that determine the fixed cost are not forgotten.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_SAMPLES = 100
MAX_SAMPLE_AGE = 600
SAMPLES_TO_REFINE = 10
MIN_SAMPLES_LEFT = 20  # the slowest fifth is left out only if this many remain
KEPT_SHARE = 0.8
EDGE = 0.2
EDGE_STEPS = 20
MAX_SLOWNESS = 1.3  # a batch beyond that was disturbed
MAX_INFLUENCE = 0.5  # Cook's distance

Floats = npt.NDArray[np.float64]


class Sized(Protocol):
    """A measurement at a batch size."""

    @property
    def units(self) -> float:
        """The size of the batch it was measured on."""
        ...


S = TypeVar("S", bound=Sized)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one batch."""

    units: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """The predicted time of a batch; neither part is ever 0, so that one can divide by both."""

    fixed_s: float
    per_unit_s: float
    doubt_s: float = 0.0  # the standard error of the fixed cost

    def seconds(self, units: float) -> float:
        """Predict the time of a batch, in seconds."""
        return self.fixed_s + self.per_unit_s * units

    def units_within_overhead(self, share: float, more_s: float = 0.0) -> float:
        """Return the smallest batch whose fixed cost plus `more_s` is at most this share of its time."""
        return self.fixed_units(more_s) * (1 / share - 1)

    def fixed_units(self, more_s: float = 0.0) -> float:
        """Return the units that take as long as the fixed cost of a batch plus `more_s`.

        Only the certain part of the fixed cost counts: an estimate that is too low costs a little time and is soon
        corrected, one that is too high costs padding and memory.
        """
        return (max(self.fixed_s - self.doubt_s, self.fixed_s / 2) + more_s) / self.per_unit_s

    def units_within(self, seconds: float) -> float:
        """Return the largest batch that takes no longer, fixed cost included; 0 or less: there is none."""
        return (seconds - self.fixed_s) / self.per_unit_s

    def units_of_work(self, seconds: float) -> float:
        """Return the largest batch that takes no longer, fixed cost left out."""
        return seconds / self.per_unit_s


class Samples(Generic[S]):
    """At most `MAX_SAMPLES` measurements; if there are more, the oldest of the most common power of two is dropped.

    A measurement is also dropped `MAX_SAMPLE_AGE` measurements later: the load of a device changes.
    """

    def __init__(self, samples: Iterable[S] = ()) -> None:
        self._samples: list[S] = []
        self._numbers: list[int] = []
        self._added = 0
        for sample in samples:
            self.add(sample)

    def add(self, sample: S) -> None:
        """Add a measurement, and drop those that are in excess."""
        self._samples.append(sample)
        self._numbers.append(self._added)
        self._added += 1
        if self._numbers[0] <= self._added - MAX_SAMPLE_AGE:
            self._drop(0)
        if len(self._samples) > MAX_SAMPLES:
            magnitudes = [_magnitude(kept) for kept in self._samples]
            commonest = Counter(magnitudes).most_common(1)[0][0]
            self._drop(magnitudes.index(commonest))

    def _drop(self, place: int) -> None:
        del self._samples[place]
        del self._numbers[place]

    def __iter__(self) -> Iterator[S]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def largest(self) -> float:
        """The largest size measured; 0 without any."""
        return max((sample.units for sample in self._samples), default=0.0)


def fit(timings: Sequence[Timing]) -> CostModel | None:
    """Fit a model to these timings; None without two different sizes. Pure."""
    units = np.array([timing.units for timing in timings])
    seconds = np.array([timing.seconds for timing in timings])
    if len(timings) < 2 or units.min() == units.max():
        return None
    fastest = float(seconds.min())
    units, seconds = _only(units, seconds, _not_disturbed(units, seconds))
    if len(units) >= SAMPLES_TO_REFINE:
        units, seconds = _only(units, seconds, np.flatnonzero(_influence(units, seconds) <= MAX_INFLUENCE))
    weights = _relative_weights(units, seconds)
    fixed, per_unit = _line(units, seconds, weights)
    doubt_s = _standard_error(units, seconds, weights)
    return CostModel(min(max(fixed, 1e-10), fastest), max(per_unit, 1e-20), doubt_s)


def _only(units: Floats, seconds: Floats, kept: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Return the kept points, or all if the kept ones are of one size."""
    return (units[kept], seconds[kept]) if kept.size and np.ptp(units[kept]) > 0 else (units, seconds)


def _not_disturbed(units: Floats, seconds: Floats) -> npt.NDArray[np.intp]:
    """Return the points that are not far above the lower edge, nor among the slowest for their size."""
    fixed, per_unit = _edge(units, seconds)
    slowness = seconds / np.maximum(max(fixed, 0.0) + max(per_unit, 0.0) * units, 1e-12)
    kept = max(int(len(slowness) * KEPT_SHARE), min(MIN_SAMPLES_LEFT, len(slowness)))
    order = np.argsort(slowness, kind="stable")[:kept]
    return np.sort(order[slowness[order] <= MAX_SLOWNESS])


def _edge(units: Floats, seconds: Floats) -> tuple[float, float]:
    """Fit the line with the share `EDGE` of timings below it: quantile regression of relative errors, reweighted."""
    fixed, per_unit = _relative_line(units, seconds)
    for _ in range(EDGE_STEPS):
        errors = seconds / np.maximum(fixed + per_unit * units, 1e-12) - 1
        pulls = np.where(errors > 0, EDGE, 1 - EDGE) / np.maximum(np.abs(errors), 1e-3)
        fixed, per_unit = _line(units, seconds, np.sqrt(pulls) / seconds)
    return fixed, per_unit


def _relative_line(units: Floats, seconds: Floats) -> tuple[float, float]:
    """Fit the line with the least relative errors."""
    return _line(units, seconds, _relative_weights(units, seconds))


def _relative_weights(units: Floats, seconds: Floats) -> Floats:
    fixed, per_unit = _line(units, seconds)
    weights: Floats = 1 / np.maximum(fixed + per_unit * units, 0.01 * float(seconds.mean()))
    return weights


def _standard_error(units: Floats, seconds: Floats, weights: Floats) -> float:
    """Compute the standard error of the weighted line's intercept; 0 for two points."""
    if len(units) < 3:
        return 0.0
    fixed, per_unit = _line(units, seconds, weights)
    square = weights**2
    variance = float(square @ (fixed + per_unit * units - seconds) ** 2) / (len(units) - 2)
    total, mean = float(square.sum()), float(square @ units) / float(square.sum())
    spread = float(square @ (units - mean) ** 2)
    return math.sqrt(variance * (1 / total + mean**2 / spread))


def _influence(units: Floats, seconds: Floats) -> Floats:
    """Compute Cook's distance of every point from the unweighted line through all."""
    count = len(units)
    fixed, per_unit = _line(units, seconds)
    errors = fixed + per_unit * units - seconds
    variance = float(np.sum(errors**2)) / (count - 2)
    if variance <= (1e-9 * float(seconds.mean())) ** 2:  # an exact fit
        return np.zeros(count)
    centred = units - units.mean()
    leverage = 1 / count + centred**2 / np.sum(centred**2)
    distance: Floats = errors**2 / (2 * variance) * leverage / np.maximum(1 - leverage, 1e-9) ** 2
    return distance


def _line(units: Floats, seconds: Floats, weights: Floats | None = None) -> tuple[float, float]:
    """Fit a least-squares line with weighted errors; return its intercept and slope."""
    square = np.ones_like(units) if weights is None else weights**2
    total = float(square.sum())
    mean_x, mean_y = float(square @ units) / total, float(square @ seconds) / total
    spread = float(square @ (units - mean_x) ** 2)
    slope = float(square @ ((units - mean_x) * (seconds - mean_y))) / spread if spread > 0 else 0.0
    return mean_y - slope * mean_x, slope


def _magnitude(sample: Sized) -> int:
    return math.frexp(sample.units)[1]
