"""Writes the results of streams into the files of their outputs, roll by roll.

1. A roll is a range of shards of the last stage that are settled, without a gap. It is decided when it is full, or when
   the last one was decided long enough ago: `roll.lua` notes it, by compare-and-set and as the leader.
2. Then its files are written, its manifest, and that it is written is noted. Whoever is interrupted, or another leader,
   finds the roll that was decided, and writes the same rows under the same names again.
3. Results are deleted by `StreamRetention` once they are in a roll, and not needed by readers of the job's results.
4. When the job ends, all that is settled becomes the last rolls.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from batchmill.caches import Lru
from batchmill.columns import encode_schema, widen_table
from batchmill.errors import InvalidOutput, StaleToken
from batchmill.jobs.job import JobState
from batchmill.jobs.streams.rolls import MAX_ROWS, Range, RollLimits, Rolls
from batchmill.sinks import Manifest, columns_of, part_format, plan_files
from batchmill.sinks.merged_file import without_dictionaries
from batchmill.sinks.rolled_folder import roll_name
from batchmill.stage_results import settled_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from batchmill.clock import Clock
    from batchmill.jobs.files import OutputSpec
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import ManifestPart, ResultStore, RolledFolder
    from batchmill.sinks.sized_folder import Piece
    from batchmill.workspace import Workspace

KEPT_BYTES = 256 * 1024 * 1024
"""Of parts in memory: those of a roll of usual size are read once, for its schema and for its rows."""

MAX_READS_AT_ONCE = 16


class StreamRolls:
    """Writes rolls, as the leader. Thread-safe."""

    def __init__(self, ledger: Ledger, workspace: Workspace, max_columns: int, clock: Clock) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._max_columns = max_columns
        self._clock = clock
        self._lock = threading.Lock()  # the roller and the finisher write one at a time
        self._seen: dict[str, Range] = {}  # by job: what is settled and in no roll, as far as was looked

    def apply(self, record: JobRecord, now_ms: int, epoch: int) -> bool:
        """Write the next roll of a job, if it is due; return whether it was, so that another one may be.

        Raises `StorageError`: then it is repeated. Raises `InvalidOutput` for results that the output cannot hold.
        """
        output = self._workspace.open_rolled(record.id, record.spec)
        if output is None:
            return False
        with self._lock:
            try:
                return self._step(record, output, now_ms, epoch, is_over=False) is not None
            except StaleToken:
                return False  # another leader, or the finisher, has written it

    def close(self, record: JobRecord, epoch: int) -> None:
        """Write all that is settled of a job that ends, and end its output. Again is fine. Raises as `apply`."""
        output = self._workspace.open_rolled(record.id, record.spec)
        if output is None:
            return
        with self._lock:
            record = self._ledger.jobs.read(record.id)
            while self._step(record, output, self._ledger.now_ms(), epoch, is_over=True) is not None:
                record = self._ledger.jobs.read(record.id)
            output.close(Rolls.parse(record.last.rolled).number)
            self._seen.pop(record.id, None)

    def add_replay(self, replay: JobRecord) -> None:
        """Add the results of a replay, which has ended, to the output of the job that it replays. Again is fine.

        They are files of their own, called after the replay. Raises as `apply`.
        """
        found = self._ledger.jobs.read_many([replay.replay_of]) if replay.replay_of else []
        for record in found:
            output = self._workspace.open_rolled(record.id, record.spec)
            if output is None or replay.last.spec.title != record.last.spec.title:
                continue
            shards = settled_shards(self._ledger, replay, replay.last.number)
            settled = [part for shard in shards for part in shard.parts]
            reader = self._reader(replay, settled)
            if reader.sizes():
                files = self._write_files(record, output, replay.id, reader)
                output.write_manifest(replay.id, self._manifest(record, settled, files))

    def forget_all_but(self, job_ids: set[str]) -> None:
        """Drop what is kept in memory of other jobs."""
        with self._lock:
            self._seen = {job_id: found for job_id, found in self._seen.items() if job_id in job_ids}

    def _step(self, record: JobRecord, output: RolledFolder, now_ms: int, epoch: int, *, is_over: bool) -> Rolls | None:
        """Decide a roll, or take the one that is decided, and write it; None if none is due."""
        before = Rolls.parse(record.last.rolled)
        rolls = before if before.is_writing else self._decided(record, before, now_ms, is_over=is_over)
        if rolls is None:
            return None
        self._note(record, record.last.rolled, rolls, epoch)
        if not rolls.is_writing:  # shards without results
            return rolls
        ended = rolls.ended(self._write(record, output, rolls))
        self._note(record, rolls.write(), ended, epoch)
        return ended

    def _note(self, record: JobRecord, before: str, after: Rolls, epoch: int) -> None:
        if not self._ledger.streams.roll(record.id, record.last.number, before, after.write(), epoch):
            raise StaleToken(f"somebody else has noted how far the output of {record.id} is written.")

    def _decided(self, record: JobRecord, rolls: Rolls, now_ms: int, *, is_over: bool) -> Rolls | None:
        """Return what is to be noted; None if there is nothing, or a roll is not due."""
        limits = RollLimits.of(_output(record))
        found, is_full = self._range(record, rolls, limits, is_over=is_over)
        if found.shards == 0 or not (is_full or is_over or rolls.is_due(now_ms, limits.age_s)):
            return None
        return rolls.begun(found.until, now_ms) if found.rows else rolls.skipped(found.until, now_ms)

    def _range(self, record: JobRecord, rolls: Rolls, limits: RollLimits, *, is_over: bool) -> tuple[Range, bool]:
        """Return what the next roll has, as far as that is settled, and whether it is full.

        is_over: whether nothing more will be settled; shards that are not have no rows then.
        """
        found = self._seen.get(record.id)
        if found is None or found.first != rolls.shard:
            found = Range(rolls.shard, rolls.shard)
        is_full = False
        for shard in settled_shards(self._ledger, record, record.last.number, found.until):
            if not (shard.is_complete or is_over):
                break
            rows, nbytes = sum(part.results for part in shard.parts), sum(part.nbytes for part in shard.parts)
            is_full = not found.has_room(rows, nbytes, limits)
            if is_full:
                break
            found = found.with_next(rows, nbytes)
        self._seen[record.id] = found
        return found, is_full or found.rows >= limits.max_rows or found.nbytes >= limits.max_bytes

    def _write(self, record: JobRecord, output: RolledFolder, rolls: Rolls) -> int:
        """Write the files of a roll, and its manifest; return how many rows it has."""
        number = output.first_roll() + rolls.number
        shards = takewhile(
            lambda shard: shard.number < rolls.until,
            settled_shards(self._ledger, record, record.last.number, rolls.shard),
        )
        settled = [part for shard in shards for part in shard.parts]
        now = self._ledger.jobs.read_many([record.id])
        if not now or now[0].last.rolled != rolls.write():  # it is written, so some of its shards may have been dropped
            raise StaleToken(f"somebody else has written the output of {record.id} up to shard {rolls.until}.")
        files = self._write_files(record, output, roll_name(number), self._reader(record, settled))
        output.write_manifest(roll_name(number), self._manifest(record, settled, files, number))
        return sum(file.rows for file in files.parts)

    def _reader(self, record: JobRecord, settled: Sequence[Settled]) -> _Reader:
        store = self._workspace.open_results(record.id, record.spec, record.last.number)
        return _Reader(store, [part for part in settled if part.results])

    def _write_files(self, record: JobRecord, output: RolledFolder, roll: str, reader: _Reader) -> _Files:
        schema = self._schema(record, reader)
        planned = plan_files(reader.sizes(), _output(record).max_rows_per_file or MAX_ROWS, None)
        files = [
            output.write_file(roll, number, schema, reader.rows(pieces, schema), sum(piece.rows for piece in pieces))
            for number, pieces in enumerate(planned)
        ]
        return _Files(schema, tuple(files))

    def _schema(self, record: JobRecord, reader: _Reader) -> pa.Schema:
        """Return the schema of the next files: that of the ones before, widened by what these results have."""
        log = self._workspace.schema_log(record.id)
        known: pa.Schema | None = None
        for table in reader.tables():
            if known is None or not table.schema.equals(known):
                known = table.schema
                log.widen(known.empty_table())
        schema = without_dictionaries(log.latest()[1])
        _check(schema, _output(record), self._max_columns)
        return schema

    def _manifest(
        self, record: JobRecord, settled: Sequence[Settled], files: _Files, number: int | None = None
    ) -> Manifest:
        return Manifest(
            job=record.id,
            state=JobState.RUNNING,
            operator=record.spec.last.operator,
            params=record.spec.last.params,
            format=_output(record).format,
            rows=sum(file.rows for file in files.parts),
            rows_dead=sum(part.rows_dead for part in settled),
            columns=columns_of(files.schema),
            arrow_schema=encode_schema(files.schema),
            parts=files.parts,
            created_at=record.created_at / 1000,
            finished_at=self._clock.wall(),
            roll=number,
        )


class _Files(NamedTuple):
    """The files of a roll."""

    schema: pa.Schema
    parts: tuple[ManifestPart, ...]


class _Reader:
    """The results of a roll: read twice, for their schema and for their rows."""

    def __init__(self, store: ResultStore, parts: Sequence[Settled]) -> None:
        self._store = store
        self._parts = parts
        self._kept: Lru[int, pa.Table] = Lru(KEPT_BYTES, weight=lambda _, table: table.nbytes)

    def sizes(self) -> list[tuple[int, int]]:
        """Return the rows and bytes of each part."""
        return [(part.results, part.nbytes) for part in self._parts]

    def tables(self) -> Iterator[pa.Table]:
        """Yield all parts, in order; some are read ahead. Raises `StorageError`."""
        return self._read(range(len(self._parts)))

    def rows(self, pieces: Sequence[Piece], schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows of a file, with its schema. Raises `StorageError`."""
        tables = self._read([piece.part for piece in pieces])
        for piece, table in zip(pieces, tables, strict=True):
            yield widen_table(table.slice(piece.offset, piece.rows), schema)

    def _read(self, numbers: Sequence[int]) -> Iterator[pa.Table]:
        with ThreadPoolExecutor(MAX_READS_AT_ONCE) as pool:
            for start in range(0, len(numbers), MAX_READS_AT_ONCE):
                yield from pool.map(self._table, numbers[start : start + MAX_READS_AT_ONCE])

    def _table(self, number: int) -> pa.Table:
        table = self._kept.get(number)
        if table is None:
            part = self._parts[number]
            table = self._store.read(part.shard_id, part.token)
            self._kept.put(number, table)
        return table


def _output(record: JobRecord) -> OutputSpec:
    if record.spec.output is None:
        raise AssertionError(f"job {record.id} has no output")
    return record.spec.output


def _check(schema: pa.Schema, output: OutputSpec, max_columns: int) -> None:
    """Raise `InvalidOutput` for columns that are too many, or of which the format has no form."""
    if len(schema) > max_columns:
        raise InvalidOutput(
            f"the results have {len(schema):,} columns by now, at most {max_columns:,} are allowed.",
            hint="Put values of one kind into one list column, or raise BATCHMILL_MAX_COLUMNS.",
            limit=max_columns,
        )
    part_format(output.format).check(schema)
