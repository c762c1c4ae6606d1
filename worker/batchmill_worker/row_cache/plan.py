"""Which rows of a shard have to be computed, and how known results become the results of all its rows. Pure.

1. Rows with the same digest are one *distinct* row, at the place of the first of them.
2. Some distinct rows are found in the cache; the others are missing, and are run through the operator.
3. Known results, from either side, are in *pieces*: some distinct rows, and the results of each.
4. A piece is spread over all rows of the shard that are equal to one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.columns import rows_of
from batchmill.jobs.dead_letters import json_value
from batchmill_worker.engine.assembly import CompletedBatch, assemble
from batchmill_worker.engine.batches import BatchResult
from batchmill_worker.engine.shard_result import ShardResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.runtime.failures import DeadRow


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """The distinct rows of a shard, in the order of their first occurrence."""

    digests: list[bytes]
    firsts: Rows  # for each, the row of the shard where it occurs first; as long as digests
    places: Rows  # for each row of the shard, its index in digests

    @classmethod
    def of(cls, digests: Sequence[bytes]) -> Distinct:
        """Find the distinct rows of a shard whose rows have these digests."""
        known: dict[bytes, int] = {}
        places = np.fromiter((known.setdefault(digest, len(known)) for digest in digests), np.int64, len(digests))
        firsts = np.full(len(known), len(digests), dtype=np.int64)
        np.minimum.at(firsts, places, np.arange(len(digests)))
        return cls(list(known), firsts, places)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The results of some distinct rows."""

    owners: Rows  # which distinct rows, ascending
    counts: Rows  # the number of results of each, as long as owners: one, unless the operator expands
    results: pa.Table  # what the operator made, row by row in the order of the owners

    def part(self, start: int, end: int) -> Piece:
        """Return the part about the distinct rows from `start` up to `end`."""
        first, behind = np.searchsorted(self.owners, [start, end])
        skipped, taken = int(self.counts[:first].sum()), int(self.counts[first:behind].sum())
        return Piece(self.owners[first:behind], self.counts[first:behind], self.results.slice(skipped, taken))


def computed(result: ShardResult, ran: Rows) -> Piece:
    """Return the results of the distinct rows `ran`, ascending, which were the rows given to the operator."""
    done = np.setdiff1d(result.settled, [row.index for row in result.dead])
    counts = np.bincount(result.sources, minlength=len(ran))[done]
    return Piece(ran[done], counts, result.table.select(result.made))


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A shard of which only the distinct rows that were missing have been run."""

    definition: OperatorDefinition
    table: pa.Table  # the shard's rows
    carried: Sequence[str]
    distinct: Distinct
    found: Sequence[Piece]  # from the cache
    missing: Rows  # the distinct rows that were run, ascending

    def result(self, ran: ShardResult) -> ShardResult:
        """Return the result of all rows, from the result of those that were run.

        Raises `InvalidOperator` if results from the cache are of other types than those just made.
        """
        completed = [self._spread(piece) for piece in (*self.found, computed(ran, self.missing))]
        table, sources, made = assemble(self.definition, self.table, self.carried, completed)
        dead = tuple(sorted(self._dead(ran.dead), key=lambda row: row.index))
        settled = self._rows_of([self.missing[ran.settled], *(piece.owners for piece in self.found)])
        own = self.distinct.firsts[self.missing]
        cached = np.setdiff1d(settled, np.concatenate([own, np.array([row.index for row in dead], dtype=np.int64)]))
        return ShardResult(table, sources, settled, dead, ran.timings, ran.stopped, made, cached, ran.is_full)

    def _spread(self, piece: Piece) -> CompletedBatch:
        owned = np.full(len(self.distinct.digests), -1, dtype=np.int64)
        owned[piece.owners] = np.arange(len(piece.owners))
        places = owned[self.distinct.places]
        rows = np.flatnonzero(places >= 0)
        places = places[rows]
        counts = piece.counts[places]
        taken = ranges((np.cumsum(piece.counts) - piece.counts)[places], counts)
        results = piece.results
        if not np.array_equal(taken, np.arange(results.num_rows)):
            results = results.take(pa.array(taken))
        columns: dict[str, Any] = dict(zip(results.column_names, results.columns, strict=True))
        return CompletedBatch(
            rows, BatchResult(len(taken), columns, counts=counts if self.definition.expands else None)
        )

    def _rows_of(self, owners: Sequence[Rows]) -> Rows:
        chosen = np.zeros(len(self.distinct.digests), dtype=np.bool_)
        chosen[np.concatenate(owners)] = True
        return np.flatnonzero(chosen[self.distinct.places])

    def _dead(self, dead: Sequence[DeadRow]) -> Iterator[DeadRow]:
        """Yield the failed rows, and the rows equal to one of them."""
        for one in dead:
            for row in np.flatnonzero(self.distinct.places == self.missing[one.index]).tolist():
                yield replace(one, index=row, row=json_value(rows_of(self.table.slice(row, 1))[0]))


def ranges(starts: Rows, counts: Rows) -> npt.NDArray[np.int64]:
    """Return start, start + 1, … for each start, with its count of numbers."""
    begins = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return begins + np.arange(int(counts.sum()), dtype=np.int64)
