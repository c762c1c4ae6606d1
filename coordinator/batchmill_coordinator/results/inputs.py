"""Opens what a stage of a job reads: the job's source, the results of the stage before it, or those of another job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidSource, NotFound
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.stages import FIRST_STAGE, stage_called
from batchmill.ledger.formats.record import JobStage
from batchmill.stage_results import StageResults, kept_parts
from batchmill.streams.opening import open_stream
from batchmill_coordinator.results.stage_source import StageSource

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sources.base import Source
    from batchmill.streams.watched_folder import FileInspector
    from batchmill.workspace import Workspace

UNACCEPTED_MS = 600_000
"""After this time a reader that the ledger does not know was not accepted."""


def open_input(
    ledger: Ledger,
    workspace: Workspace,
    record: JobRecord,
    stage: int,
    inline: bytes | None,
    inspector: FileInspector | None = None,
) -> Source:
    """Open what a stage reads. inline: the rows that were sent with the job, for its first stage.

    inspector: reads the files of a watched folder.

    Raises `NotFound` when files of the job are gone, `InvalidSource` if the job whose results it reads is.
    """
    if stage == FIRST_STAGE and record.spec.stream is not None:
        return open_stream(ledger, workspace, record.id, record.spec.stream, inspector)
    if stage != FIRST_STAGE or isinstance(record.spec.source, ResultsSource):
        return open_stage_input(ledger, workspace, record, stage)
    return workspace.open_source(record.id, record.spec, inline)


def open_stage_input(ledger: Ledger, workspace: Workspace, record: JobRecord, stage: int) -> StageSource:
    """Open the results that a stage reads. Raises `InvalidSource` if they were of a job that is gone."""
    source = record.spec.source
    other = stage_of(ledger, source) if stage == FIRST_STAGE and isinstance(source, ResultsSource) else None
    before = other or JobStage(record, record.stages[stage - 1])
    number = before.stage.number
    store = workspace.open_results(before.job.id, before.job.spec, number)
    results = StageResults(ledger.results, before.job.id, number, store, kept_parts(0), reader=record.id)
    return StageSource(ledger, record, stage, results, other)


def live_readers(ledger: Ledger, job_id: str) -> list[str]:
    """Return the jobs that read results between the stages of a job and have not ended, or are being accepted."""
    readers = ledger.readers.of(job_id)
    if not readers:
        return []
    since = ledger.now_ms() - UNACCEPTED_MS
    known = {record.id: record.state for record in ledger.jobs.find_many(list(readers))}
    return [one for one, at in readers.items() if (not known[one].is_final if one in known else at >= since)]


def stage_of(ledger: Ledger, source: ResultsSource) -> JobStage:
    """Read the stage that a source names. Raises `InvalidSource` if its job is gone, `InvalidRequest` without one."""
    try:
        job = ledger.jobs.read(source.job)
    except NotFound as error:
        raise InvalidSource(
            f"job {source.job}, whose results of stage {source.stage!r} are the input, was deleted.",
            hint="Submit all stages again.",
            job=source.job,
        ) from error
    return JobStage(job, job.stages[stage_called(job.spec, source.stage)])
