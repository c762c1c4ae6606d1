"""Packs rows into batches: a window of several batches, sorted by cost if rows are padded, cut to the budget.

1. The window is filled: the costs of rows are computed until `WINDOW_BATCHES` batches are in it, or the shard ends.
2. If rows are padded to each other's length, the window is sorted by cost, the highest first, so that neighbours are
   about equally long. The largest batch comes first, so that a lack of memory shows early.
3. Each batch takes rows from the front of the window, up to the budget of units and the maximum of rows.
4. A batch of padded rows ends before the budget if more padding would cost more than one more batch. The cost beyond
   the rows' own units is then at most twice that of the best cuts of the sorted rows, as in the ski-rental problem
   (Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", 1988).
5. When less than a batch is left in the window, it is filled again.

A larger window has less padding: for texts with lengths as widely spread as those of documents (log-normal, sigma 0.8),
eight batches leave 15 % padding, sixteen 9 %, thirty-two 5 %.

Rejected alternatives:
- Sorting the complete shard. All costs must be known before the first batch can run, so the device waits while a shard
  of long texts is tokenised; and there are only 5 % of padding left to gain.
- Optimal cuts by dynamic programming over the window. They gain at most the factor of point 4 on what is mostly a small
  cost, and depend on every detail of a time model that is fitted to noisy measurements.
- Buckets with fixed bounds on the length. Good bounds depend on the data, and each bucket leaves one small batch at the
  end of a shard.
- Bin packing without order. It fills a budget of unpadded units well, but puts long and short rows together, and the
  device computes the padding too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill_worker.batching.cost_model import Floats
    from batchmill_worker.batching.trials import Arm

Rows = npt.NDArray[np.int64]
"""Indices of rows."""

WINDOW_BATCHES = 32
FIRST_ROWS = 64  # whose costs are computed first, to learn what a row costs


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows that go to the device together."""

    rows: Rows  # indices in the shard
    units: float  # with padding
    true_units: float  # without
    costs: Floats  # of each row
    arm: Arm | None = None  # its place in a trial of a setting; None: it is in none

    @property
    def is_run(self) -> bool:
        """Whether its rows are consecutive."""
        return bool(self.rows.size) and int(self.rows[-1] - self.rows[0]) == self.rows.size - 1 and _ascends(self.rows)

    def halves(self, *, padded: bool) -> tuple[Packed, Packed]:
        """Split the batch in two, the first half larger by a row if the number is odd."""
        first = (self.rows.size + 1) // 2
        left, right = slice(None, first), slice(first, None)
        return (
            pack(self.rows[left], self.costs[left], padded=padded),
            pack(self.rows[right], self.costs[right], padded=padded),
        )


def pack(rows: Rows, costs: Floats, *, padded: bool) -> Packed:
    """Make one batch of these rows."""
    true_units = float(costs.sum())
    units = float(costs.max(initial=0.0)) * len(costs) if padded else true_units
    return Packed(rows, units, true_units, costs)


def fitting(costs: Floats, budget: float, *, padded: bool, max_padding: float = math.inf) -> int:
    """Return how many rows, from the first on, make a batch within the budget; at least one.

    max_padding: the most units of padding, if rows are padded; then the costs must be in descending order.
    """
    if not padded:
        return _within(np.cumsum(costs), budget)
    units: Floats = np.maximum.accumulate(costs) * np.arange(1, len(costs) + 1, dtype=np.float64)
    count = _within(units, budget)
    return count if math.isinf(max_padding) else min(count, _within(units - np.cumsum(costs), max_padding))


def _within(sums: Floats, limit: float) -> int:
    return max(int(np.searchsorted(sums, limit * (1 + 1e-9), side="right")), 1)


class Window:
    """The rows of a shard, packed a window at a time; each row is in exactly one batch.

    costs: computes the costs of the rows from one index up to another; called once for each row.
    padded: sort each window by cost, the highest first, so that rows of a batch have similar costs.
    """

    def __init__(self, rows: int, costs: Callable[[int, int], Floats], *, padded: bool) -> None:
        self._count = rows
        self._costs_of = costs
        self._padded = padded
        self._seen = 0
        self._seen_units = 0.0
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._costs: Floats = np.empty(0)

    @property
    def is_empty(self) -> bool:
        """Whether no row is left."""
        return self._seen == self._count and not self._rows.size

    def take(self, budget: float, max_rows: int | None = None, *, max_padding: float = math.inf) -> Packed | None:
        """Take the next batch, within a budget of units and of rows but at least a row; None when no row is left.

        max_padding: of a batch of padded rows, in units.
        """
        self._fill(budget, max_rows or self._count)
        if not self._rows.size:
            return None
        fits = fitting(self._costs, budget, padded=self._padded, max_padding=max_padding)
        count = min(fits, max_rows or self._count)
        packed = pack(self._rows[:count], self._costs[:count], padded=self._padded)
        self._rows, self._costs = self._rows[count:], self._costs[count:]
        return packed

    def _fill(self, budget: float, max_rows: int) -> None:
        """Add rows to the window when less than a batch is left, and sort it."""
        if self._seen == self._count or self._holds(budget, max_rows):
            return
        while self._seen < self._count and not self._holds(WINDOW_BATCHES * budget, WINDOW_BATCHES * max_rows):
            self._add(self._rows_for(budget, max_rows))
        if self._padded:
            order = np.argsort(-self._costs, kind="stable")
            self._rows, self._costs = self._rows[order], self._costs[order]

    def _holds(self, units: float, rows: int) -> bool:
        return self._rows.size >= rows or float(self._costs.sum()) >= units

    def _rows_for(self, budget: float, max_rows: int) -> int:
        by_rows = WINDOW_BATCHES * max_rows
        if math.isinf(budget):
            return by_rows
        if not self._seen:
            return min(FIRST_ROWS, by_rows)
        mean = max(self._seen_units / self._seen, 1e-9)
        return min(max(math.ceil(WINDOW_BATCHES * budget / mean), FIRST_ROWS), by_rows)

    def _add(self, rows: int) -> None:
        start, end = self._seen, min(self._seen + rows, self._count)
        costs = self._costs_of(start, end)
        self._rows = np.concatenate([self._rows, np.arange(start, end, dtype=np.int64)])
        self._costs = np.concatenate([self._costs, costs])
        self._seen = end
        self._seen_units += float(costs.sum())


def _ascends(rows: Rows) -> bool:
    return bool(np.all(np.diff(rows) > 0))
