"""How long to wait before the next try: one rule for every retry of Batchmill. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

MAX_DOUBLINGS = 60  # 2.0 ** 60 seconds are beyond any cap, and no float overflows


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with a cap and full jitter.

    The wait after the n-th failure in a row is drawn evenly from 0 to `min(max_s, base_s * 2 ** (n - 1))` seconds:
    clients that failed together do not come back together.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base_s: float
    max_s: float

    def ceiling_s(self, failures: int) -> float:
        """The longest wait after that many failures in a row, in seconds; 0 after none."""
        if failures <= 0:
            return 0.0
        return min(self.max_s, self.base_s * 2.0 ** min(failures - 1, MAX_DOUBLINGS))

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """The wait after that many failures in a row, in seconds; 0 after none."""
        return rng.uniform(0.0, self.ceiling_s(failures))
