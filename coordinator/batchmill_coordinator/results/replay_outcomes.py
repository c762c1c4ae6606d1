"""What became of rows that a replay has run again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.jobs.dead_letters import DeadRows
from batchmill.storage.indexed import INDEX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from batchmill.jobs.dead_letters import DeadLetter

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedShard:
    """The results of a shard of a replay, its rows named by their index in the first job's input."""

    results: pa.Table | None  # with INDEX
    dead: DeadRows
    rows: Rows  # all that were run, in the order of the replay

    @property
    def done(self) -> set[int]:
        """Return the rows that did not fail again; if the operator expands, they may have no result."""
        return set(self.rows.tolist()) - self.dead.indices


class ReplayReader:
    """The shards of a replay, read once and in order.

    original_rows: for each row of the replay its index in the first job's input. They are in the order of the shards
    from which the rows are; in a stage that runs with the one before it, indices are not.
    """

    def __init__(self, shards: Iterator[ReplayedShard], original_rows: Rows) -> None:
        self._replayed_shards = shards
        self._held: list[ReplayedShard] = []
        self._places = np.argsort(original_rows)
        self._indices = original_rows[self._places]

    def of(self, wanted: Collection[int]) -> RowOutcomes:
        """Return what became of these rows. Later calls must ask for rows that are later in the replay."""
        places = self._places_of(np.fromiter(wanted, np.int64))
        if not places.size:
            return NO_OUTCOMES
        self._held = [shard for shard in self._held if self._last(shard) >= places.min()]
        while not self._held or self._last(self._held[-1]) < places.max():
            piece = next(self._replayed_shards, None)
            if piece is None:
                break
            self._held.append(piece)
        rows = pa.array(sorted(wanted), pa.int64())
        held = [shard.results for shard in self._held if shard.results is not None]
        results = [table.filter(pc.is_in(table[INDEX], rows)) for table in held]
        dead = [shard.dead.select(wanted) for shard in self._held]
        done = {row for shard in self._held for row in shard.done}.intersection(wanted)
        return RowOutcomes([table for table in results if table.num_rows], [one for one in dead if one.letters], done)

    def _places_of(self, rows: Rows) -> Rows:
        """Return the places in the replay of those of these rows that it has."""
        at = np.searchsorted(self._indices, rows)
        rows, at = rows[at < self._indices.size], at[at < self._indices.size]
        places: Rows = self._places[at[self._indices[at] == rows]]
        return places

    def _last(self, shard: ReplayedShard) -> int:
        return int(self._places_of(shard.rows[-1:])[0])


@dataclass(frozen=True, slots=True)
class RowOutcomes:
    """What became of rows that were run again: new results, with INDEX, and those that failed again."""

    results: list[pa.Table]
    dead: list[DeadRows]
    done: set[int]  # the rows that are done now

    def still_dead(self, before: DeadRows) -> DeadRows:
        """Return the failed rows that a shard has from now on. before: those that it had."""
        again = {letter.index for one in self.dead for letter in one.letters}
        kept = before.select({letter.index for letter in before.letters} - self.done - again)
        attempts = {letter.index: letter for letter in before.letters}
        groups = [kept, *(_again(one, attempts) for one in self.dead)]
        letters = [letter for group in groups for letter in group.letters]
        order = sorted(range(len(letters)), key=lambda place: letters[place].index)
        rows = pa.concat_tables([group.rows for group in groups], promote_options="permissive")
        purged = tuple(row for row in before.purged if row not in self.done | again)
        return DeadRows(tuple(letters[place] for place in order), rows.take(pa.array(order, pa.int64())), purged)


NO_OUTCOMES = RowOutcomes([], [], set())


def _again(dead: DeadRows, before: Mapping[int, DeadLetter]) -> DeadRows:
    """Add to rows that failed before, too, what is known of their first failure."""
    letters = []
    for found in dead.letters:
        letter, first = found, before.get(found.index)
        if first is not None:
            attempts = letter.attempts + first.attempts
            letter = letter.model_copy(update={"attempts": attempts, "first_failed_at": first.first_failed_at})
        letters.append(letter)
    return replace(dead, letters=tuple(letters))
