"""The nearest vectors of a base that is given block by block, with a running best for each query.

Imports torch: import it where an operator sets up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from batchmill_worker.vectors.products import (
    TILE_COLUMNS,
    TILE_ROWS,
    Pairs,
    Vectors,
    exact_pairs,
    likely_pairs,
)

if TYPE_CHECKING:
    from torch import Tensor

MAX_LIKELY = 1 << 20
"""Pairs of a block of queries that are kept before they are compared exactly: 20 MiB."""


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
        self._bounds = self.scores.clone()  # the best scores so far, each as low as it may be
        self._floors = torch.full((len(queries),), floor, device=device)

    def add(self, base: Vectors, first: int) -> None:
        """Compare with more vectors, which are numbered from `first` on."""
        for row in range(0, len(self._queries), TILE_ROWS):
            self._compare(slice(row, row + TILE_ROWS), base, first)

    def _compare(self, own: slice, base: Vectors, first: int) -> None:
        """Compare some queries with a base.

        In float32 the errors are so small that few pairs are to be compared exactly at the end. In another format they
        are compared tile by tile, since exact scores leave out more of the next tile.
        """
        queries = self._queries.part(own.start, TILE_ROWS)
        reached = self._bounds if queries.half is None else self.scores
        found: list[Pairs] = []
        for start in range(0, len(base), TILE_COLUMNS):
            is_full = torch.isfinite(reached[own, -1]).all()
            tile = base.part(start, TILE_COLUMNS)
            pairs, errors = likely_pairs(queries, tile, self._floors[own], None if is_full else self._k)
            if not len(pairs.scores):
                continue
            error = errors[pairs.queries]
            found.append(Pairs(pairs.queries, pairs.base + start, pairs.scores + error))
            if queries.half is None:
                lowest = Pairs(pairs.queries, pairs.base, pairs.scores - error)
                self._bounds[own] = self._best(self._bounds[own], self.places[own], lowest, 0)[0]
                self._raise_floors(own, self._bounds[own, -1])
            if queries.half is not None or sum(len(one.scores) for one in found) > MAX_LIKELY:
                self._take(own, queries, base, found, first)
                found = []
        if found:
            self._take(own, queries, base, found, first)

    def _raise_floors(self, own: slice, least: Tensor) -> None:
        self._floors[own] = torch.maximum(self._floors[own], least)

    def _take(self, own: slice, queries: Vectors, base: Vectors, found: list[Pairs], first: int) -> None:
        """Add what is nearest among pairs, whose scores are as high as they may be."""
        rows, columns, scores = (
            torch.cat([getattr(one, name) for one in found]) for name in ("queries", "base", "scores")
        )
        may_be = scores >= self._floors[own][rows]
        likely = Pairs(rows[may_be], columns[may_be], scores[may_be])
        pairs = exact_pairs(queries, base, likely, self._floors[own])
        self.scores[own], self.places[own] = self._best(self.scores[own], self.places[own], pairs, first)
        self._raise_floors(own, self.scores[own, -1])

    def _best(self, scores: Tensor, places: Tensor, pairs: Pairs, first: int) -> tuple[Tensor, Tensor]:
        """Return the best of what is there and of pairs, whose base is numbered from `first` on."""
        by_score = torch.sort(pairs.scores, descending=True, stable=True).indices
        order = by_score[torch.sort(pairs.queries[by_score], stable=True).indices]
        rows = pairs.queries[order]
        counts = torch.bincount(rows, minlength=len(scores))
        rank = torch.arange(len(rows), device=rows.device) - (torch.cumsum(counts, 0) - counts)[rows]
        kept = rank < self._k
        order, rows, rank = order[kept], rows[kept], rank[kept]
        shape = len(scores), int(counts.max().clamp(max=self._k))
        new_scores, new_places = scores.new_full(shape, -torch.inf), places.new_full(shape, -1)
        new_scores[rows, rank] = pairs.scores[order]
        new_places[rows, rank] = pairs.base[order] + first
        both = torch.cat([scores, new_scores], 1)
        best = torch.sort(both, dim=1, descending=True, stable=True).indices[:, : self._k]
        return torch.gather(both, 1, best), torch.gather(torch.cat([places, new_places], 1), 1, best)
