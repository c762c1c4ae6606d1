"""Deleting a job: first it is marked, then its blobs go, then the ledger forgets it.

Interrupted anywhere, it can be begun again, and the janitor does. The output folder of a job is its user's and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.files import ResultsSource, UploadSource
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.operators.named_params import jobs_named
from batchmill_coordinator.results.inputs import live_readers

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.storage.blobs import BlobStore


def delete_job(ledger: Ledger, blobs: BlobStore, job_id: str) -> None:
    """Delete an ended job and everything that Batchmill stores of it.

    Raises `NotFound`, `Conflict` if it has not ended, or a job that has not reads its results, and `StorageError` if
    blobs cannot be deleted; the janitor tries again then.
    """
    job = ledger.jobs.find(job_id)
    upload = _upload_of(job)
    ledger.readers.drop(job_id, set(ledger.readers.of(job_id)).difference(live_readers(ledger, job_id)))
    ledger.retention.mark_for_deletion(job_id)
    blobs.delete_folder(f"jobs/{job_id}")
    if upload is not None:
        blobs.delete_folder(f"uploads/{upload}")
    for other in _read_by(job):
        ledger.readers.drop(other, [job_id])
    ledger.retention.forget(job_id)


def _read_by(job: JobRecord | UnreadableJob) -> set[str]:
    """Return the jobs whose results a job may have read."""
    if isinstance(job, UnreadableJob):
        return set()
    named = {other for stage in job.spec.stages for other in jobs_named(stage.params)}
    return named | ({job.spec.source.job} if isinstance(job.spec.source, ResultsSource) else set())


def _upload_of(job: JobRecord | UnreadableJob) -> str | None:
    if isinstance(job, UnreadableJob):
        return job.upload
    source = job.spec.source
    return source.upload if isinstance(source, UploadSource) else None
