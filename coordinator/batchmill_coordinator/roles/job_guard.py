"""What keeps one job's failure to that job: every role does its work on a job inside a `JobGuard`.

1. Storage that fails is tried again at the next steps, up to a limit; any other error of Batchmill's is final at once.
2. An exception that nobody foresaw is tried again with growing waits, for it may be a fault of the machine, up to
   `MAX_UNFORESEEN` times.
3. Then a role that can fail jobs fails the job, with the reason; another role sets it aside, and tries again later.
4. The first failure is written to the job's log, and all to the coordinator's.

Only `ServiceUnavailable` ends the role's step: without the ledger there is nothing to do for any job. `Overloaded`, one
of its kinds, does not: something that one job needs is busy, or its tenant has used up a limit, so that job waits.
"""

from __future__ import annotations

import logging
import math
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchmill.backoff import Backoff
from batchmill.clock import SystemClock
from batchmill.errors import BatchmillError, NotFound, Overloaded, ServiceUnavailable, StorageError, StreamUnavailable
from batchmill.jobs.job import JobError, JobState
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.json_values import printable
from batchmill.telemetry.log_context import about

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchmill.clock import Clock
    from batchmill.ledger import Ledger

log = logging.getLogger(__name__)

MAX_UNFORESEEN = 3
MAX_REASON_CHARS = 1_000
SET_ASIDE = Backoff(base_s=2.0, max_s=60.0)
STREAM_RETRIES = 2  # the wait for a stream that is away grows no further


class JobGuard:
    """Counts, by job, the steps in a row that failed, and keeps what fails over one job from the others.

    what: what could not be done, for messages: "its source could not be read".
    max_storage_failures: how many steps in a row storage may fail; the role's period is the wait between two of them.
    fails_jobs: whether a job fails in the end; otherwise it is only set aside.
    """

    def __init__(
        self,
        ledger: Ledger,
        what: str,
        *,
        max_storage_failures: int = 30,
        fails_jobs: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._ledger = ledger
        self._what = what
        self._max_storage_failures = max_storage_failures
        self._fails_jobs = fails_jobs
        self._clock = clock or SystemClock()
        self._rng = random.Random()  # noqa: S311  # jitter, no secret
        self._failures: dict[str, int] = {}
        self._until_s: dict[str, float] = {}  # by job: until when it is set aside, monotonic

    @contextmanager
    def over(self, job_id: str) -> Iterator[None]:
        """Do a part of a step that is about one job. Raises `ServiceUnavailable`, and nothing else."""
        with about(job=job_id):
            try:
                yield
            except Overloaded as error:
                self._end(job_id, error)
            except ServiceUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  # what one job raises is that job's
                self._end(job_id, error)
            else:
                self.forget(job_id)

    def is_set_aside(self, job_id: str) -> bool:
        """Return whether it is too early to try again."""
        return self._clock.monotonic() < self._until_s.get(job_id, 0.0)

    def may_retry(self, job_id: str, error: Exception) -> bool:
        """Count a failure; return whether the role tries again, at once or later. Raises `ServiceUnavailable`."""
        failures = self._failures[job_id] = self._failures.get(job_id, 0) + 1
        limit: float
        if isinstance(error, StreamUnavailable):
            limit = math.inf  # a job over a stream waits for it, however long it is away
            self._set_aside(job_id, min(failures, STREAM_RETRIES))
        elif isinstance(error, Overloaded):
            limit = math.inf  # it succeeds later
            self._set_aside(job_id, failures)
        elif isinstance(error, StorageError):
            limit = self._max_storage_failures
        elif isinstance(error, BatchmillError):
            return False
        else:
            limit = MAX_UNFORESEEN
            self._set_aside(job_id, failures)
        if failures >= limit:
            return False
        log.warning(
            "job %s: %s, which is tried again: %s",
            job_id,
            self._what,
            reason_of(error),
            exc_info=None if isinstance(error, BatchmillError) else error,
        )
        if failures == 1:
            self._note(job_id, f"{self._what}, which is tried again: {reason_of(error)}")
        return True

    def fail(self, job_id: str, error: Exception) -> None:
        """Stop a job because of an error. Raises `ServiceUnavailable`."""
        log.warning("job %s fails: %s: %s", job_id, self._what, reason_of(error), exc_info=_trace(error))
        code, details = (error.code, error.details) if isinstance(error, BatchmillError) else (BatchmillError.code, {})
        message = f"{self._what[:1].upper()}{self._what[1:]}: {reason_of(error)}"
        failure = JobError(code=code, message=message, details=details)
        self._ledger.jobs.stop(job_id, JobState.FAILING, failure)

    def job_ids(self) -> set[str]:
        """Return the jobs whose failures are counted."""
        return set(self._failures) | set(self._until_s)

    def forget(self, job_id: str) -> None:
        """Count from 0 again, for it works."""
        self._failures.pop(job_id, None)
        self._until_s.pop(job_id, None)

    def forget_all_but(self, job_ids: Collection[str]) -> None:
        """Drop the counts of jobs that the role no longer works on."""
        for job_id in (self._failures.keys() | self._until_s.keys()) - set(job_ids):
            self.forget(job_id)

    def _end(self, job_id: str, error: Exception) -> None:
        """Try again, fail the job, or set it aside. Whatever goes wrong on the way sets it aside."""
        try:
            if self.may_retry(job_id, error):
                return
            if self._fails_jobs:
                self.fail(job_id, error)
            else:
                log.error("job %s is set aside: %s: %s", job_id, self._what, reason_of(error), exc_info=_trace(error))
                if self._failures[job_id] == 1:
                    self._note(job_id, f"{self._what}: {reason_of(error)}")
        except ServiceUnavailable:
            raise
        except NotFound:
            self.forget(job_id)  # it was deleted meanwhile
            return
        except Exception:
            log.exception("job %s is set aside: its failure could not be stored", job_id)
        self._set_aside(job_id, self._failures.get(job_id, 1))

    def _note(self, job_id: str, message: str) -> None:
        self._ledger.log.note(job_id, LogLevel.WARNING, LogEvent.STORAGE_RETRY, message)

    def _set_aside(self, job_id: str, failures: int) -> None:
        wait_s = SET_ASIDE.ceiling_s(failures) / 2 + SET_ASIDE.delay_s(failures, self._rng) / 2
        self._until_s[job_id] = self._clock.monotonic() + wait_s


@contextmanager
def apart(what: str) -> Iterator[None]:
    """Do a part of a step that is about no job; what fails is logged. Raises `ServiceUnavailable`, and nothing else.

    `Overloaded` is no reason to end a step: one tenant has used up a limit.
    """
    try:
        yield
    except Overloaded as error:
        log.warning("%s has to wait: %s", what, reason_of(error))
    except ServiceUnavailable:
        raise
    except Exception as error:  # what one part raises must not keep the others from their turn
        log.error("%s failed, which is tried again: %s", what, reason_of(error), exc_info=_trace(error))


def reason_of(error: Exception) -> str:
    """Say in a line what went wrong; of an exception that nobody foresaw, with its type."""
    text = str(error) if isinstance(error, BatchmillError) else f"{type(error).__name__}: {error}"
    return printable(" ".join(text.split()))[:MAX_REASON_CHARS]


def _trace(error: Exception) -> Exception | None:
    return None if isinstance(error, BatchmillError) else error
