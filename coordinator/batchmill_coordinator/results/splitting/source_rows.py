"""Cuts the results of a stage between source rows, for the stages that must not divide one.

The commit of a part notes where source rows begin in it, at most at 64 places. A source row may reach from part to part
of one planned shard, whose halves end at any row, but never to another planned shard: the input of the stage before was
cut likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from batchmill.errors import DamagedData
from batchmill.jobs.shard import Slice, part_of
from batchmill.ledger.formats.encodings import StageCursor
from batchmill.sources.base import End, InputSplit, NotYet, Splitter
from batchmill.stage_results import settled_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.encodings import SourceRowBorders
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sources.base import NextSplit
    from batchmill.stage_results import SettledShard


@dataclass(frozen=True, slots=True)
class Segment:
    """Results of a part between two noted places."""

    part: Settled
    start: int
    stop: int
    begins: bool  # whether it begins with another source row than the segment before ends with
    source_rows: int  # that begin in it
    end: StageCursor  # behind it

    @property
    def rows(self) -> int:
        """How many results it has."""
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """About how many bytes they have."""
        return self.part.nbytes * self.rows // self.part.results


class SourceRowSplitter(Splitter):
    """Walks along the settled shards of a stage. waits: whether a short remainder is held back.

    gathers: whether the rows of the splits are source rows; else they are results.
    """

    def __init__(
        self,
        ledger: Ledger,
        record: JobRecord,
        stage: StageRecord,
        cursor: StageCursor,
        max_parts: int,
        *,
        gathers: bool,
        waits: bool,
    ) -> None:
        self._ledger = ledger
        self._record = record
        self._stage = stage
        self._cursor = cursor
        self._max_parts = max_parts
        self._gathers = gathers
        self._waits = waits
        self._is_at_end = False  # no more results will come
        self._segments = self._walk(settled_shards(ledger, record, stage.number, cursor.shard))
        self._segment = next(self._segments, None)

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter.next_split`; a source row may exceed both limits."""
        slices: list[Slice] = []
        rows = nbytes = 0
        while self._segment is not None:
            one = self._segment
            more = one.source_rows if self._gathers else one.rows
            fits = rows + more <= max_rows and nbytes + one.nbytes <= max_bytes and len(slices) < self._max_parts
            if slices and one.begins and not fits:
                return InputSplit(tuple(slices), rows, nbytes, self._cursor.write())
            _append(slices, one)
            rows, nbytes, self._cursor = rows + more, nbytes + one.nbytes, one.end
            self._segment = next(self._segments, None)
        if not rows:
            return End() if self._is_at_end else NotYet(self._cursor.write())
        if self._waits and rows < max_rows and nbytes < max_bytes:
            return NotYet()
        return InputSplit(tuple(slices), rows, nbytes, self._cursor.write())

    def _walk(self, shards: Iterator[SettledShard]) -> Iterator[Segment]:
        """Yield what is behind the cursor."""
        for shard in shards:
            planned = self._cursor.row if shard.number == self._cursor.shard else 0
            found = list(segments(self._ledger, self._record.id, shard, planned))
            if not shard.is_complete:  # its next part may continue the last source row
                begins = [place for place, one in enumerate(found) if one.begins]
                found = found[: begins[-1] if begins else 0]
            yield from (one for one in found if one.end > self._cursor)
            if not shard.is_complete:
                return
            self._cursor = StageCursor(shard.number + 1, 0)
        self._is_at_end = self._stage.is_settled


def segments(ledger: Ledger, job_id: str, shard: SettledShard, planned: int = 0) -> Iterator[Segment]:
    """Yield the results of a planned shard in order, up to the first part that is missing.

    planned: how many of them are in shards of the next stage already, up to a place between source rows. Parts with no
    others are left out: they may be freed by now.

    Raises `DamagedData` if it was not noted how they may be cut.
    """
    before, row = -1, 0
    parts = [part for part in shard.ready if part.results]
    while parts and row + parts[0].results <= planned:
        row += parts.pop(0).results
    for part, borders in zip(parts, _borders(ledger, job_id, parts), strict=True):
        edges = [0, *borders.places, part.results]
        left = borders.source_rows
        for start, stop in pairwise(edges):
            begins = bool(start) or borders.first != before
            begun = min(borders.step, left)
            left -= begun
            is_over = shard.is_complete and part is parts[-1] and stop == part.results
            end = StageCursor(shard.number + 1, 0) if is_over else StageCursor(shard.number, row + stop)
            yield Segment(part, start, stop, begins, begun if begins else begun - 1, end)
        before, row = borders.last, row + part.results


def source_rows_of(ledger: Ledger, job_id: str, shard: SettledShard) -> int:
    """Return how many source rows the results of a planned shard are from. Raises as `segments` does."""
    return sum(one.source_rows for one in segments(ledger, job_id, shard))


def _borders(ledger: Ledger, job_id: str, parts: Sequence[Settled]) -> list[SourceRowBorders]:
    if not parts:
        return []
    found = ledger.results.borders(job_id, parts[0].stage, [part.shard_id for part in parts])
    noted = [one for one in found if one is not None]
    if len(noted) < len(parts):
        raise DamagedData(f"the ledger does not say where source rows begin in the results of {job_id}.")
    return noted


def _append(slices: list[Slice], one: Segment) -> None:
    """Append a segment, as a part of the last slice if it follows that."""
    name = part_of(one.part.shard_id, one.part.token)
    if slices and slices[-1].part == name and slices[-1].stop == one.start:
        start = slices.pop().start
        slices.append(Slice(0, start, one.stop, one.stop - start, part=name))
    else:
        slices.append(Slice(0, one.start, one.stop, one.rows, part=name))
