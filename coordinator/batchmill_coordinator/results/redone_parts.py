"""Puts the results of a redo of a job of several stages into the places of the damaged ones.

The redo has run all rows of the source that damaged results may be from, through all stages up to those. Of its results
only those count that were in a damaged part, and not those of rows that had failed: a replay brings these in. It is
merged as a unit or not at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import in_path_order, paths_of
from batchmill.errors import Conflict, DamagedData, NotFound
from batchmill.jobs.shard import format_shard_id
from batchmill.stage_inputs.gathered_results import borders_of
from batchmill.stage_results import joined, settled_shards
from batchmill_coordinator.results.damaged_runs import StageParts
from batchmill_coordinator.results.job_results import JobResults
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from batchmill.columns.lineage import Path
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.damaged_runs import DamagedRun
    from batchmill_coordinator.results.dead_rows import DeadRowStore
    from batchmill_coordinator.results.replay_rows import ReplayRows


def redone_name(stage: int, part: Settled) -> str:
    """Name a part among those that a redo replaces."""
    return f"{stage}/{format_shard_id(part.shard_id)}"


class RedoneParts:
    """Merges redos of jobs of several stages, as the leader."""

    def __init__(self, ledger: Ledger, workspace: Workspace, dead_rows: DeadRowStore) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows

    def merge(self, job: JobResults, redo: JobRecord, rows: ReplayRows, epoch: int) -> None:
        """Replace the parts that were redone, unless they have changed since. Doing it again is fine.

        Raises `Conflict` if rows have failed that had not before, `NotFound` or `StorageError`.
        """
        if not redo.is_settled:
            return
        record = job.record
        self._require_no_more(record, redo)
        for stage in sorted({int(name.partition("/")[0]) for name in rows.redone}):
            own = job if stage == job.stage else self._between(record, stage)
            parts = StageParts(self._ledger, record, stage, own.results)
            damaged = [rows.redone.get(redone_name(stage, part)) == part.token for part in parts.parts]
            failed = self._failed(record, stage)
            for run in parts.runs(damaged):
                self._replace(own, run, self._results(redo, run, failed), epoch)

    def _between(self, record: JobRecord, stage: int) -> JobResults:
        return JobResults(record, stage, self._workspace.open_results(record.id, record.spec, stage), None)

    def _failed(self, record: JobRecord, last: int) -> set[Path]:
        """Collect the paths of the rows that have failed in the stages up to `last`."""
        return {path for stage in range(last + 1) for path in self._dead_paths(record, stage)}

    def _dead_paths(self, record: JobRecord, stage: int) -> Iterator[Path]:
        for shard in self._dead_rows.shards(record, stage):
            for letter in self._dead_rows.read(record.id, shard).letters:
                yield letter.path or (letter.index,)

    def _require_no_more(self, record: JobRecord, redo: JobRecord) -> None:
        failed = self._failed(record, len(redo.stages) - 1)
        more = [
            path
            for stage in range(len(redo.stages))
            for path in self._dead_paths(redo, stage)
            if not _is_below(path, failed)
        ]
        if more:
            raise Conflict(
                f"{len(more):,} rows of {record.id} that had results failed this time; nothing is replaced.",
                hint=f"`batchmill dead {redo.id}` lists them. Fix what is wrong, and redo it again.",
                job=record.id,
                rows=[".".join(map(str, path)) for path in more[:100]],
            )

    def _results(self, redo: JobRecord, run: DamagedRun, failed: Container[Path]) -> pa.Table:
        """Collect what a redo has made for a run of damaged parts."""
        store = self._workspace.open_results(redo.id, redo.spec, run.stage)
        found = []
        for shard in settled_shards(self._ledger, redo, run.stage):
            for part in shard.parts:
                if part.results:
                    (table,) = results_of(self._ledger, redo, run.stage, store, [part])
                    wanted = [run.has(path) and not _is_below(path, failed) for path in paths_of(table)]
                    found.append(table.filter(pa.array(wanted, pa.bool_())))
        made = [table for table in found if table.num_rows]
        return in_path_order(joined(made)) if made else pa.table({})

    def _replace(self, job: JobResults, run: DamagedRun, table: pa.Table, epoch: int) -> None:
        """Give the first part of a run all of its results, and the others none."""
        for part in run.parts:
            after = replace(part, token=part.token + 1, nbytes=0, expanded_to=table.num_rows)
            if table.num_rows:
                after = replace(after, nbytes=job.write(after.shard_id, after.token, table))
            self._copy_dead_rows(job.record, part, after)
            is_replaced = self._ledger.results.replace_part(job.record.id, part, after, {}, epoch)
            if is_replaced and table.num_rows and job.record.spec.is_gathered_behind(job.stage):
                self._ledger.results.note_borders(job.record.id, after, borders_of(table))
            table = table.slice(0, 0)

    def _copy_dead_rows(self, record: JobRecord, before: Settled, after: Settled) -> None:
        if before.rows_dead:
            try:
                dead = self._dead_rows.read(record.id, before)
            except (DamagedData, NotFound):
                return  # they stay counted, as purged ones
            self._dead_rows.write(record.id, after, dead)


def _is_below(path: Path, failed: Container[Path]) -> bool:
    """Whether a row, or one that it was made from, has failed."""
    return any(path[: length + 1] in failed for length in range(len(path)))
