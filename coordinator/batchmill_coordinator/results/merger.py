"""Merges the results of a replay into the job whose rows it ran again.

1. The settled shards of the first job are read in input order, and beside them the replay's.
2. Where rows of a shard were run again, its results and the new ones are put in input order and written as a new
   part; rows that failed again keep their dead letter, with their attempts added up.
3. One step in the ledger makes the new part the shard's, if nobody else changed the shard.
   A shard whose results were damaged gets only the new ones, if all of its rows were run again.
4. At the end the manifest of the first job's output is replaced, and the parts that it no longer has are deleted.

Only rows that are still dead letters are touched, so a merge that was interrupted is simply begun again, and of two
replays of one row the first one counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW
from batchmill.errors import DamagedData, NotFound
from batchmill.jobs.dead_letters import DeadRows
from batchmill.jobs.shard import parse_shard_id
from batchmill.jobs.stages import last_stage
from batchmill.ledger.formats.settlement import Settled
from batchmill.stage_results import settled_shards
from batchmill.storage.indexed import INDEX, in_order
from batchmill_coordinator.results.chain_merger import ChainMerger
from batchmill_coordinator.results.job_results import JobResults
from batchmill_coordinator.results.outputs import manifest_of, results_of
from batchmill_coordinator.results.redone_parts import RedoneParts
from batchmill_coordinator.results.replay_outcomes import NO_OUTCOMES, ReplayedShard, ReplayReader
from batchmill_coordinator.results.replay_rows import read_replay_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sinks import Publisher
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.dead_rows import DeadRowStore
    from batchmill_coordinator.results.one_schema import OneSchema
    from batchmill_coordinator.results.replay_outcomes import RowOutcomes, Rows
    from batchmill_coordinator.results.replay_rows import ReplayRows
    from batchmill_coordinator.results.roll_forward import RollForward

_NO_DEAD_ROWS = DeadRows((), pa.table({}))
_NO_RESULTS = pa.table({INDEX: pa.array([], pa.int64())})


class Merger:
    """Merges replays, as the leader."""

    def __init__(
        self,
        ledger: Ledger,
        workspace: Workspace,
        dead_rows: DeadRowStore,
        one_schema: OneSchema,
        roll_forward: RollForward,
    ) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows
        self._one_schema = one_schema
        self._roll_forward = roll_forward
        self._chains = ChainMerger(ledger, workspace, dead_rows)
        self._redone = RedoneParts(ledger, workspace, dead_rows)

    def merge(self, replay: JobRecord, epoch: int) -> None:
        """Merge everything that a replay has settled. Merging again is fine.

        Raises `NotFound` when the first job was deleted, `StorageError` when its output is gone or cannot be written.
        """
        if replay.replay_of is None:
            return
        job = self._open(self._ledger.jobs.read(replay.replay_of))
        if job.publisher is not None and self._roll_forward.apply(job.record, job.stage, job.publisher, epoch):
            job = self._open(self._ledger.jobs.read(replay.replay_of))
        rows = read_replay_rows(self._workspace, replay.id)
        if job.record.spec.has_lineage and rows.redone:
            self._redone.merge(job, replay, rows, epoch)
        elif job.record.spec.has_lineage:
            self._chains.merge(job, replay, rows.indices.to_numpy(), epoch)
        else:
            indices = rows.indices.to_numpy()
            replayed = ReplayReader(self._replayed_shards(self._open(replay), indices), indices)
            if rows.redone:
                self._merge_redone(job, rows, replayed, epoch)
            else:
                self._merge_failed(job, replay, replayed, epoch)
        if job.publisher is not None:
            self._update_manifest(job, job.publisher, epoch)

    def _merge_failed(self, job: JobResults, replay: JobRecord, replayed: ReplayReader, epoch: int) -> None:
        for shard in self._dead_rows.shards(job.record, job.stage):
            dead = self._dead_rows.read(job.record.id, shard)
            pending = set() if shard.plan else {one.index for one in dead.letters if one.replay != replay.id}
            outcomes = replayed.of(pending) if pending else NO_OUTCOMES
            if outcomes.done or outcomes.dead:
                self._replace(job, shard, dead, outcomes, epoch, self._results(job, shard, dead), shard.rows)

    def _merge_redone(self, job: JobResults, rows: ReplayRows, replayed: ReplayReader, epoch: int) -> None:
        """Replace shards all of whose rows were done again, unless they have changed since."""
        indices = rows.indices.to_numpy()
        for name in sorted(rows.redone, key=parse_shard_id):
            (shard,) = self._ledger.results.settled(job.record.id, job.stage, [parse_shard_id(name)])
            if not isinstance(shard, Settled) or shard.token != rows.redone[name]:
                continue
            first, end = np.searchsorted(indices, [shard.first_row, shard.first_row + shard.rows + shard.rows_dead])
            wanted = indices[first:end].tolist()
            outcomes = replayed.of(wanted) if wanted else NO_OUTCOMES
            if wanted and len(outcomes.done) + sum(len(one.letters) for one in outcomes.dead) == len(wanted):
                dead = self._dead_before(job.record.id, shard, wanted)
                self._replace(job, shard, dead, outcomes, epoch, None, 0)

    def _dead_before(self, job_id: str, shard: Settled, redone: Collection[int]) -> DeadRows:
        """Read the dead letters of a damaged shard; if they are damaged, only rows that were redone have any later."""
        try:
            return self._dead_rows.read(job_id, shard) if shard.rows_dead else _NO_DEAD_ROWS
        except (DamagedData, NotFound):
            every = range(shard.first_row, shard.first_row + shard.rows + shard.rows_dead)
            return replace(_NO_DEAD_ROWS, purged=tuple(sorted(set(every).difference(redone))))

    def _open(self, record: JobRecord) -> JobResults:
        spec, stage = record.spec, last_stage(record.spec)
        results = self._workspace.open_results(record.id, spec, stage)
        return JobResults(record, stage, results, self._workspace.open_publisher(record.id, spec))

    def _replayed_shards(self, replay: JobResults, original_rows: Rows) -> Iterator[ReplayedShard]:
        record = replay.record
        for shard in settled_shards(self._ledger, record, replay.stage):
            for part in shard.parts:
                dead = self._dead_rows.read(record.id, part) if part.rows_dead else _NO_DEAD_ROWS
                results = self._results(replay, part, dead)
                if results is not None:
                    results = _at_original_rows(results, part, original_rows)
                letters = tuple(
                    letter.model_copy(update={"index": int(original_rows[letter.index]), "replay": record.id})
                    for letter in dead.letters
                )
                rows = original_rows[part.first_row : part.first_row + part.rows + part.rows_dead]
                yield ReplayedShard(results, replace(dead, letters=letters), rows)

    def _results(self, job: JobResults, shard: Settled, dead: DeadRows) -> pa.Table | None:
        if shard.results == 0:
            return None
        return _indexed(results_of(self._ledger, job.record, job.stage, job.results, [shard])[0], shard, dead)

    def _replace(
        self,
        job: JobResults,
        shard: Settled,
        dead: DeadRows,
        outcomes: RowOutcomes,
        epoch: int,
        kept: pa.Table | None,
        kept_rows: int,
    ) -> None:
        """Give a shard the results that it keeps and those of its rows that were run again.

        kept: with INDEX; None: it keeps none. kept_rows: from how many rows they are.
        """
        table = in_order([*([] if kept is None else [kept]), *outcomes.results] or [_NO_RESULTS]).drop_columns([INDEX])
        rows, left = kept_rows + len(outcomes.done), outcomes.still_dead(dead)
        rows_dead = shard.rows + shard.rows_dead - rows
        after = replace(shard, token=shard.token + 1, rows=rows, rows_dead=rows_dead, nbytes=0)
        if shard.expanded_to is not None:
            after = replace(after, expanded_to=table.num_rows)
        if after.results:
            after = replace(after, nbytes=job.write(shard.shard_id, after.token, table))
        job_id = job.record.id
        self._dead_rows.write(job_id, after, left)
        by_type = Counter(letter.error_type for letter in left.letters)
        by_type.subtract(letter.error_type for letter in dead.letters)
        more_dead = {kind: n for kind, n in by_type.items() if n}
        if self._ledger.results.replace_part(job_id, shard, after, more_dead, epoch):
            # What was replaced stays until it is replaced again: a ledger that is rolled back names it once more.
            older = replace(shard, token=shard.token - 1)
            self._dead_rows.delete(job_id, older)
            if not job.is_folder:
                job.results.delete(older.shard_id, older.token)

    def _update_manifest(self, job: JobResults, publisher: Publisher, epoch: int) -> None:
        self._one_schema.unite(job.record, job.stage, job.results, job.write, epoch)
        record = self._ledger.jobs.read(job.record.id)
        finished_at = (record.finished_at or 0) / 1000
        manifest = manifest_of(self._ledger, record, publisher, job.results, record.state, finished_at)
        publisher.update_manifest(manifest)


def _at_original_rows(results: pa.Table, part: Settled, original_rows: Rows) -> pa.Table:
    """The results of a replay, with their rows' indices in the job that is replayed."""
    for name in (INDEX, *([SOURCE_ROW] if part.expanded_to is not None else [])):
        at = results.column_names.index(name)
        results = results.set_column(at, name, pa.array(original_rows[results[name].to_numpy()]))
    return results


def _indexed(results: pa.Table, shard: Settled, dead: DeadRows) -> pa.Table:
    """Append to a shard's results the index, in its job's input, of the row that each was made from."""
    if shard.expanded_to is not None:
        return results.append_column(INDEX, results[SOURCE_ROW])
    rows = np.arange(shard.first_row, shard.first_row + shard.rows + shard.rows_dead, dtype=np.int64)
    done = np.setdiff1d(rows, np.array(sorted(dead.indices), dtype=np.int64), assume_unique=True)
    return results.append_column(INDEX, pa.array(done))
