"""The results of a stage as the next one reads them: parts in the result store, or small ones in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.caches import Lru
from batchmill.columns import join_what_fits, widen_schemas, widen_table
from batchmill.jobs.shard import ShardId, parse_part
from batchmill.jobs.streams.kept import KeptShards
from batchmill.ledger.formats.settlement import SplitUp
from batchmill.sources.base import RowsRead, bad_values
from batchmill.workspace import table_from_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.jobs.shard import Slice
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.ledger.results import ResultLedger
    from batchmill.sinks import ResultStore

KEPT_BYTES = 256 * 1024 * 1024
"""Of parts that a process keeps after they were read: shards that follow each other read one part."""

LOOK_AHEAD = 256  # shards asked for in one round trip

PART_BYTES = 1024 * 1024
"""What a part counts for at least: streams make many small ones that are read once, and take more than their values."""

Parts = Lru[tuple[str, int, str], pa.Table]
"""Parts that were read, by job, stage and name."""


def kept_parts(limit: int = KEPT_BYTES) -> Parts:
    """Make room for parts. limit: their bytes in memory."""
    return Lru(limit, weight=lambda _, table: max(table.nbytes, PART_BYTES))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Append tables to each other; columns that one lacks are null in its rows.

    Raises `TypeConflictError` if values of a column do not fit one type.
    """
    if not tables:
        return pa.table({})
    schema = reduce(widen_schemas, [table.schema for table in tables])
    return pa.concat_tables([widen_table(table, schema) for table in tables])


class StageResults:
    """Reads committed results of one stage of a job; a `RowReader`. Thread-safe.

    kept: what was read recently, shared by all stages of the process, so that its memory does not grow with
        their number. reader: the job that reads them, if it is another one.
    """

    def __init__(
        self, ledger: ResultLedger, job_id: str, stage: int, store: ResultStore, kept: Parts, *, reader: str = ""
    ) -> None:
        self._ledger = ledger
        self._job_id = job_id
        self._reader = reader or job_id
        self._stage = stage
        self._store = store
        self._kept = kept

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """Read the rows of these slices, in order; columns that a part lacks are null in its rows.

        So are values that have another type than those of the parts before, see `read_with_faults`.
        Raises `NotFound` or `StorageError` if a part is gone, damaged or cannot be reached.
        """
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """Read as `read`; rows with values that have another type than those of the parts before are listed."""
        table, unfit = join_what_fits(self.tables(slices))
        return RowsRead(table, bad_values(unfit))

    def tables(self, slices: Sequence[Slice]) -> list[pa.Table]:
        """Read the rows of each of these slices. Raises as `read`."""
        parts = {piece.part: self._kept.get(self._key(piece.part)) for piece in slices}
        parts |= self._read([part for part, table in parts.items() if table is None])
        return [found.slice(piece.start, piece.rows) for piece in slices if (found := parts[piece.part]) is not None]

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:  # noqa: ARG002  # see `Source`
        """Return empty texts: a row between stages is in no file of a user."""
        return [""] * len(places)

    def are_incomplete(self, source_rows: Sequence[int]) -> list[bool]:
        """Return which of these source rows lack results of this stage, because rows of them have failed."""
        return self._ledger.are_incomplete(self._reader, source_rows)

    def schema(self, shard_id: ShardId, token: int) -> pa.Schema:
        """Read the schema of a part that has rows. Raises as `read` does."""
        (stream,) = self._ledger.inline_results(self._job_id, self._stage, [shard_id])
        return self._store.schema(shard_id, token) if stream is None else table_from_stream(stream).schema

    def _read(self, parts: Sequence[str]) -> dict[str, pa.Table]:
        ids = [parse_part(part) for part in parts]
        inline = self._ledger.inline_results(self._job_id, self._stage, [shard_id for shard_id, _ in ids])
        found: dict[str, pa.Table] = {}
        for part, (shard_id, token), stream in zip(parts, ids, inline, strict=True):
            table = self._store.read(shard_id, token) if stream is None else table_from_stream(stream)
            found[part] = table
            self._kept.put(self._key(part), table)
        return found

    def _key(self, part: str) -> tuple[str, int, str]:
        return self._job_id, self._stage, part


@dataclass(frozen=True, slots=True)
class SettledShard:
    """A planned shard, or the shards that it was split into."""

    number: int
    parts: tuple[Settled, ...]  # those that are settled, in input order
    ready: tuple[Settled, ...]  # of those, the ones before the first that is missing
    is_complete: bool  # whether none is missing


def settled_shards(ledger: Ledger, record: JobRecord, stage: int, start: int = 0) -> Iterator[SettledShard]:
    """Yield the planned shards of a stage from number `start` on, with what is settled of each.

    Of a job over a stream, those whose results are still kept.
    """
    planned = record.stages[stage].shards_planned
    for first in range(max(start, KeptShards.parse(record.stages[stage].kept).first), planned, LOOK_AHEAD):
        numbers = range(first, min(first + LOOK_AHEAD, planned))
        found = ledger.results.settled(record.id, stage, [ShardId((number,)) for number in numbers])
        for number, settled in zip(numbers, found, strict=True):
            parts = list(_leaves(ledger, record, stage, settled))
            ready = tuple(part for part in takewhile(bool, parts) if part)
            yield SettledShard(number, tuple(part for part in parts if part), ready, None not in parts)


def _leaves(
    ledger: Ledger, record: JobRecord, stage: int, settled: Settled | SplitUp | None
) -> Iterator[Settled | None]:
    """Yield a shard that is not split, or what became of the parts of one that is, in input order."""
    if not isinstance(settled, SplitUp):
        yield settled
        return
    again, *children = ledger.results.settled(record.id, stage, [settled.shard_id, *settled.children()])
    if again != settled:  # it has more parts by now: the last one that was known has been cut
        yield from _leaves(ledger, record, stage, again)
        return
    for child in children:
        yield from _leaves(ledger, record, stage, child)
