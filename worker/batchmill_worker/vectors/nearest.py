"""The nearest vectors of a base that is given block by block, with a running best for each query.

Imports torch: import it where an operator sets up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from batchmill_worker.vectors.products import TILE_COLUMNS, TILE_ROWS, Vectors, close_pairs

if TYPE_CHECKING:
    from torch import Tensor

    from batchmill_worker.vectors.products import Pairs


class Nearest:
    """The `k` nearest vectors of each query among those added so far. Of equally near ones those added first.

    scores: of shape (queries, k), the nearest first, minus infinity where there are fewer; see `close_pairs`.
    places: int64 of the same shape, by the numbers that `add` was given.
    """

    def __init__(self, queries: Vectors, k: int, floor: float) -> None:
        """Begin. floor: the least score of what counts."""
        self._queries = queries
        self._k = k
        shape, device = (len(queries), k), queries.full.device
        self.scores = torch.full(shape, -torch.inf, device=device)
        self.places = torch.full(shape, -1, dtype=torch.int64, device=device)
        self._floors = torch.full((len(queries),), floor, device=device)

    def add(self, base: Vectors, first: int) -> None:
        """Compare with more vectors, which are numbered from `first` on."""
        for start in range(0, len(base), TILE_COLUMNS):
            tile = base.part(start, TILE_COLUMNS)
            for row in range(0, len(self._queries), TILE_ROWS):
                queries, own = self._queries.part(row, TILE_ROWS), slice(row, row + TILE_ROWS)
                is_full = torch.isfinite(self.scores[own, -1]).all()
                pairs = close_pairs(queries, tile, self._floors[own], None if is_full else self._k)
                if len(pairs.scores):
                    self._merge(own, pairs, first + start)

    def _merge(self, own: slice, pairs: Pairs, first: int) -> None:
        scores, places = self.scores[own], self.places[own]
        counts = torch.bincount(pairs.queries, minlength=len(scores))
        most = int(counts.max())
        starts = torch.cumsum(counts, 0) - counts
        slot = torch.arange(len(pairs.queries), device=counts.device) - starts[pairs.queries]
        new_scores = scores.new_full((len(scores), most), -torch.inf)
        new_places = places.new_full((len(scores), most), -1)
        new_scores[pairs.queries, slot] = pairs.scores
        new_places[pairs.queries, slot] = pairs.base + first
        both = torch.cat([scores, new_scores], 1)
        order: Tensor = torch.sort(both, dim=1, descending=True, stable=True).indices[:, : self._k]
        scores.copy_(torch.gather(both, 1, order))
        places.copy_(torch.gather(torch.cat([places, new_places], 1), 1, order))
        self._floors[own] = torch.maximum(self._floors[own], scores[:, -1])
