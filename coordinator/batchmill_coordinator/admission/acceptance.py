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


class KeyTurns:
    """Lets this process accept one request at a time under an idempotency key.

    A repetition that arrives meanwhile would be refused, as the job has taken the output or the upload of both. It does
    not wait either: it would occupy a thread that the requests of others need. Thread-safe.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, key: str | None) -> Iterator[None]:
        """Hold the turn of a key while the context lasts. Raises `Overloaded` if another request has it."""
        if key is None:
            yield
            return
        with self._lock:
            if key in self._taken:
                raise Overloaded(
                    "another request with this idempotency key is being accepted.",
                    hint="Send it again in a moment: if that one is accepted, you get its job.",
                )
            self._taken.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._taken.remove(key)


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
