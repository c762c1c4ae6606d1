"""Admission of a job that reads the results of a stage of another one: they must be there until it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batchmill.errors import Conflict, InvalidParams, InvalidRequest
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.job import JobState
from batchmill.jobs.stages import FIRST_STAGE, last_stage, stages_of
from batchmill.kept_results import JobResults
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.encodings import FreedParts
from batchmill.ledger.formats.record import StageRecord
from batchmill.ledger.jobs import no_such_job
from batchmill.ledger.scripting.calls import HoldResultsAnswer
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.dead_rows import DeadRowStore
from batchmill_coordinator.results.inputs import open_stage_input, stage_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from batchmill.jobs.job import JobSpec
    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.record import JobStage
    from batchmill.operators.named_params import NamedResults
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.stage_source import StageSource


class KeptResults:
    """Opens results of ended jobs as the input of other jobs, or as tables that these read."""

    def __init__(self, ledger: Ledger, workspace: Workspace) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = DeadRowStore(ledger, workspace.blobs)

    def open(self, job_id: str, spec: JobSpec, source: ResultsSource, tenant: str, undo: ExitStack) -> StageSource:
        """Open the results that a job is to read, and hold them for it; `undo` lets them go.

        Raises `NotFound` for a job that is gone or another tenant's, `InvalidRequest` for results that are not between
        two stages, and `Conflict` if some of them are not there.
        """
        if self._ledger.jobs.read(source.job).tenant != tenant:
            raise no_such_job(source.job)
        before = stage_of(self._ledger, source)
        self._require_behind(before)
        self._require_there(before)
        incomplete = self._incomplete(before) if any(stage.gathers for stage in spec.stages) else set()
        self._hold(before, job_id, undo, sorted(incomplete))
        stages = tuple(StageRecord(number, stage) for number, stage in enumerate(spec.stages))
        record = JobRecord(job_id, spec, JobState.PENDING, stages)
        return open_stage_input(self._ledger, self._workspace, record, FIRST_STAGE)

    def hold_table(self, named: NamedResults, job_id: str, tenant: str, undo: ExitStack) -> list[str]:
        """Hold the results that an operator of a job is to read as a table, and return their columns.

        Raises `InvalidParams` for a job that is gone or another tenant's, and results that the service does not keep,
        and `Conflict` if some of them are not there.
        """
        results = JobResults(self._ledger, self._workspace)
        found = results.find(named, tenant)
        job, stage = found
        if job.spec.output is not None and stage.number == last_stage(job.spec):
            raise InvalidParams(
                f"the results of job {job.id} are in its output, {job.spec.output.path}.",
                hint="Name its path instead of the job.",
                job=job.id,
            )
        self._require_there(found)
        self._hold(found, job_id, undo)
        columns: list[str] = results.open(named).first_schema().names
        if not columns:
            raise InvalidParams(f"stage {stage.spec.title!r} of job {job.id} has no results.", job=job.id)
        return columns

    def _hold(self, before: JobStage, job_id: str, undo: ExitStack, incomplete: Sequence[int] = ()) -> None:
        """Keep results until a job has ended; `undo` lets them go."""
        of_job = before.job.id
        undo.callback(self._ledger.readers.release, of_job, job_id)
        match self._ledger.readers.hold(of_job, before.stage, job_id, incomplete):
            case HoldResultsAnswer.OK:
                self._require_no_replay(before.job)
            case HoldResultsAnswer.GONE:
                raise no_such_job(of_job)
            case HoldResultsAnswer.FREED:
                raise _not_kept(before)
            case never:
                assert_never(never)

    def _require_behind(self, before: JobStage) -> None:
        job, stage = before
        if stage.number == last_stage(job.spec):
            raise InvalidRequest(
                f"{stage.spec.title!r} is the last stage of job {job.id}: no stage is behind it.",
                hint="Its results are those of the job: read them with `batchmill results`, or from its output.",
                job=job.id,
            )

    def _require_there(self, before: JobStage) -> None:
        job, stage = before
        if not job.state.is_final:
            raise Conflict(
                f"job {job.id} is {job.state}; another job can read its results when it has ended.",
                hint="Wait for it, or cancel it.",
                job=job.id,
                state=job.state,
            )
        parts = [part for shard in settled_shards(self._ledger, job, stage.number) for part in shard.parts]
        if not stage.is_settled or any(part.plan for part in parts):
            raise Conflict(
                f"job {job.id} was {job.state} before its stage {stage.spec.title!r} was through.",
                hint="Submit it again; over its output, it continues where it stopped.",
                job=job.id,
                state=job.state,
            )
        if stage.number == last_stage(job.spec):
            return
        is_freed = job.state is JobState.COMPLETED or FreedParts.parse(stage.freed).is_any
        is_freed |= any(part.results and not part.nbytes for part in parts)  # the next stage ran with it
        if is_freed and not stage.spec.keep:
            raise _not_kept(before)

    def _require_no_replay(self, job: JobRecord) -> None:
        replay = self._ledger.jobs.live_replay_of(job.id)
        if replay is not None:
            raise Conflict(
                f"job {replay} is about to change the results of {job.id}.",
                hint="Wait for it, or cancel it.",
                job=job.id,
                replay=replay,
            )

    def _incomplete(self, before: JobStage) -> set[int]:
        """The source rows of which a row has failed up to a stage, as far as its dead letters are there."""
        job, last = before
        noted = isinstance(job.spec.source, ResultsSource)
        found = self._ledger.readers.incomplete_of(job.id) if noted else set()
        for number in stages_of(job.spec)[: last.number + 1]:
            for shard in self._dead_rows.shards(job, number):
                letters = self._dead_rows.read(job.id, shard).letters
                found |= {letter.path[0] if letter.path else letter.index for letter in letters}
        return found


def _not_kept(before: JobStage) -> Conflict:
    title = before.spec.title
    return Conflict(
        f"results of stage {title!r} of job {before.job.id} are deleted: the stage was not submitted with keep.",
        hint=f"Submit the first job again, with keep=true for {title!r}."
        " With cache=true its known rows are not computed again.",
        job=before.job.id,
        stage=title,
    )
