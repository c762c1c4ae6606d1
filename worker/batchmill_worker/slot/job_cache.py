"""The jobs of recent shards: their spec, source and results, opened once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.caches import Lru
from batchmill.jobs.stages import last_stage

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.ledger import Claim
    from batchmill.ledger.jobs import JobLedger
    from batchmill.sinks import ResultStore
    from batchmill.sources.base import Source
    from batchmill.workspace import Workspace

MAX_KEPT = 32


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What every shard of a job reads and writes."""

    spec: JobSpec
    source: Source
    results: ResultStore

    @property
    def may_be_inline(self) -> bool:
        """Whether small results may be stored in the ledger, as the job's rows are."""
        return self.spec.source is None and self.spec.output is None


class JobFilesCache:
    """Keeps the files of the most recent jobs open. Thread-safe."""

    def __init__(self, workspace: Workspace, jobs: JobLedger) -> None:
        self._workspace = workspace
        self._jobs = jobs
        self._kept: Lru[str, JobFiles] = Lru(MAX_KEPT)

    def get(self, job_id: str) -> JobFiles | None:
        """Return the files of a job if they are open."""
        return self._kept.get(job_id)

    def stage_of(self, claim: Claim) -> StageSpec | None:
        """Return the spec of a claimed shard's stage; None if its job was evicted since the claim."""
        files = self.get(claim.shard.job_id)
        spec = files.spec if files else claim.spec
        return spec.stages[claim.shard.stage] if spec else None

    def of(self, claim: Claim) -> JobFiles:
        """Return the files of a claimed shard's job, opening them first if need be.

        Raises as `open`, and `ServiceUnavailable` if the job has to be read from the ledger.
        """
        job_id = claim.shard.job_id
        files = self.get(job_id)
        if files is not None:
            return files
        if claim.spec is None:  # they were open at the claim, and have been evicted since
            return self.open(job_id, self._jobs.read(job_id).spec, self._jobs.inline_input(job_id) or b"")
        return self.open(job_id, claim.spec, claim.inline_rows)

    def open(self, job_id: str, spec: JobSpec, inline_rows: bytes) -> JobFiles:
        """Open a job's files, and evict those of the least recently used job.

        Raises `NotFound`, `InvalidSource` or `StorageError`.
        """
        source = self._workspace.open_source(job_id, spec, inline_rows)
        files = JobFiles(spec, source, self._workspace.open_results(job_id, spec, last_stage(spec)))
        self._kept.put(job_id, files)
        return files
