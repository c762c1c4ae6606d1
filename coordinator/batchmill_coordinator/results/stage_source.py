"""The results of a stage as the source of the next one, while they are still being made, or of another job.

1. Parts are taken in input order, from the first planned shard on; a shard or part that is not settled ends what there
   is (`NotYet`), so that the rows of the next stage are in the order of the job's source, whatever ran when.
2. A part may give several splits, and a split may join parts; a part without results is passed over.
3. A short remainder is held back while the next stage has shards and the stage before it is not over: it waits for its
   neighbour, as a small shard is mostly overhead.
   A stage of large shards also waits while the stage before it has shards in flight.
4. Where this stage or a later one gathers the results of each source row, only `SourceRowSplitter` cuts, between those.
5. The input ends when the stage before is settled and all of its results are in shards.

Taking any settled part at once, behind a water mark, was rejected: see `docs/decisions/0024-stages-in-order.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import without_lineage
from batchmill.jobs.shard import Slice, part_of
from batchmill.jobs.stateful.windows import ticking_ms
from batchmill.ledger.formats.encodings import StageCursor
from batchmill.ledger.formats.record import JobStage
from batchmill.sources.base import End, InputSplit, NextSplit, NotYet, RowCount, Source, Splitter
from batchmill.stage_inputs.readers import reader_of
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.splitting.source_rows import SourceRowSplitter
from batchmill_coordinator.results.splitting.steps import StateSplitter, StepCursor
from batchmill_coordinator.results.splitting.turns import TurnSplitter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sources.base import RowReader, RowsRead
    from batchmill.stage_results import SettledShard, StageResults


MAX_PARTS = 64
"""Parts that a split joins at most: its shard reads each of them."""


class StageSource(Source):
    """What a stage reads that is not the first, as the record of its job says, or the first of a job over another one.

    stage: its number. results: of the stage before it. before: that one, if it is of another job, which has ended.
    """

    def __init__(
        self, ledger: Ledger, record: JobRecord, stage: int, results: StageResults, before: JobStage | None = None
    ) -> None:
        self._ledger = ledger
        self._record = record
        self._own = record.stages[stage]
        origin = before or JobStage(record, record.stages[stage - 1])
        self._origin = origin.job
        self._before = origin.stage
        self.stays_open = before is not None and not self._own.spec.keeps_state
        self._results = results
        self._reader: RowReader = reader_of(results, self._own.spec)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first part with results that is there; none without one."""
        for part in self.parts():
            return self._results.schema(part.shard_id, part.token)
        return pa.schema([])

    @property
    def columns(self) -> pa.Schema:
        """Those of its columns that an operator gets: lists, if it gathers."""
        schema = without_lineage(self.schema.empty_table()).schema
        if self._own.spec.gathers:
            return pa.schema([pa.field(field.name, pa.list_(field.type)) for field in schema])
        return schema

    def parts(self) -> Iterator[Settled]:
        """Yield the parts with results that are there, in order."""
        for shard in settled_shards(self._ledger, self._origin, self._before.number):
            yield from (part for part in shard.parts if part.results)

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # the record knows more than the cursor
        """See `Source.count`. Until the stage before is settled: as if its other rows gave as many results each."""
        if self._own.spec.gathers:
            total = self._origin.first.rows_total  # of some of them there may be nothing to gather
            return RowCount(max(total or 0, self._own.rows_planned), exact=False)
        if self._own.spec.keeps_state:  # each of its shards ends with a row that is none of the stage before
            return RowCount(
                max(self._before.rows_out * self._own.spec.shards_of_round, self._own.rows_planned), exact=False
            )
        if self.stays_open:
            return RowCount(self._results_there, exact=True)  # replays may have added some
        expected = self._before.expected_results
        if expected is None:
            return RowCount(max(self._before.rows_out, self._own.rows_planned), exact=False)
        rows, exact = expected
        return RowCount(rows, exact=exact)

    def _last_parts(self) -> list[str]:
        """Name the parts of the last round of this stage that is planned; none if a shard of it is not settled."""
        first = self._own.shards_planned - self._own.spec.shards_of_round
        last = list(settled_shards(self._ledger, self._record, self._own.number, first))
        if not all(one.is_complete and one.parts for one in last):
            return []
        return [part_of(one.parts[-1].shard_id, one.parts[-1].token) for one in last]

    @cached_property
    def _results_there(self) -> int:
        return sum(part.results for part in self.parts())

    def splitter(self, cursor: str = "") -> Splitter:
        """See `Source.splitter`."""
        own, at, before = self._own, StageCursor.parse(cursor), self._before
        holds_out = own.spec.min_shard_rows > 1 and before.shards_in_flight > 0  # else its buffer may be full
        if own.spec.keeps_state:
            ahead = _StageSplitter(self._ledger, self._origin, before, StepCursor.parse(cursor).results, waits=False)
            ticks_for_ms = ticking_ms(own.spec.params)
            now_ms, groups = self._ledger.now_ms, own.spec.shards_of_round
            return StateSplitter(ahead, own, cursor, self._last_parts, now_ms, ticks_for_ms, groups)
        waits = (own.shards_live > 0 or holds_out) and not before.is_settled
        if own.spec.in_turn:
            return TurnSplitter(self._ledger, self._origin, before, own, at)
        if own.spec.takes_all:
            return _CompleteSplitter(self._ledger, self._origin, before, at)
        if own.spec.rows_together:  # a stream is not over for long: what there is waits only for what comes soon
            queued_ms = self._ledger.now_ms() - (own.last_queued_at or 0)
            waits = not before.is_settled and (own.shards_live > 0 or queued_ms < STEP_INTERVAL_MS)
        if self._record.spec.keeps_rows_together(own.number):
            return SourceRowSplitter(
                self._ledger, self._origin, self._before, at, MAX_PARTS, gathers=own.spec.gathers, waits=waits
            )
        return _StageSplitter(self._ledger, self._origin, self._before, at, waits=waits)

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source.read`."""
        return self._reader.read(slices)

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source.read_with_faults`."""
        return self._reader.read_with_faults(slices)


STEP_INTERVAL_MS = 2000
"""Between shards of a stage that publishes in steps, unless they are full: each costs a transaction of a store."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part with results behind the cursor."""

    shard: int  # the planned shard that it belongs to
    first: int  # results of that shard before it
    part: Settled
    is_last: bool  # of that shard

    def behind(self, row: int) -> StageCursor:
        """Return the cursor behind `row` results of its shard."""
        is_over = self.is_last and row >= self.first + self.part.results
        return StageCursor(self.shard + 1, 0) if is_over else StageCursor(self.shard, row)


class _CompleteSplitter(Splitter):
    """Gives all results of a stage as one split, once there will be no more."""

    def __init__(self, ledger: Ledger, record: JobRecord, stage: StageRecord, cursor: StageCursor) -> None:
        self._ledger = ledger
        self._record = record
        self._stage = stage
        self._cursor = cursor

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:  # noqa: ARG002  # the stage takes all at once
        """See `Splitter.next_split`."""
        if not self._stage.is_settled:
            return NotYet()
        shards = settled_shards(self._ledger, self._record, self._stage.number, self._cursor.shard)
        parts = [part for shard in shards for part in shard.parts if part.results]
        self._cursor = StageCursor(self._stage.shards_planned, 0)
        if not parts:
            return End()
        slices = tuple(
            Slice(0, 0, part.results, part.results, part=part_of(part.shard_id, part.token)) for part in parts
        )
        rows, nbytes = sum(part.results for part in parts), sum(part.nbytes for part in parts)
        return InputSplit(slices, rows, nbytes, self._cursor.write())


class _StageSplitter(Splitter):
    """Walks along the settled shards of a stage. waits: whether a short remainder is held back."""

    def __init__(
        self, ledger: Ledger, record: JobRecord, stage: StageRecord, cursor: StageCursor, *, waits: bool
    ) -> None:
        self._stage = stage
        self._cursor = cursor
        self._waits = waits
        self._is_at_end = False  # no more results will come
        self._pieces = self._walk(settled_shards(ledger, record, stage.number, cursor.shard))
        self._piece = next(self._pieces, None)

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter.next_split`."""
        slices: list[Slice] = []
        rows = nbytes = 0
        while self._piece is not None and rows < max_rows and nbytes < max_bytes and len(slices) < MAX_PARTS:
            piece, part = self._piece, self._piece.part
            start = self._cursor.row - piece.first
            most = max((max_bytes - nbytes) * part.results // max(part.nbytes, 1), 1)
            taken = min(part.results - start, max_rows - rows, most)
            slices.append(Slice(0, start, start + taken, taken, part=part_of(part.shard_id, part.token)))
            rows, nbytes = rows + taken, nbytes + part.nbytes * taken // part.results
            self._cursor = piece.behind(self._cursor.row + taken)
            if start + taken == part.results:
                self._piece = next(self._pieces, None)
        if not rows:
            return End() if self._is_at_end else NotYet(self._cursor.write())
        if self._piece is None and self._waits and rows < max_rows and nbytes < max_bytes:
            return NotYet()
        return InputSplit(tuple(slices), rows, nbytes, self._cursor.write())

    def _walk(self, shards: Iterator[SettledShard]) -> Iterator[_Piece]:
        """Yield the parts with results behind the cursor, and move the cursor over shards without."""
        for shard in shards:
            parts = [part for part in shard.ready if part.results]
            firsts = accumulate((part.results for part in parts), initial=0)
            for first, part in zip(firsts, parts, strict=False):
                if first + part.results > self._cursor.row:
                    yield _Piece(shard.number, first, part, shard.is_complete and part is parts[-1])
            if not shard.is_complete:
                return
            self._cursor = StageCursor(shard.number + 1, 0)
        self._is_at_end = self._stage.is_settled
