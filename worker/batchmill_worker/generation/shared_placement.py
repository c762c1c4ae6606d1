"""Which waiting row goes next to an engine whose rows share one cache, so that a prefix is computed once.

Rows that enter together each compute a prefix that they share: the cache has it once the first of them has made a
token. So a row whose prefix is being computed waits for that, while others go. Of these, rows go first that have the
most in the cache, then the leader of the prefix that most waiting rows share, then the oldest.

What the cache has is known by what was computed last, as far as `MAX_BLOCKS`; the engine may have dropped some of it.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, TypeVar

from batchmill_worker.generation.placement import MAX_LOOKED_AT, Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchmill_worker.generation.placement import Blocks, WaitingRow

T = TypeVar("T")

MAX_BLOCKS = 1 << 16


class SharedPlacement(Placement[T]):
    """The rows that wait, and what of their prefixes is computed."""

    def __init__(self, places: int) -> None:
        super().__init__(places, keeps_prefixes=True)
        self._computing: dict[T, Blocks] = {}  # by row
        self._computed: dict[int, None] = {}  # blocks, the oldest first

    def next_row(
        self,
        free: Collection[int],
        *,
        is_idle: bool,
        only_urgent: bool = False,
        is_barred: Callable[[T], bool] | None = None,
    ) -> tuple[T, int] | None:
        """See `Placement`."""
        waiting = self._candidates(only_urgent, is_barred)
        if not waiting or not free:
            return None
        under_way = {block for blocks in self._computing.values() for block in blocks if block not in self._computed}
        scores = {
            number: self._score_of(number, row, under_way) for number, row in islice(waiting.items(), MAX_LOOKED_AT)
        }
        number = max(scores, key=scores.__getitem__)
        if scores[number][0] < 0 and not (is_idle or self._urgent):
            return None
        row = self._take(number)
        self._computing[row.item] = row.blocks
        return row.item, min(free)

    def begun(self, item: T) -> None:
        """See `Placement`."""
        for block in self._computing.pop(item, ()):
            self._computed.pop(block, None)
            self._computed[block] = None
        for block in list(islice(self._computed, max(len(self._computed) - MAX_BLOCKS, 0))):
            del self._computed[block]

    def ended(self, item: T) -> None:
        """See `Placement`."""
        self._computing.pop(item, None)

    def _score_of(self, number: int, row: WaitingRow[T], under_way: set[int]) -> tuple[int, int, int, int]:
        """Rate a row, the best highest: what would be computed twice, what it saves now, then for others, its age."""
        here = sum(1 for _ in takewhile(self._computed.__contains__, row.blocks))
        twice = sum(1 for _ in takewhile(under_way.__contains__, row.blocks[here:]))
        return -twice, here, self._gain(row), -number
