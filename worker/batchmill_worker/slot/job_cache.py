"""The jobs that a process has met lately: their source, results and spec, opened once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, JobFiles] = OrderedDict()

    def get(self, job_id: str) -> JobFiles | None:
        """The files of a job, if they are open."""
        with self._lock:
            files = self._kept.get(job_id)
            if files is not None:
                self._kept.move_to_end(job_id)
            return files

    def open(self, job_id: str, spec: JobSpec, inline_rows: bytes) -> JobFiles:
        """Open a job's files. Raises `NotFound`, `InvalidSource` or `StorageError`."""
        source = self._workspace.open_source(job_id, spec, inline_rows)
        files = JobFiles(spec, source, self._workspace.open_results(job_id, spec, last_stage(spec)))
        with self._lock:
            self._kept[job_id] = files
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return files
