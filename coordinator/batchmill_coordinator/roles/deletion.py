"""Deleting a job: first it is marked, then its blobs go, then the ledger forgets it.

Interrupted anywhere, it can be begun again, and the janitor does. The output folder of a job is its user's and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.files import UploadSource
from batchmill.ledger.formats.unreadable import UnreadableJob

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.storage.blobs import BlobStore


def delete_job(ledger: Ledger, blobs: BlobStore, job_id: str) -> None:
    """Delete an ended job and everything that Batchmill stores of it.

    Raises `NotFound`, `Conflict` if it has not ended, and `StorageError` if blobs cannot be deleted; the janitor tries
    again then.
    """
    upload = _upload_of(ledger.jobs.find(job_id))
    ledger.retention.mark_for_deletion(job_id)
    blobs.delete_folder(f"jobs/{job_id}")
    if upload is not None:
        blobs.delete_folder(f"uploads/{upload}")
    ledger.retention.forget(job_id)


def _upload_of(job: JobRecord | UnreadableJob) -> str | None:
    if isinstance(job, UnreadableJob):
        return job.upload
    source = job.spec.source
    return source.upload if isinstance(source, UploadSource) else None
