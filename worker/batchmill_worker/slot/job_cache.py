"""The stages of recent shards: the spec of their job, their source and results, opened once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.caches import Lru
from batchmill.gathered_results import GatheredResults
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.stages import FIRST_STAGE, last_stage, stage_called
from batchmill.stage_results import StageResults, kept_parts
from batchmill.streams.opening import open_stream

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.ledger import Claim, Ledger
    from batchmill.sinks import ResultStore
    from batchmill.sources.base import RowReader
    from batchmill.workspace import Workspace

MAX_KEPT = 32


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What every shard of a stage reads and writes."""

    spec: JobSpec
    stage: int
    source: RowReader
    results: ResultStore

    @property
    def may_be_inline(self) -> bool:
        """Whether small results may be stored in the ledger, as the job's rows are."""
        is_output = self.spec.output is not None and self.stage == last_stage(self.spec)
        return self.spec.source is None and not is_output


class JobFilesCache:
    """Keeps the files of the most recent stages open. Thread-safe."""

    def __init__(self, workspace: Workspace, ledger: Ledger) -> None:
        self._workspace = workspace
        self._ledger = ledger
        self._kept: Lru[tuple[str, int], JobFiles] = Lru(MAX_KEPT)
        self._parts = kept_parts()

    def get(self, job_id: str, stage: int) -> JobFiles | None:
        """Return the files of a stage if they are open."""
        return self._kept.get((job_id, stage))

    def stage_of(self, claim: Claim) -> StageSpec | None:
        """Return the spec of a claimed shard's stage; None if its job was evicted since the claim."""
        files = self.get(claim.shard.job_id, claim.shard.stage)
        spec = files.spec if files else claim.spec
        return spec.stages[claim.shard.stage] if spec else None

    def of(self, claim: Claim) -> JobFiles:
        """Return the files of a claimed shard's stage, opening them first if need be.

        Raises as `open`, and `ServiceUnavailable` if the job has to be read from the ledger.
        """
        job_id, stage = claim.shard.job_id, claim.shard.stage
        files = self.get(job_id, stage)
        if files is not None:
            return files
        if claim.spec is None:  # they were open at the claim, and have been evicted since
            jobs = self._ledger.jobs
            return self.open(job_id, stage, jobs.read(job_id).spec, jobs.inline_input(job_id) or b"")
        return self.open(job_id, stage, claim.spec, claim.inline_rows)

    def after(self, job_id: str, files: JobFiles) -> JobFiles:
        """Return the files of the stage behind that of these files, opening them first if need be. Raises as `open`."""
        stage = files.stage + 1
        return self.get(job_id, stage) or self.open(job_id, stage, files.spec, b"")

    def open(self, job_id: str, stage: int, spec: JobSpec, inline_rows: bytes) -> JobFiles:
        """Open a stage's files, and evict those of the least recently used one.

        Raises `NotFound`, `InvalidSource` or `StorageError`.
        """
        source: RowReader
        if stage == FIRST_STAGE and spec.stream is not None:
            source = open_stream(self._ledger, self._workspace, job_id, spec.stream)
        elif stage == FIRST_STAGE and not isinstance(spec.source, ResultsSource):
            source = self._workspace.open_source(job_id, spec, inline_rows)
        else:
            source = self._results_before(job_id, stage, spec)
            if spec.stages[stage].gathers:
                source = GatheredResults(source)
        files = JobFiles(spec, stage, source, self._workspace.open_results(job_id, spec, stage))
        self._kept.put((job_id, stage), files)
        return files

    def _results_before(self, job_id: str, stage: int, spec: JobSpec) -> StageResults:
        """Open the results that a stage reads: of the stage before it, or of another job."""
        if stage == FIRST_STAGE and isinstance(spec.source, ResultsSource):
            of_job, of_spec = spec.source.job, self._ledger.jobs.read(spec.source.job).spec
            before = stage_called(of_spec, spec.source.stage)
        else:
            of_job, of_spec, before = job_id, spec, stage - 1
        store = self._workspace.open_results(of_job, of_spec, before)
        return StageResults(self._ledger.results, of_job, before, store, self._parts, reader=job_id)
