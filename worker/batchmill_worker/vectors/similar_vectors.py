"""Near duplicates by the cosine of vectors: each row is compared with all rows that are kept before it.

Imports torch: import it where an operator sets up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from batchmill_worker.vectors.products import TILE_COLUMNS, TILE_ROWS, Vectors, close_pairs, joined, on_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Places = npt.NDArray[np.int64]
    Scores = npt.NDArray[np.float32]

SLACK = 1e-6  # of float32: equal vectors are duplicates at a threshold of 1


def kept_of_vectors(values: npt.NDArray[np.float32], threshold: float, device: str) -> Places:
    """Return for each row the earlier row that it is a near duplicate of; -1: none, so it is kept.

    That one is itself kept, and of those whose cosine is at least `threshold`, the one with the largest, of these the
    first. values: finite and not zero, of shape (rows, dimension).
    """
    found = np.full(len(values), -1, dtype=np.int64)
    kept = _Kept()
    with torch.inference_mode():
        for start in range(0, len(values), TILE_ROWS):
            block = on_device(torch.from_numpy(values[start : start + TILE_ROWS]), "cosine", torch.device(device))
            floors = torch.full((len(block),), threshold - SLACK, device=block.full.device)
            scores, best = kept.most_similar(block, floors)
            _compare_within(block, floors, scores, best, start)
            found[start : start + len(block)] = best
            kept.add(block, start, np.flatnonzero(best < 0))
    return found


class _Kept:
    """The vectors of the rows that are kept, in blocks of about `TILE_COLUMNS`."""

    def __init__(self) -> None:
        self._full: list[tuple[Vectors, Places]] = []
        self._open: list[tuple[Vectors, Places]] = []

    def add(self, block: Vectors, start: int, places: Places) -> None:
        """Keep some rows of a block. start: the row that the block begins with."""
        if not len(places):
            return
        self._open.append((block.take(torch.from_numpy(places).to(block.full.device)), places + start))
        if sum(len(rows) for _, rows in self._open) >= TILE_COLUMNS:
            self._full.append(
                (joined([one for one, _ in self._open]), np.concatenate([rows for _, rows in self._open]))
            )
            self._open = []

    def most_similar(self, block: Vectors, floors: torch.Tensor) -> tuple[Scores, Places]:
        """Return the largest score of each row of a block and the row that it is with; -1: none reaches the floor."""
        scores = np.full(len(block), -np.inf, dtype=np.float32)
        best = np.full(len(block), -1, dtype=np.int64)
        for vectors, rows in self._blocks():
            pairs = close_pairs(block, vectors, floors)
            queries, base, found = (part.cpu().numpy() for part in (pairs.queries, pairs.base, pairs.scores))
            order = np.lexsort((base, -found, queries))
            first = order[np.unique(queries[order], return_index=True)[1]]
            better = first[found[first] > scores[queries[first]]]
            scores[queries[better]], best[queries[better]] = found[better], rows[base[better]]
        return scores, best

    def _blocks(self) -> Iterator[tuple[Vectors, Places]]:
        yield from self._full
        yield from self._open


def _compare_within(block: Vectors, floors: torch.Tensor, scores: Scores, best: Places, start: int) -> None:
    """Compare the rows of a block with those before them in it, in order; change `scores` and `best`."""
    pairs = close_pairs(block, block, floors)
    queries, base, found = (part.cpu().numpy() for part in (pairs.queries, pairs.base, pairs.scores))
    wanted = (base < queries) & (best[base] < 0)
    queries, base, found = queries[wanted], base[wanted], found[wanted]
    rows, begins = np.unique(queries, return_index=True)
    for row, some in zip(rows.tolist(), np.split(np.arange(len(queries)), begins[1:]), strict=False):
        some = some[best[base[some]] < 0]  # by now some of them are not kept
        if len(some) and found[some].max() > scores[row]:
            nearest = some[found[some].argmax()]
            scores[row], best[row] = found[nearest], base[nearest] + start
