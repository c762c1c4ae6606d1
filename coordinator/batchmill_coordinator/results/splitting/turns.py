"""Cuts the results of a stage for one whose shards have what one shard of it has made, and run one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.shard import Slice, part_of
from batchmill.ledger.formats.encodings import StageCursor
from batchmill.sources.base import End, InputSplit, NotYet, Splitter
from batchmill.stage_results import settled_shards

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.sources.base import NextSplit


class TurnSplitter(Splitter):
    """Gives all that was made of a planned shard of the stage before, once the last shard of its own is settled.

    stage: the one before. own: the one that is planned, as it was read before this.
    """

    def __init__(
        self, ledger: Ledger, record: JobRecord, stage: StageRecord, own: StageRecord, cursor: StageCursor
    ) -> None:
        self._ledger = ledger
        self._record = record
        self._stage = stage
        self._cursor = cursor
        self._is_turn = own.shards_live == 0

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:  # noqa: ARG002  # a shard is what one has made
        """See `Splitter.next_split`."""
        if not self._is_turn:
            return NotYet()
        for shard in settled_shards(self._ledger, self._record, self._stage.number, self._cursor.shard):
            if not shard.is_complete:
                return NotYet(self._cursor.write())
            self._cursor = StageCursor(shard.number + 1, 0)
            parts = [part for part in shard.parts if part.results]
            if parts:
                self._is_turn = False
                slices = [
                    Slice(0, 0, part.results, part.results, part=part_of(part.shard_id, part.token)) for part in parts
                ]
                rows, nbytes = sum(part.results for part in parts), sum(part.nbytes for part in parts)
                return InputSplit(tuple(slices), rows, nbytes, self._cursor.write())
        return End() if self._stage.is_settled else NotYet(self._cursor.write())
