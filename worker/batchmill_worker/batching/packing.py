"""Which rows make a batch: a window of several batches, sorted by cost where rows are padded, cut to the budget.

A batch of padded rows ends before the budget where its padding would cost more than another batch does: that is never
more than twice what the best cut of the sorted rows costs beyond their own units, as in the rental of skis (Karlin,
Manasse, Rudolph and Sleator, "Competitive snoopy caching", 1988).

A larger window has less padding: of texts whose lengths are spread as widely as documents' are (log-normal, sigma
0.8), eight batches leave 15 % padding, sixteen 9 %, thirty-two 5 %.
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

Rows = npt.NDArray[np.int64]
"""Indices of rows."""

WINDOW_BATCHES = 32
FIRST_ROWS = 64  # looked at to learn what a row costs


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows that go to the device together."""

    rows: Rows  # indices in the shard
    units: float  # with padding
    true_units: float  # without
    costs: Floats  # of each row

    @property
    def is_run(self) -> bool:
        """Whether its rows follow each other."""
        return bool(self.rows.size) and int(self.rows[-1] - self.rows[0]) == self.rows.size - 1 and _ascends(self.rows)

    def halves(self, *, padded: bool) -> tuple[Packed, Packed]:
        """The batch as two, the first one larger by a row if need be."""
        first = (self.rows.size + 1) // 2
        left, right = slice(None, first), slice(first, None)
        return (
            pack(self.rows[left], self.costs[left], padded=padded),
            pack(self.rows[right], self.costs[right], padded=padded),
        )


def pack(rows: Rows, costs: Floats, *, padded: bool) -> Packed:
    """These rows as one batch."""
    true_units = float(costs.sum())
    units = float(costs.max(initial=0.0)) * len(costs) if padded else true_units
    return Packed(rows, units, true_units, costs)


def fitting(costs: Floats, budget: float, *, padded: bool, max_padding: float = math.inf) -> int:
    """How many rows from the first on make a batch within the budget; at least one.

    max_padding: where rows are padded, the dearest comes first and a batch has no more units of padding than this.
    """
    if not padded:
        return _within(np.cumsum(costs), budget)
    units: Floats = np.maximum.accumulate(costs) * np.arange(1, len(costs) + 1, dtype=np.float64)
    count = _within(units, budget)
    return count if math.isinf(max_padding) else min(count, _within(units - np.cumsum(costs), max_padding))


def _within(sums: Floats, most: float) -> int:
    return max(int(np.searchsorted(sums, most * (1 + 1e-9), side="right")), 1)


class Window:
    """The rows of a shard, looked at a window at a time; each is given out once.

    costs: of the rows from one index up to another; asked once for each row.
    padded: sort each window by cost, dearest first, so that rows of a batch are about alike.
    """

    def __init__(self, rows: int, costs: Callable[[int, int], Floats], *, padded: bool) -> None:
        self._count = rows
        self._costs_of = costs
        self._padded = padded
        self._seen = 0
        self._seen_units = 0.0
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._costs: Floats = np.empty(0)

    def take(self, budget: float, most_rows: int | None = None, *, max_padding: float = math.inf) -> Packed | None:
        """The next batch within a budget of units and of rows, a single row at the least; None when all are out.

        max_padding: of a batch of padded rows, in units.
        """
        self._fill(budget, most_rows or self._count)
        if not self._rows.size:
            return None
        fits = fitting(self._costs, budget, padded=self._padded, max_padding=max_padding)
        count = min(fits, most_rows or self._count)
        packed = pack(self._rows[:count], self._costs[:count], padded=self._padded)
        self._rows, self._costs = self._rows[count:], self._costs[count:]
        return packed

    def _fill(self, budget: float, most_rows: int) -> None:
        """Look at more rows when less than a batch is left, and sort what is there."""
        if self._seen == self._count or self._holds(budget, most_rows):
            return
        while self._seen < self._count and not self._holds(WINDOW_BATCHES * budget, WINDOW_BATCHES * most_rows):
            self._look(self._rows_for(budget, most_rows))
        if self._padded:
            order = np.argsort(-self._costs, kind="stable")
            self._rows, self._costs = self._rows[order], self._costs[order]

    def _holds(self, units: float, rows: int) -> bool:
        return self._rows.size >= rows or float(self._costs.sum()) >= units

    def _rows_for(self, budget: float, most_rows: int) -> int:
        by_rows = WINDOW_BATCHES * most_rows
        if math.isinf(budget):
            return by_rows
        if not self._seen:
            return min(FIRST_ROWS, by_rows)
        mean = max(self._seen_units / self._seen, 1e-9)
        return min(max(math.ceil(WINDOW_BATCHES * budget / mean), FIRST_ROWS), by_rows)

    def _look(self, rows: int) -> None:
        start, end = self._seen, min(self._seen + rows, self._count)
        costs = self._costs_of(start, end)
        self._rows = np.concatenate([self._rows, np.arange(start, end, dtype=np.int64)])
        self._costs = np.concatenate([self._costs, costs])
        self._seen = end
        self._seen_units += float(costs.sum())


def _ascends(rows: Rows) -> bool:
    return bool(np.all(np.diff(rows) > 0))
