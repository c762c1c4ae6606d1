"""The workers as one tenant sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.sink import RESERVED_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.fleet import WorkerInfo
    from batchmill.ledger import Ledger


def shown_workers(ledger: Ledger, may_see: Callable[[str], bool]) -> list[WorkerInfo]:
    """Return the workers that are present, each with the attempts that it runs of jobs of tenants that one may see.

    Operators that only the service itself uses are left out.
    """
    found = ledger.fleet.workers(ledger.now_ms())
    job_ids = {_job_of(attempt) for worker in found for attempt in worker.running}
    mine = {record.id for record in ledger.jobs.read_many(sorted(job_ids)) if may_see(record.tenant)} if job_ids else ()
    return [
        worker.model_copy(
            update={
                "running": [attempt for attempt in worker.running if _job_of(attempt) in mine],
                "operators": [name for name in worker.operators if _is_shown(name)],
                "revisions": {name: one for name, one in worker.revisions.items() if _is_shown(name)},
                "batches": [one for one in worker.batches if _is_shown(one.operator)],
            }
        )
        for worker in found
    ]


def _is_shown(operator: str) -> bool:
    return not operator.startswith(RESERVED_OPERATORS)


def _job_of(attempt: str) -> str:
    return attempt.split("|")[0]
