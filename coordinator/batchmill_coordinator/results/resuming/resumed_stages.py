"""Gives a job the results between the stages of the one that it resumes, as far as they are still needed.

They are in the folder of that job, which is not deleted meanwhile. What the next stage has settled is not needed any
more, unless it is kept; what an interrupted shard has stored is made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidOutput
from batchmill.ledger.formats.encodings import FreedParts
from batchmill.ledger.scripting.calls import HoldResultsAnswer
from batchmill.ledger.unfinished import settled_of
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from batchmill.jobs.unfinished import UnfinishedWork
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import Manifest
    from batchmill.workspace import Workspace


class ResumedStages:
    """Copies results between stages from job to job."""

    def __init__(self, ledger: Ledger, workspace: Workspace) -> None:
        self._ledger = ledger
        self._workspace = workspace

    def hold(self, manifest: Manifest, job_id: str, undo: ExitStack) -> None:
        """Keep the job that left an output until another one has its results; `undo` lets it go.

        Raises `InvalidOutput` if it was deleted, and results between its stages with it.
        """
        if manifest.rest is None or not manifest.rest.earlier:
            return
        found = self._ledger.jobs.read_many([manifest.job])
        undo.callback(self._ledger.readers.release, manifest.job, job_id)
        for record in found:
            if self._ledger.readers.hold(record.id, record.first, job_id) is HoldResultsAnswer.OK:
                return
        raise InvalidOutput(
            f"the output folder holds {manifest.rows:,} rows of job {manifest.job}, which was deleted, and with it "
            "what was between its stages.",
            hint="Choose another folder; with cache=true known rows are not computed again.",
            job=manifest.job,
        )

    def copy(self, earlier_id: str, record: JobRecord, rest: UnfinishedWork) -> None:
        """Copy what a job needs of an earlier one. Doing it again is fine. Raises `StorageError`, `NotFound`."""
        if not rest.earlier:
            return
        earlier = self._ledger.jobs.read(earlier_id)
        for number in range(len(rest.earlier)):
            old = self._workspace.open_results(earlier.id, earlier.spec, number)
            new = self._workspace.open_results(record.id, record.spec, number)
            for part in _needed(record, number, rest):
                (table,) = results_of(self._ledger, earlier, number, old, [part])
                new.write(part.shard_id, part.token, table)

    def release(self, earlier_id: str, job_id: str) -> None:
        """Allow that the earlier job is deleted."""
        self._ledger.readers.drop(earlier_id, [job_id])


def _needed(record: JobRecord, number: int, rest: UnfinishedWork) -> Iterator[Settled]:
    work = rest.earlier[number]
    freed = FreedParts() if record.spec.stages[number].keep else FreedParts.parse(work.freed)
    parts = sorted(settled_of(number, work), key=lambda part: part.shard_id)
    for part in [one for one in parts if one.shard_id[0] >= freed.shard][freed.parts :]:
        if part.results and part.nbytes:  # without bytes: it was not stored
            yield part
