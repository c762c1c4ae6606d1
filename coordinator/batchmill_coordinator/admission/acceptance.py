"""The last step of a submission: the ledger accepts the job, and what was stored for it is the job's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import OutcomeUnknown

if TYPE_CHECKING:
    from contextlib import ExitStack

    from batchmill.ledger.jobs import JobLedger, Submission


def accept(jobs: JobLedger, submission: Submission, undo: ExitStack, *, max_live_jobs: int) -> tuple[str, bool]:
    """The job's id, and whether it is new (False: known under its idempotency key). Raises as `JobLedger.submit`.

    undo: removes what was stored for the job; emptied when that is the job's, or may be: of a ledger that went away
    without an answer nobody can tell.
    """
    try:
        accepted_id, is_new = jobs.submit(submission, max_live_jobs=max_live_jobs)
    except OutcomeUnknown:
        undo.pop_all()
        raise
    if is_new:
        undo.pop_all()
    return accepted_id, is_new
