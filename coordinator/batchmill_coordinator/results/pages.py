"""Results page by page, in input order, while the job runs and afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.shard import ShardId, format_shard_id, parse_shard_id
from batchmill.stages import last_stage
from batchmill_coordinator.results.outputs import results_of, settled_shards

if TYPE_CHECKING:
    from batchmill.job import JobState
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.settlement import Settled
    from batchmill.sinks import ResultStore

CURSOR_PATTERN = r"^([0-9]{1,12}(\.[01]){0,64})?$"
PAGE_BYTES = 16 * 1024 * 1024
"""A page takes whole shards until it has about this much; it has at least one."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in input order, of one schema, and where the next page begins."""

    tables: tuple[pa.Table, ...]
    next_cursor: str
    at_end: bool  # nothing follows: no more rows will come, and all were given
    state: JobState

    @property
    def schema(self) -> pa.Schema:
        """The schema of all tables; of a page without rows, no columns."""
        return self.tables[0].schema if self.tables else pa.schema([])

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(table.num_rows for table in self.tables)

    @property
    def nbytes(self) -> int:
        """How much memory its rows take."""
        return sum(table.nbytes for table in self.tables)

    @property
    def moved(self) -> bool:
        """Whether it brings anything: rows, or the news that there are no more."""
        return bool(self.tables) or self.at_end


def parse_cursor(cursor: str) -> ShardId:
    """The shard a page begins with, from text that matches `CURSOR_PATTERN`."""
    return parse_shard_id(cursor) if cursor else ShardId((0,))


def read_page(ledger: Ledger, record: JobRecord, results: ResultStore, start: ShardId) -> Page:
    """Read the page that begins with the shard `start`. Raises `StorageError`, or `NotFound` when results were removed.

    results: those of the job's last stage.
    It ends before the first shard that is not settled; once the job has ended, such shards are passed over.
    """
    chosen, following = _choose(ledger, record, start)
    tables = results_of(ledger, record, results, chosen)
    for number, table in enumerate(tables):
        if not table.schema.equals(tables[0].schema):
            following = chosen[number].shard_id
            tables = tables[:number]
            break
    at_end = _is_whole(record) and following[0] >= record.shards_planned
    return Page(tuple(tables), format_shard_id(following), at_end, record.state)


def _is_whole(record: JobRecord) -> bool:
    """Whether no more rows will come: the job has ended, or will as soon as the finisher looks."""
    return record.state.is_final or (record.planned and record.shards_live == 0)


def _choose(ledger: Ledger, record: JobRecord, start: ShardId) -> tuple[list[Settled], ShardId]:
    chosen: list[Settled] = []
    following, size = start, 0
    for shard in settled_shards(ledger, record, last_stage(record.spec), start[0]):
        if not shard.is_whole and not record.state.is_final:
            break
        parts = [part for part in shard.parts if part.shard_id >= start and part.results > 0]
        more = sum(part.nbytes for part in parts)
        if chosen and size + more > PAGE_BYTES:
            break
        chosen += parts
        size += more
        following = ShardId((shard.number + 1,))
    return chosen, following
