"""Results page by page, in input order, while the job runs and afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from batchmill.errors import DamagedData, NotFound
from batchmill.jobs.shard import ShardId, format_shard_id, parse_shard_id
from batchmill.ledger.formats.encodings import FreedParts
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.job import JobState
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import ResultStore

CURSOR_PATTERN = r"^([0-9]{1,12}(\.[01]){0,64})?$"
STAGE_CURSOR_PATTERN = r"^([0-9]{1,2}/[0-9]{1,12}(\.[01]){0,64}|[0-9]{1,12}(\.[01]){0,64})?$"
TARGET_PAGE_BYTES = 8 * 1024 * 1024
"""A page takes complete shards until it has about this many bytes; it has at least one."""


@dataclass(frozen=True, slots=True)
class ResultPage:
    """Rows in input order, of one schema, and where the next page begins."""

    tables: tuple[pa.Table, ...]
    next_cursor: str
    at_end: bool  # no more rows will come, and all were given
    state: JobState
    schema_if_empty: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of all tables; without any, what is known of it."""
        return self.tables[0].schema if self.tables else self.schema_if_empty

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(table.num_rows for table in self.tables)

    @property
    def nbytes(self) -> int:
        """Return how many bytes of memory the rows take."""
        return sum(table.nbytes for table in self.tables)

    @property
    def has_news(self) -> bool:
        """Return whether there is anything to send: rows, or that there are no more."""
        return bool(self.tables) or self.at_end


class StagePlace(NamedTuple):
    """A shard of a stage, as a cursor through all stages: "1/17.0"; of the first stage "17.0"."""

    stage: int
    shard_id: ShardId

    @classmethod
    def parse(cls, cursor: str) -> StagePlace:
        """Parse text that matches `STAGE_CURSOR_PATTERN`; "" is the beginning."""
        stage, slash, shard = cursor.rpartition("/")
        return cls(int(stage) if slash else 0, parse_cursor(shard))

    def write(self) -> str:
        """The inverse of `parse`."""
        return f"{self.stage}/{format_shard_id(self.shard_id)}"


def parse_cursor(cursor: str) -> ShardId:
    """Parse the shard that a page begins with, from text that matches `CURSOR_PATTERN`; "" is the first one."""
    return parse_shard_id(cursor) if cursor else ShardId((0,))


def read_page(ledger: Ledger, record: JobRecord, stage: int, results: ResultStore, start: ShardId) -> ResultPage:
    """Read the page that begins with the shard `start`. Raises `StorageError`, or `NotFound` when results were removed.

    results: those of the stage. Parts that the next stage has settled are skipped, unless they are kept.
    It ends before a part that cannot be read. A page that begins with one raises an error that names the part and its
    rows; the `next_cursor` in its details is that of the page behind it.
    It ends before the first shard that is not settled; once the job has ended, such shards are skipped.
    """
    own = record.stages[stage]
    freed = FreedParts() if own.spec.keep else FreedParts.parse(own.freed)
    chosen, following = _choose(ledger, record, stage, max(start, ShardId((freed.shard,))), freed)
    tables = _read_parts(ledger, record, stage, results, chosen, following)
    if len(tables) < len(chosen):
        following = chosen[len(tables)].shard_id
    for number, table in enumerate(tables):
        if not table.schema.equals(tables[0].schema):
            following = chosen[number].shard_id
            tables = tables[:number]
            break
    at_end = (record.state.is_final or own.is_settled) and following[0] >= own.shards_planned
    return ResultPage(tuple(tables), format_shard_id(following), at_end, record.state)


def _read_parts(
    ledger: Ledger,
    record: JobRecord,
    stage: int,
    results: ResultStore,
    chosen: Sequence[Settled],
    following: ShardId,
) -> list[pa.Table]:
    """Read parts up to the first that is damaged or gone; that one raises if it is the first of all."""
    try:
        return results_of(ledger, record, stage, results, chosen)
    except (DamagedData, NotFound):
        pass
    tables: list[pa.Table] = []
    for part in chosen:
        try:
            tables += results_of(ledger, record, stage, results, [part])
        except (DamagedData, NotFound) as error:
            if tables:
                break
            cursor = format_shard_id(chosen[1].shard_id if len(chosen) > 1 else following)
            hint = f"{error.hint} The results behind it begin with the cursor {cursor!r}."
            raise type(error)(error.message, hint=hint, **error.details, next_cursor=cursor) from error
    return tables


def _choose(
    ledger: Ledger, record: JobRecord, stage: int, start: ShardId, freed: FreedParts
) -> tuple[list[Settled], ShardId]:
    """Return the parts of a page, and what the next one begins with."""
    chosen: list[Settled] = []
    following, size = start, 0
    own, is_last = record.stages[stage], stage == record.last.number  # what runs through a stage is not stored there
    if not (own.rows_done or own.rows_dead or own.is_settled or record.state.is_final):
        return chosen, following  # nothing is settled yet: a client asks for results as soon as its job is accepted
    for shard in settled_shards(ledger, record, stage, start[0]):
        if not shard.is_complete and not record.state.is_final:
            break
        gone = freed.parts if shard.number == freed.shard else 0
        for part in shard.parts[gone:]:
            if part.shard_id < start or not part.results or not (is_last or part.nbytes):
                continue
            if chosen and size + part.nbytes > TARGET_PAGE_BYTES:
                return chosen, part.shard_id
            chosen.append(part)
            size += part.nbytes
        following = ShardId((shard.number + 1,))
    return chosen, following
