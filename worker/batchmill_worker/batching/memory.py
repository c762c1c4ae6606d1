"""How large a batch may be before memory runs out: learned from failures, and from peaks where they are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

AFTER_FAILURE = 0.8  # of the size that failed
RECOVERY = 1.05
CLEAN_BATCHES = 50  # that fit before the ceiling rises again
USABLE_SHARE = 0.9  # of the memory that could be allocated


@dataclass(frozen=True, slots=True)
class MemoryCeiling:
    """The size that batches stay under after one did not fit; infinite until then."""

    units: float = math.inf
    clean: int = 0  # batches that have fitted since it last changed

    def after_failure(self, failed_units: float) -> MemoryCeiling:
        """Return the ceiling after a batch of that size did not fit."""
        return MemoryCeiling(min(self.units, AFTER_FAILURE * failed_units))

    def after_success(self) -> MemoryCeiling:
        """Return the ceiling after one more batch fitted: a lack of memory may be temporary."""
        if math.isinf(self.units):
            return self
        if self.clean + 1 < CLEAN_BATCHES:
            return MemoryCeiling(self.units, self.clean + 1)
        return MemoryCeiling(self.units * RECOVERY)


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """The peak memory during a batch, in bytes, including everything else of the process on that device."""

    units: float
    nbytes: float


def units_within(peaks: Sequence[MemoryPeak], limit_bytes: float) -> float:
    """Compute the largest batch that stays under `USABLE_SHARE` of the limit by `bytes = c + d·units`.

    Infinite while nothing is known, or if size makes no difference; at least the largest size that has stayed under it
    so far.
    """
    usable = USABLE_SHARE * limit_bytes
    units = np.array([peak.units for peak in peaks])
    nbytes = np.array([peak.nbytes for peak in peaks])
    if len(units) < 2 or units.min() == units.max():
        return math.inf
    per_unit, fixed = np.polyfit(units, nbytes, 1)
    if per_unit <= 0:
        return math.inf
    fitted = max((peak.units for peak in peaks if peak.nbytes <= usable), default=0.0)
    return max(float((usable - fixed) / per_unit), fitted)
