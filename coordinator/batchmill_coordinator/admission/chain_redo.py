"""Which rows of the source of a job of several stages are run again to get its damaged results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW
from batchmill.errors import Conflict
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.job import JobState
from batchmill.jobs.stages import last_stage
from batchmill_coordinator.results.damage import RowsAgain
from batchmill_coordinator.results.damaged_runs import DamagedRun, StageParts

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Sequence

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.workspace import Workspace


def require_possible(record: JobRecord) -> None:
    """Raise `Conflict` for a job whose results cannot be made from rows of its source alone."""
    if isinstance(record.spec.source, ResultsSource):
        why, hint = "its input are results of another job", "Run the stages again: `batchmill rerun`."
    elif record.spec.sink is not None:
        why, hint = "its results are in a sink", "Submit the job again."
    elif record.state is not JobState.COMPLETED:
        why, hint = f"it was {record.state}", "Submit it again over another folder."
    else:
        return
    raise Conflict(f"results of job {record.id} cannot be done again: {why}.", hint=hint, job=record.id)


def damaged_runs(
    ledger: Ledger, workspace: Workspace, record: JobRecord, chosen: Collection[str] | None
) -> list[DamagedRun]:
    """Find the damaged results of the last stage and of those that are kept; all are read. Raises `StorageError`.

    chosen: shards of the last stage, which alone are checked then; None: all.
    """
    last, runs = last_stage(record.spec), list[DamagedRun]()
    for number, stage in enumerate(record.spec.stages):
        if number == last or (stage.keep and chosen is None):
            parts = StageParts(ledger, record, number, workspace.open_results(record.id, record.spec, number))
            runs += parts.runs(parts.damaged(chosen))
    return runs


def source_rows(runs: Sequence[DamagedRun], total: int) -> list[range]:
    """Return the rows of the source that damaged results may be from, ascending. total: how many there are."""
    merged: list[range] = []
    for rows in sorted((run.source_rows(total) for run in runs), key=lambda rows: rows.start):
        if merged and rows.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, rows.stop))
        else:
            merged.append(rows)
    return merged


def with_source_row(rows: RowsAgain, failed: Container[int]) -> RowsAgain:
    """Return rows of a source with their index as a column, without those that failed in the first stage."""
    kept = [place for place, index in enumerate(rows.indices) if index not in failed]
    indices = [rows.indices[place] for place in kept]
    table = rows.table.take(pa.array(kept, pa.int64()))
    return RowsAgain(table.add_column(0, SOURCE_ROW, pa.array(indices, pa.int64())), indices)
