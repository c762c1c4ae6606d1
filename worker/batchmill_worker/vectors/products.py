"""Pairs of vectors that are close enough, found by matrix products, tile by tile.

1. A product in a fast number format gives an approximate score of each pair. The largest possible error is known: it
   follows from the lengths of what rounding has cut off (by the inequality of Cauchy and Schwarz).
2. Only pairs whose approximate score reaches the floor of their query, less that error, can be close enough. Their
   scores are computed again in float32, each by itself, so that equal vectors have equal scores wherever they are.

So results are exact, and the format decides only how many pairs are computed twice. bfloat16 is used where the hardware
multiplies it: a product takes half the time there.

Imports torch: import it where an operator sets up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from batchmill_worker.vectors.metric import Metric

TILE_ROWS, TILE_COLUMNS = 1024, 4096
"""Of a product that is looked at in one piece: on a CPU it is still in the cache then."""

RUN = 64
"""Neighbouring scores that are looked at together first."""

PAIRS_AT_ONCE = 1 << 14
MIN_HALF_DIMENSION = 64  # the second step costs more than shorter vectors gain
FLOAT32_ROUNDING = 2.0**-24
UNIT_SLACK = 4 * FLOAT32_ROUNDING  # of a length that counts as 1
MIN_LENGTH, MAX_LENGTH = 1e-15, 1e15


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors on a device, with what the errors of their products follow from.

    full: float32, of shape (rows, dimension); for the metric `cosine` of the length 1.
    half: the same in bfloat16; None: products are in float32.
    bias: for the metric `l2` half of the squared length of each, else None.
    lengths, cuts: the length of each, and of what `half` has cut off.
    """

    full: Tensor
    half: Tensor | None
    bias: Tensor | None
    lengths: Tensor
    cuts: Tensor

    def __len__(self) -> int:
        return len(self.full)

    def part(self, start: int, size: int) -> Vectors:
        """Return some of them, without a copy."""
        own = slice(start, start + size)
        half, bias = (None if one is None else one[own] for one in (self.half, self.bias))
        return Vectors(self.full[own], half, bias, self.lengths[own], self.cuts[own])

    def take(self, rows: Tensor) -> Vectors:
        """Return a copy of some of them."""
        half, bias = (None if one is None else one[rows] for one in (self.half, self.bias))
        return Vectors(self.full[rows], half, bias, self.lengths[rows], self.cuts[rows])

    @property
    def nbytes(self) -> int:
        """What they take on the device."""
        parts = (self.full, self.half, self.bias, self.lengths, self.cuts)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs by their places among the queries and in the base, ordered by both. Scores: a higher one is nearer."""

    queries: Tensor
    base: Tensor
    scores: Tensor


def on_device(vectors: Tensor, metric: Metric, device: torch.device) -> Vectors:
    """Move finite float32 vectors to a device. With the metric `cosine` none of them is zero."""
    rows, dimension = vectors.shape
    if metric == "cosine" and not has_fast_half(device, dimension):
        vectors = vectors.to(device)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        if (lengths - 1).abs().le(UNIT_SLACK).all():  # as most models make them: they need no copy
            return Vectors(vectors, None, None, lengths, torch.zeros_like(lengths))
    full = torch.empty((rows, dimension), device=device)
    half = torch.empty_like(full, dtype=torch.bfloat16) if metric != "l2" and has_fast_half(device, dimension) else None
    lengths, cuts = torch.empty(rows, device=device), torch.zeros(rows, device=device)
    for start in range(0, rows, TILE_COLUMNS):  # what is read several times stays in the cache
        own = slice(start, start + TILE_COLUMNS)
        some = vectors[own].to(device)
        lengths[own] = torch.linalg.vector_norm(some, dim=1)
        if metric == "cosine":
            shortest, longest = torch.aminmax(lengths[own])
            if shortest < MIN_LENGTH or longest > MAX_LENGTH:  # their squares are no float32
                some = some / some.abs().amax(1, keepdim=True)
                lengths[own] = torch.linalg.vector_norm(some, dim=1)
            torch.div(some, lengths[own, None], out=full[own])
            lengths[own] = 1 + FLOAT32_ROUNDING * (dimension + 2)  # at most: of the sum, the root and the division
        else:
            full[own] = some
        if half is not None:
            half[own] = full[own]
            cuts[own] = torch.linalg.vector_norm(full[own] - half[own], dim=1)
    return Vectors(full, half, lengths.square() / 2 if metric == "l2" else None, lengths, cuts)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """Return the vectors of several, in order; all are for one metric, on one device."""
    halves = [part.half for part in parts if part.half is not None]
    biases = [part.bias for part in parts if part.bias is not None]
    return Vectors(
        torch.cat([part.full for part in parts]),
        torch.cat(halves) if halves else None,
        torch.cat(biases) if biases else None,
        torch.cat([part.lengths for part in parts]),
        torch.cat([part.cuts for part in parts]),
    )


def has_fast_half(device: torch.device, dimension: int) -> bool:
    """Return whether the device multiplies bfloat16 in hardware, and such vectors are long enough to gain by it."""
    if dimension < MIN_HALF_DIMENSION or device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def close_pairs(queries: Vectors, base: Vectors, floors: Tensor) -> Pairs:
    """Return the pairs of one tile whose score is at least the floor of the query.

    Scores: of `cosine` and `dot` the product, of `l2` minus half of the squared distance. floors: of shape (queries,).
    """
    return exact_pairs(queries, base, likely_pairs(queries, base, floors)[0], floors)


def likely_pairs(queries: Vectors, base: Vectors, floors: Tensor, best: int | None = None) -> tuple[Pairs, Tensor]:
    """Return the pairs of one tile that may be as close as `close_pairs` says, with approximate scores.

    best: also leave out pairs that are certainly not among this many best of their query, to within ties.
    Also returns the largest error of the scores of each query.
    """
    scores, errors = _approximate(queries, base)
    rounding = 2.0**-8 if scores.dtype == torch.bfloat16 else 2 * FLOAT32_ROUNDING
    own = 0.0 if queries.bias is None else queries.bias
    if best is not None and best < len(base):
        last = torch.topk(scores, best, dim=1, sorted=False).values.amin(1).float()
        floors = torch.maximum(floors, last - last.abs() * rounding - errors - own)
    rows, columns = _reaching(scores, _rounded_down(floors + own - errors, scores.dtype))
    found = scores[rows, columns].float()
    errors = errors + rounding * (queries.lengths * base.lengths.max() + own)
    return Pairs(rows, columns, found if queries.bias is None else found - queries.bias[rows]), errors


def exact_pairs(queries: Vectors, base: Vectors, pairs: Pairs, floors: Tensor) -> Pairs:
    """Return those of some pairs whose score is at least the floor of the query, with their exact scores."""
    rows, columns = pairs.queries, pairs.base
    exact = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        one, other = queries.full[rows[some]], base.full[columns[some]]
        if base.bias is None:
            exact[some] = (one * other).sum(1)
        else:
            exact[some] = (one - other).square().sum(1) / -2
    enough = exact >= floors[rows]
    return Pairs(rows[enough], columns[enough], exact[enough])


def _reaching(scores: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return where scores of shape (queries, base) reach the least score of their query, in order.

    Few do: first the runs of scores are found whose largest one does, which reads the scores once.
    """
    width = scores.shape[1]
    if width % RUN:
        rows, columns = torch.nonzero(scores >= least[:, None], as_tuple=True)
        return rows, columns
    runs = scores.view(len(scores), width // RUN, RUN)
    rows, places = torch.nonzero(runs.amax(2) >= least[:, None], as_tuple=True)
    found, columns = torch.nonzero(runs[rows, places] >= least[rows, None], as_tuple=True)
    return rows[found], places[found] * RUN + columns


def _approximate(queries: Vectors, base: Vectors) -> tuple[Tensor, Tensor]:
    """Return scores of all pairs, of `l2` without the part of the query, and the largest error of each query's.

    That scores are rounded to their format is not among the errors: rounding keeps the order of numbers.
    """
    length = base.lengths.max()
    sizes = queries.lengths * length
    if queries.half is not None and base.half is not None:
        scores = queries.half @ base.half.T
        cuts = queries.cuts * length + (queries.lengths + queries.cuts) * base.cuts.max()
    else:
        scores = queries.full @ base.full.T
        cuts = torch.zeros_like(sizes)
    if base.bias is not None:
        scores -= base.bias
        sizes = sizes + (length.square() + queries.lengths.square()) / 2
    return scores, cuts + FLOAT32_ROUNDING * 2 * (queries.full.shape[1] + 2) * sizes


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in another format, none of them larger than it was."""
    rounded = values.to(dtype)
    lower = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.float() > values, lower, rounded)
