"""The last step of a submission: the ledger accepts the job, and what was stored for it is the job's."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from batchmill.errors import OutcomeUnknown, Overloaded
from batchmill_coordinator.webhooks.messages import announces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from batchmill.ledger import Ledger
    from batchmill.ledger.submission import Acceptance, Submission
    from batchmill.settings import CoordinatorSettings
    from batchmill.storage.named_webhooks import NamedWebhooks

TURN_TIMEOUT_S = 30.0


class KeyTurns:
    """Lets this process accept one request at a time under an idempotency key.

    A repetition that arrives meanwhile waits, and finds the job then. Otherwise it would be refused, as the job has
    taken the output or the upload of both. Thread-safe.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, key: str | None) -> Iterator[None]:
        """Hold the turn of a key while the context lasts. Raises `Overloaded` if it is not free within a time."""
        if key is None:
            yield
            return
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._taken, TURN_TIMEOUT_S):
                raise Overloaded("another request with this idempotency key is still being accepted.")
            self._taken.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(key)
                self._changed.notify_all()


def accept(
    ledger: Ledger, submission: Submission, undo: ExitStack, settings: CoordinatorSettings, webhooks: NamedWebhooks
) -> Acceptance:
    """Have the ledger accept a job.

    undo: removes what was stored for the job; emptied when that is the job's, or may be, since a ledger that went away
    gave no answer. webhooks: the receivers that the service knows. Raises as `JobLedger.submit`.
    """
    announced = announces(submission.spec, submission.tenant, webhooks)
    submission = replace(submission, announces=announced)
    try:
        accepted = ledger.jobs.submit(
            submission, max_live_jobs=settings.max_live_jobs, max_tenant_jobs=settings.max_live_jobs_per_tenant
        )
    except OutcomeUnknown:
        undo.pop_all()
        raise
    if accepted.is_new:
        undo.pop_all()
    return accepted


def tenant_key(tenant: str, idempotency_key: str | None) -> str | None:
    """The ledger's name for a tenant's idempotency key: tenants choose their keys without knowing of each other."""
    return None if idempotency_key is None else f"{tenant}:{idempotency_key}"
