"""Finds results of an ended job that are damaged or missing, and reads the rows again that they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import DamagedData, InvalidSource, NotFound
from batchmill.jobs.shard import format_shard_id
from batchmill.jobs.stages import last_stage
from batchmill.sources.base import End, InputSplit, NotYet
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import ResultStore
    from batchmill.sources.base import Source
    from batchmill_coordinator.results.dead_rows import DeadRowStore


def damaged_shards(
    ledger: Ledger, record: JobRecord, results: ResultStore, dead_rows: DeadRowStore, chosen: Collection[str] | None
) -> Iterator[Settled]:
    """Yield the settled shards whose results or dead letters cannot be read, in input order.

    chosen: the ids of those that are checked; None: all. All that is stored for them is read. Raises `StorageError`.
    """
    stage = last_stage(record.spec)
    for shard in settled_shards(ledger, record, stage):
        for part in shard.parts:
            is_chosen = chosen is None or format_shard_id(part.shard_id) in chosen
            if is_chosen and not part.plan and _is_damaged(ledger, record, results, dead_rows, part):
                yield part


def _is_damaged(
    ledger: Ledger, record: JobRecord, results: ResultStore, dead_rows: DeadRowStore, part: Settled
) -> bool:
    try:
        if part.results:
            results_of(ledger, record, part.stage, results, [part])
        if part.rows_dead:
            dead_rows.read(record.id, part)
    except (DamagedData, NotFound):
        return True
    return False


@dataclass(frozen=True, slots=True)
class RowsAgain:
    """Rows of a source that can be read, and their indices in it."""

    table: pa.Table
    indices: list[int]


def read_again(source: Source, wanted: Iterable[range], max_bytes: int) -> Iterator[RowsAgain]:
    """Read rows of a source by their indices; those that cannot be read are left out.

    wanted: in ascending order. max_bytes: of rows in memory, about. Raises `InvalidSource` if the source has changed.
    """
    at = 0
    with source.splitter() as splitter:
        for rows in wanted:
            while at < rows.stop:
                goal = rows.start if at < rows.start else rows.stop
                split = splitter.next_split(goal - at, max_bytes)
                if isinstance(split, NotYet | End):
                    raise InvalidSource(
                        f"the source has {at:,} rows now; row {rows.stop - 1:,} is needed.",
                        hint="Restore the files that the job was submitted with, or submit it again.",
                    )
                if at >= rows.start:
                    yield _read(source, split, at)
                at += split.rows


def _read(source: Source, split: InputSplit, first: int) -> RowsAgain:
    found = source.read_with_faults(split.slices)
    bad = {one.place for one in found.bad}
    kept = [place for place in range(found.table.num_rows) if place not in bad]
    table = found.table.take(pa.array(kept, pa.int64())) if bad else found.table
    return RowsAgain(table, [first + place for place in kept])
