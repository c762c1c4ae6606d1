"""The error that a job's final status means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import JobCancelled, JobExpired, JobFailed
from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from batchmill.jobs.status import JobStatus


def raise_unless_completed(status: JobStatus) -> None:
    """Raise `JobFailed`, `JobCancelled` or `JobExpired` for a final status that is not `completed`."""
    if status.state is JobState.FAILED:
        error = status.error
        reason = error.message if error else "the service gave no reason"
        details = {**error.details, "code": error.code} if error else {}
        raise JobFailed(f"{status.id} failed: {reason}", **{**details, "job": status.id})
    total = "" if status.rows_total is None else f" of {status.rows_total:,}"
    if status.state is JobState.CANCELLED:
        raise JobCancelled(f"{status.id} was cancelled after {status.rows_done:,}{total} rows.", job=status.id)
    if status.state is JobState.EXPIRED:
        raise JobExpired(
            f"{status.id} passed its deadline after {status.rows_done:,}{total} rows.",
            hint="Its finished rows can be read; set a later deadline or a higher priority.",
            job=status.id,
        )
