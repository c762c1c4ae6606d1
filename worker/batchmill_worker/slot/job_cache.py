"""The jobs that a process has met lately: their source, results and spec, opened once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.caches import Lru
from batchmill.stages import last_stage

if TYPE_CHECKING:
    from batchmill.job import JobSpec
    from batchmill.sinks import ResultStore
    from batchmill.sources.base import Source
    from batchmill.workspace import Workspace

MAX_KEPT = 32


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What every shard of a job needs."""

    spec: JobSpec
    source: Source
    results: ResultStore

    @property
    def rides_inline(self) -> bool:
        """Whether small results may stay in the ledger, as the job's rows do."""
        return self.spec.source is None and self.spec.output is None


class JobShelf:
    """Keeps the files of the last few jobs open. Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: Lru[str, JobFiles] = Lru(MAX_KEPT)

    def get(self, job_id: str) -> JobFiles | None:
        """The files of a job, if they are open."""
        return self._kept.get(job_id)

    def open(self, job_id: str, spec: JobSpec, inline_rows: bytes) -> JobFiles:
        """Open a job's files. Raises `NotFound`, `InvalidSource` or `StorageError`."""
        source = self._workspace.open_source(job_id, spec, inline_rows)
        files = JobFiles(spec, source, self._workspace.open_results(job_id, spec, last_stage(spec)))
        self._kept.put(job_id, files)
        return files
