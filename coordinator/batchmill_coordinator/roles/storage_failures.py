"""What a role does about a job whose storage fails: a disk or bucket may recover, but is not waited for forever."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.errors import StorageError
from batchmill.job_log import LogEvent, LogLevel

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchmill.errors import BatchmillError
    from batchmill.ledger import Ledger

log = logging.getLogger(__name__)


class StorageFailures:
    """Counts, by job, the steps in a row in which its storage failed.

    what: what could not be done, for messages: "its source could not be read".
    max_failures: how many steps in a row may fail; the role's period is the wait between two of them.
    """

    def __init__(self, ledger: Ledger, what: str, max_failures: int) -> None:
        self._ledger = ledger
        self._what = what
        self._max_failures = max_failures
        self._failures: dict[str, int] = {}

    def may_retry(self, job_id: str, error: BatchmillError) -> bool:
        """Count a failure; False if the role must give up: the storage failed too often, or it is another error.

        The first failure of a job is written to its log. Raises `ServiceUnavailable` if the ledger cannot be reached.
        """
        if not isinstance(error, StorageError):
            return False
        failures = self._failures[job_id] = self._failures.get(job_id, 0) + 1
        if failures >= self._max_failures:
            return False
        log.warning("job %s: %s, which is tried again: %s", job_id, self._what, error)
        if failures == 1:
            message = f"{self._what}, which is tried again: {error}"
            self._ledger.log.note(job_id, LogLevel.WARNING, LogEvent.STORAGE_RETRY, message)
        return True

    def forget(self, job_id: str) -> None:
        """Count from 0 again, for the storage works."""
        self._failures.pop(job_id, None)

    def forget_all_but(self, job_ids: Collection[str]) -> None:
        """Drop the counts of jobs that the role no longer works on."""
        for job_id in self._failures.keys() - set(job_ids):
            self.forget(job_id)
