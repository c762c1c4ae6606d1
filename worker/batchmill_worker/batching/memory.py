"""How large a batch may be before memory runs out: learned from failures, and from peaks where a device tells them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

AFTER_FAILURE = 0.8  # of the size that failed
RECOVERY = 1.05
CLEAN_BATCHES = 50  # before the ceiling is given some back
USABLE_SHARE = 0.9  # of what the device has to give


@dataclass(frozen=True, slots=True)
class MemoryCeiling:
    """The size that batches stay under after one did not fit; no limit until then."""

    units: float = math.inf
    clean: int = 0  # batches that fitted since it was last moved

    def after_failure(self, failed_units: float) -> MemoryCeiling:
        """The ceiling once a batch of that size did not fit."""
        return MemoryCeiling(min(self.units, AFTER_FAILURE * failed_units))

    def after_success(self) -> MemoryCeiling:
        """The ceiling once one more batch fitted: what is short of memory now may not be so for ever."""
        if math.isinf(self.units):
            return self
        if self.clean + 1 < CLEAN_BATCHES:
            return MemoryCeiling(self.units, self.clean + 1)
        return MemoryCeiling(self.units * RECOVERY)


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """What a batch took at most, in bytes, everything else of the process on that device included."""

    units: float
    nbytes: float


def units_within(peaks: Sequence[MemoryPeak], limit_bytes: float) -> float:
    """The largest batch that stays under `USABLE_SHARE` of the limit by `bytes = c + d·units`.

    Infinite while nothing is known, or where size makes no difference; at least the largest size that has stayed
    under it so far.
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
