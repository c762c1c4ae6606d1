"""Which waiting row goes next to which place of an engine, so that shared prefixes are computed once.

1. The tokens of a prompt are hashed in blocks; the hash of a block covers all blocks before it, so two prompts share
   a prefix exactly as far as their hashes are equal. Waiting rows are counted by hash.
2. A free place has the tokens of its last row. A row *wastes* the blocks that another place has and this one has not.
3. A place takes a row that wastes nothing: one that shares the most with the place, else the leader of the prefix that
   most other rows share, else the oldest. So the first row of a prefix computes it, and the others follow there.
4. If every waiting row would waste something, its prefix is at work at another place. This one helps only if what all
   those rows may generate is more than the waste; else it stays free.

Rows without a repeated prefix waste nothing, and go in their order.

Rejected: sorting rows by prefix. Rows of one prefix then enter together, and each place computes it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

T = TypeVar("T")

BLOCK_TOKENS = 16
MAX_LOOKED_AT = 256
"""Waiting rows that are compared for one decision."""

Blocks = tuple[int, ...]


def blocks_of(tokens: Sequence[int]) -> Blocks:
    """Hash the full blocks of a prompt, each with all before it."""
    found: list[int] = []
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        before = found[-1] if found else 0
        found.append(hash((before, tuple(tokens[start : start + BLOCK_TOKENS]))))
    return tuple(found)


def shared(one: Blocks, other: Blocks) -> int:
    """Return how many blocks two prompts share at their beginning."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


@dataclass(frozen=True, slots=True, eq=False)
class WaitingRow(Generic[T]):
    """A row that waits. max_tokens: that its answer may have. is_urgent: it goes before all that are not."""

    item: T
    blocks: Blocks
    max_tokens: int
    is_urgent: bool = False


class Placement(Generic[T]):
    """The rows that wait, and what each place has computed.

    keeps_prefixes: whether places do; else rows go in their order, to any place.
    """

    def __init__(self, places: int, *, keeps_prefixes: bool) -> None:
        self._keeps_prefixes = keeps_prefixes
        self._waiting: dict[int, WaitingRow[T]] = {}
        self._urgent: dict[int, WaitingRow[T]] = {}  # those of them
        self._numbers = iter(range(1 << 62))
        self._counts: Counter[int] = Counter()
        self._has: list[Blocks] = [()] * places
        self._held: Counter[int] = Counter()  # by how many places each block is

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def urgent(self) -> int:
        """The number of urgent rows that wait."""
        return len(self._urgent)

    def add(self, item: T, tokens: Sequence[int], max_tokens: int, *, is_urgent: bool = False) -> None:
        """Let a row wait."""
        blocks = blocks_of(tokens) if self._keeps_prefixes else ()
        number, row = next(self._numbers), WaitingRow(item, blocks, max_tokens, is_urgent)
        self._waiting[number] = row
        if is_urgent:
            self._urgent[number] = row
        self._counts.update(blocks)

    def remove(self, is_gone: Callable[[T], bool]) -> None:
        """Remove waiting rows."""
        for number in [number for number, row in self._waiting.items() if is_gone(row.item)]:
            self._take(number)

    def next_row(
        self,
        free: Collection[int],
        *,
        is_idle: bool,
        only_urgent: bool = False,
        is_barred: Callable[[T], bool] | None = None,
    ) -> tuple[T, int] | None:
        """Take the row that goes next, and the free place for it; None: no place should take one now.

        is_idle: whether nothing is in flight, so that waiting for others is of no use. is_barred: whether an urgent row
        may take no place now.
        """
        waiting = self._candidates(only_urgent, is_barred)
        if not waiting or not free:
            return None
        if not self._keeps_prefixes:
            number = next(iter(waiting))
            return self._take(number).item, min(free)
        best: tuple[tuple[int, int, int, int], int, int] | None = None
        different = {self._has[place]: place for place in sorted(free, reverse=True)}
        for place in different.values():
            for number, row in islice(waiting.items(), MAX_LOOKED_AT):
                score = self._score(number, row, place)
                if best is None or score > best[0]:
                    best = score, number, place
        if best is None:
            return None
        (negative_waste, *_), number, place = best
        is_patient = not (is_idle or self._urgent)
        if negative_waste < 0 and is_patient and not self._is_worth(self._waiting[number], -negative_waste):
            return None
        row = self._take(number)
        self._held.subtract(self._has[place])
        self._held += Counter(row.blocks)
        self._has[place] = row.blocks
        return row.item, place

    def begun(self, item: T) -> None:
        """Note that the prompt of a row that was placed is computed."""

    def ended(self, item: T) -> None:
        """Note that a row that was placed has ended, whatever is computed of it."""

    def _candidates(self, only_urgent: bool, is_barred: Callable[[T], bool] | None) -> dict[int, WaitingRow[T]]:
        if is_barred is None or not self._urgent:
            return self._urgent if only_urgent or self._urgent else self._waiting
        found = {number: row for number, row in self._urgent.items() if not is_barred(row.item)}
        if found or only_urgent:
            return found
        return {number: row for number, row in self._waiting.items() if not row.is_urgent}

    def _score(self, number: int, row: WaitingRow[T], place: int) -> tuple[int, int, int, int]:
        """Rate a row for a place, the best highest: its waste, what it saves now, what it saves for others, its age."""
        here = shared(row.blocks, self._has[place])
        elsewhere = 0
        while elsewhere < len(row.blocks) and self._held[row.blocks[elsewhere]] > (elsewhere < here):
            elsewhere += 1
        return -max(elsewhere - here, 0), here, self._gain(row), -number

    def _gain(self, row: WaitingRow[T]) -> int:
        """How many blocks the other waiting rows save once this one has computed the prefix that it shares."""
        depth = bisect_left(
            row.blocks, True, key=lambda block: self._counts[block] < 2
        )  # deeper ones are in fewer rows
        return depth * (self._counts[row.blocks[depth - 1]] - 1) if depth else 0

    def _is_worth(self, row: WaitingRow[T], waste: int) -> bool:
        """Whether rows of this prefix generate enough for another place to compute it too."""
        deepest = next((one for one in reversed(row.blocks) if self._counts[one] > 1), None)
        rows = 1 if deepest is None else self._counts[deepest]
        return rows * row.max_tokens > waste * BLOCK_TOKENS

    def _take(self, number: int) -> WaitingRow[T]:
        row = self._waiting.pop(number)
        self._urgent.pop(number, None)
        self._counts.subtract(row.blocks)
        for block in row.blocks:
            if self._counts[block] <= 0:
                del self._counts[block]
        return row
