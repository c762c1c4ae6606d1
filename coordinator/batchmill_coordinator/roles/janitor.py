"""The janitor: deletes ended jobs, uploads that no job took, expired files, and dropped segments of the row cache.

1. Uploads that no job has taken for `upload_ttl_s` are forgotten in the ledger, then their blobs are deleted. So are
   files that have expired.
2. Jobs that ended over `retention_s` ago, and those that a user deleted, go by the steps of `deletion`.
3. While the clocks cannot be trusted (`ClockGuard`), only what users deleted goes.
4. Some loose segments of the row cache are deleted in each step (`cache_sweep`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.errors import Conflict, NotFound
from batchmill_coordinator.roles.cache_sweep import sweep_row_cache
from batchmill_coordinator.roles.deletion import delete_job
from batchmill_coordinator.roles.job_guard import JobGuard, apart

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.storage.blobs import BlobStore
    from batchmill_coordinator.batches.files import Files
    from batchmill_coordinator.roles.clock_guard import ClockGuard

log = logging.getLogger(__name__)


class Janitor:
    """Keeps ledger and blob store from growing forever.

    upload_ttl_s: how long an upload waits for a job. retention_s: how long an ended job is kept; 0: forever.
    """

    name = "janitor"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(
        self,
        ledger: Ledger,
        blobs: BlobStore,
        files: Files,
        clocks: ClockGuard,
        *,
        upload_ttl_s: float,
        retention_s: float,
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._files = files
        self._clocks = clocks
        self._upload_ttl_s = upload_ttl_s
        self._retention_s = retention_s
        self._guard = JobGuard(ledger, "it could not be deleted")

    def step(self, epoch: int) -> None:
        """Delete what is due; what cannot be deleted stays due and keeps nothing else."""
        is_trusted = self._clocks.is_trusted()
        if is_trusted:
            for upload in self._ledger.uploads.expire(epoch, self._upload_ttl_s):
                with apart(f"deleting upload {upload}"):
                    self._blobs.delete_folder(f"uploads/{upload}")
            with apart("deleting expired files"):
                self._files.delete_expired(self._ledger.now_ms())
        due = self._ledger.retention.due(self._ledger.now_ms(), self._retention_s if is_trusted else 0)
        self._guard.forget_all_but(due)
        for job_id in due:
            if not self._guard.is_set_aside(job_id):
                with self._guard.over(job_id):
                    self._delete(job_id)
        if is_trusted:
            with apart("the sweep of the row cache"):
                sweep_row_cache(self._ledger, self._blobs)

    def _delete(self, job_id: str) -> None:
        try:
            delete_job(self._ledger, self._blobs, job_id)
        except (NotFound, Conflict):
            return  # another one deleted it, or the job runs again
        log.info("job %s is deleted", job_id)
