"""Merges what a replay brought into the job whose dead rows it ran again.

1. The settled shards of the first job are gone through in input order, and beside them the replay's.
2. Where rows of a shard were run again, its results and the new ones are put in input order and written as a new
   part; rows that died again keep their letter, with their attempts added up.
3. One step in the ledger makes the new part the shard's, if nobody else changed the shard.
4. At the end the manifest of the first job's output is replaced, and the parts that it no longer has are deleted.

Only rows that are still dead are touched, so a merge that was cut short is simply begun again, and of two replays of
one row the first one counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.dead_letters import DeadRows
from batchmill.operators.contract import SOURCE_ROW
from batchmill.stages import last_stage
from batchmill.storage.indexed import INDEX, in_order
from batchmill_coordinator.results.outputs import manifest_of, results_of, settled_shards
from batchmill_coordinator.results.replay_places import read_places

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from batchmill.dead_letters import DeadLetter
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.settlement import Settled
    from batchmill.shard import ShardId
    from batchmill.sinks import Publisher, ResultStore
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.dead_rows import DeadRowStore

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What a shard of a replay brought, its rows named by their index in the first job's input."""

    results: pa.Table | None  # with INDEX
    dead: DeadRows
    rows: Rows  # all that it ran, ascending

    @property
    def last(self) -> int:
        """The highest index."""
        return int(self.rows[-1])

    @property
    def done(self) -> set[int]:
        """The rows that did not die again; of an operator that expands they may have made no result."""
        return set(self.rows.tolist()) - self.dead.indices


_NONE = DeadRows((), pa.table({}))
_EMPTY = pa.table({INDEX: pa.array([], pa.int64())})


class Merger:
    """Merges replays, as the leader."""

    def __init__(self, ledger: Ledger, workspace: Workspace, dead_rows: DeadRowStore) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows

    def merge(self, replay: JobRecord, epoch: int) -> None:
        """Merge all that a replay has settled. Merging again is fine.

        Raises `NotFound` when the first job was deleted, `StorageError` when its output is gone or cannot be written.
        """
        if replay.replay_of is None:
            return
        job = self._open(self._ledger.jobs.read(replay.replay_of))
        replayed = _Replayed(self._pieces(self._open(replay)))
        for shard in self._dead_rows.shards(job.record, job.stage):
            dead = self._dead_rows.read(job.record.id, job.stage, shard)
            pending = set() if shard.plan else {one.index for one in dead.letters if one.replay != replay.id}
            brought = replayed.of(pending) if pending else _NOTHING
            if brought.done or brought.dead:
                self._replace(job, shard, dead, brought, epoch)
        if job.publisher is not None:
            self._update_manifest(job, job.publisher)

    def _open(self, record: JobRecord) -> _JobResults:
        spec, stage = record.spec, last_stage(record.spec)
        results = self._workspace.open_results(record.id, spec, stage)
        return _JobResults(record, stage, results, self._workspace.open_publisher(record.id, spec))

    def _pieces(self, replay: _JobResults) -> Iterator[_Piece]:
        record = replay.record
        places = read_places(self._workspace, record.id).to_numpy()
        for shard in settled_shards(self._ledger, record, replay.stage):
            for part in shard.parts:
                dead = self._dead_rows.read(record.id, replay.stage, part) if part.rows_dead else _NONE
                results = self._results(replay, part, dead)
                if results is not None:
                    for name in (INDEX, *([SOURCE_ROW] if part.expanded_to is not None else [])):
                        at = results.column_names.index(name)
                        results = results.set_column(at, name, pa.array(places[results[name].to_numpy()]))
                letters = tuple(
                    letter.model_copy(update={"index": int(places[letter.index]), "replay": record.id})
                    for letter in dead.letters
                )
                rows = places[part.first_row : part.first_row + part.rows + part.rows_dead]
                yield _Piece(results, replace(dead, letters=letters), rows)

    def _results(self, job: _JobResults, shard: Settled, dead: DeadRows) -> pa.Table | None:
        if shard.results == 0:
            return None
        return _indexed(results_of(self._ledger, job.record, job.results, [shard])[0], shard, dead)

    def _replace(self, job: _JobResults, shard: Settled, dead: DeadRows, brought: _Brought, epoch: int) -> None:
        old = self._results(job, shard, dead)
        table = in_order([*([] if old is None else [old]), *brought.results] or [_EMPTY]).drop_columns([INDEX])
        done, left = len(brought.done), brought.still_dead(dead)
        after = replace(
            shard, token=shard.token + 1, rows=shard.rows + done, rows_dead=shard.rows_dead - done, nbytes=0
        )
        if shard.expanded_to is not None:
            after = replace(after, expanded_to=table.num_rows)
        if after.results:
            after = replace(after, nbytes=job.write(shard.shard_id, after.token, table))
        job_id = job.record.id
        self._dead_rows.write(job_id, job.stage, after, left)
        by_type = Counter(letter.error_type for letter in left.letters)
        by_type.subtract(letter.error_type for letter in dead.letters)
        more_dead = {kind: n for kind, n in by_type.items() if n}
        if self._ledger.results.replace_part(job_id, shard, after, more_dead, epoch):
            self._dead_rows.delete(job_id, job.stage, shard)
            if job.publisher is None:
                job.results.delete(shard.shard_id, shard.token)

    def _update_manifest(self, job: _JobResults, publisher: Publisher) -> None:
        record = self._ledger.jobs.read(job.record.id)
        finished_at = (record.finished_at or 0) / 1000
        manifest = manifest_of(self._ledger, record, publisher, job.results, record.state, finished_at)
        publisher.update_manifest(manifest)


@dataclass(frozen=True, slots=True)
class _JobResults:
    """A job with its results, and the output that was published of them, if it has one."""

    record: JobRecord
    stage: int  # whose results they are
    results: ResultStore
    publisher: Publisher | None

    def write(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """Write results that are to replace a shard's; returns their stored size in bytes."""
        write = self.results.write if self.publisher is None else self.publisher.replace_part
        return write(shard_id, token, table)


class _Replayed:
    """The pieces of a replay, read once and in order."""

    def __init__(self, pieces: Iterator[_Piece]) -> None:
        self._pieces = pieces
        self._held: list[_Piece] = []

    def of(self, wanted: Collection[int]) -> _Brought:
        """What was brought about these rows; later calls ask for later rows."""
        self._held = [piece for piece in self._held if piece.last >= min(wanted)]
        while not self._held or self._held[-1].last < max(wanted):
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held.append(piece)
        rows = pa.array(sorted(wanted), pa.int64())
        held = [piece.results for piece in self._held if piece.results is not None]
        results = [table.filter(pc.is_in(table[INDEX], rows)) for table in held]
        dead = [piece.dead.select(wanted) for piece in self._held]
        done = {row for piece in self._held for row in piece.done}.intersection(wanted)
        return _Brought([table for table in results if table.num_rows], [one for one in dead if one.letters], done)


@dataclass(frozen=True, slots=True)
class _Brought:
    """New results for some rows, with INDEX, and those of them that died again."""

    results: list[pa.Table]
    dead: list[DeadRows]
    done: set[int]  # the rows that are done now

    def still_dead(self, before: DeadRows) -> DeadRows:
        """The dead rows of a shard from now on."""
        again = {letter.index for one in self.dead for letter in one.letters}
        kept = before.select({letter.index for letter in before.letters} - self.done - again)
        attempts = {letter.index: letter for letter in before.letters}
        pieces = [kept, *(_again(one, attempts) for one in self.dead)]
        letters = [letter for piece in pieces for letter in piece.letters]
        order = sorted(range(len(letters)), key=lambda place: letters[place].index)
        rows = pa.concat_tables([piece.rows for piece in pieces], promote_options="permissive")
        return DeadRows(tuple(letters[place] for place in order), rows.take(pa.array(order, pa.int64())), before.purged)


_NOTHING = _Brought([], [], set())


def _again(dead: DeadRows, before: Mapping[int, DeadLetter]) -> DeadRows:
    """Rows that died again, with what is known of their first death."""
    letters = [
        letter.model_copy(
            update={
                "attempts": letter.attempts + before[letter.index].attempts,
                "first_failed_at": before[letter.index].first_failed_at,
            }
        )
        for letter in dead.letters
    ]
    return replace(dead, letters=tuple(letters))


def _indexed(results: pa.Table, shard: Settled, dead: DeadRows) -> pa.Table:
    """A shard's results with the index, in its job's input, of the row that each was made from."""
    if shard.expanded_to is not None:
        return results.append_column(INDEX, results[SOURCE_ROW])
    rows = np.arange(shard.first_row, shard.first_row + shard.rows + shard.rows_dead, dtype=np.int64)
    alive = np.setdiff1d(rows, np.array(sorted(dead.indices), dtype=np.int64), assume_unique=True)
    return results.append_column(INDEX, pa.array(alive))
