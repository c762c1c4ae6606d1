"""Which rows of a source a sample has, from their numbers alone: how a source is split does not matter.

Rows are chosen in blocks of 65,536: of each block a number of rows, the ones whose numbers have the lowest hashes. Such
a number follows from the block's place, so that the rows of a sample are counted without a look at those before them.

Rejected: each row by its own hash. A fraction would then give a number of rows that only reading shows, and a number of
rows would need the hashes of all of them in advance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchmill.caches import Lru

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

BLOCK_ROWS = 65_536
_UNITS = 1 << 64
_GAMMA = 0x9E3779B97F4A7C15
_BLOCKS_KEPT = 2


class Sample:
    """The rows that are in a sample: `part` of each `unit` rows, spread evenly. Safe to use from several threads.

    rows: of the source, if `part` is to be exact. 0: not known; the last block is then chosen as if it were full.
    """

    def __init__(self, part: int, unit: int, seed: int, rows: int = 0) -> None:
        self._part = part
        self._unit = unit
        self._rows = rows
        self._key = int(_mixed(np.array([seed % _UNITS], dtype=np.uint64))[0])
        self._shift = self._key % unit
        self._blocks: Lru[int, NDArray[np.int64]] = Lru(_BLOCKS_KEPT)

    @classmethod
    def fraction(cls, share: float, seed: int) -> Self:
        """A share of the rows, above 0 and below 1. More rows at the end do not change the choice among the others."""
        return cls(max(int(share * _UNITS), 1), _UNITS, seed)

    @classmethod
    def number(cls, wanted: int, rows: int, seed: int) -> Self:
        """`wanted` of `rows` rows; all of them if there are no more."""
        return cls(min(wanted, rows), max(rows, 1), seed, rows)

    def count(self, rows: int) -> int:
        """Return how many of the first `rows` rows are in the sample."""
        block, inside = divmod(rows, BLOCK_ROWS)
        count = self._due(block * BLOCK_ROWS)
        return count + int(np.searchsorted(self._block(block), inside)) if inside else count

    def places(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return which of the rows from `start` to before `stop` are in the sample, ascending, `start` being 0."""
        blocks = range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
        found = [self._block(block) + (block * BLOCK_ROWS - start) for block in blocks]
        rows = np.concatenate([np.empty(0, np.int64), *found])
        return rows[(rows >= 0) & (rows < stop - start)]

    def stop(self, start: int, wanted: int) -> int:
        """Return how far to read from `start` on for `wanted` rows of the sample: up to where one more would come."""
        rank = self.count(start) + wanted
        behind = -(-((rank + 1) * self._unit - self._shift) // self._part) if self._part else 0
        if not self._part or (self._rows and behind > self._rows):
            return max(self._rows, start + 1)
        block = (behind - 1) // BLOCK_ROWS
        first = block * BLOCK_ROWS
        return first + int(self._block(block)[rank - self._due(first)])

    def _due(self, rows: int) -> int:
        """Return how many of the first rows are to be in the sample, up to where a block ends."""
        if self._rows:
            rows = min(rows, self._rows)
        return (rows * self._part + self._shift) // self._unit

    def _block(self, block: int) -> NDArray[np.int64]:
        return self._blocks.get_or_make(block, lambda: self._chosen(block))

    def _chosen(self, block: int) -> NDArray[np.int64]:
        """Return the rows of a block that are in the sample, its first row being 0."""
        first = block * BLOCK_ROWS
        size = min(BLOCK_ROWS, max(self._rows - first, 0)) if self._rows else BLOCK_ROWS
        count = self._due(first + size) - self._due(first)
        if not 0 < count < size:
            return np.arange(size if count else 0, dtype=np.int64)
        numbers = np.arange(first, first + size, dtype=np.uint64)
        lowest = np.argpartition(_mixed(numbers * np.uint64(_GAMMA) + np.uint64(self._key)), count - 1)[:count]
        return np.sort(lowest).astype(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return hashes of numbers, no two the same: the last step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
