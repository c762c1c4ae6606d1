"""The batches of all tenants: created, listed, cancelled. The leader's `BatchKeeper` does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.durations import seconds_in
from batchmill.errors import Conflict, InvalidRequest, NotFound
from batchmill.jobs.ids import new_id
from batchmill.ledger.documents import UNLIMITED, Quota
from batchmill_coordinator.batches.record import Batch, BatchRecord, BatchStatus
from batchmill_coordinator.endpoints.known import ENDPOINTS, endpoint_of
from batchmill_coordinator.endpoints.operators import PREFIX

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.documents import Document
    from batchmill_coordinator.batches.files import Viewer

MAX_BATCHES_PER_TENANT = 10_000
"""Those that have ended count until they are forgotten."""

MIN_WINDOW_S, MAX_WINDOW_S = 1.0, 30 * 24 * 3600.0
_FINAL_FOR_CANCEL = (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED)


class Batches:
    """Creates and shows batches. One that who asks may not see is `NotFound`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._quota = Quota(MAX_BATCHES_PER_TENANT, UNLIMITED)

    def create(
        self,
        tenant: str,
        *,
        endpoint: str,
        input_file_id: str,
        completion_window: str,
        metadata: dict[str, str] | None,
        output_ttl_s: int | None,
    ) -> Batch:
        """Create a batch, whose file is looked at later. Raises `InvalidRequest`, `Overloaded`."""
        if endpoint_of(endpoint) is None:
            known = ", ".join([*ENDPOINTS, f"{PREFIX}NAME"])
            raise InvalidRequest(f"Invalid endpoint: {endpoint[:128]}. Supported values: {known}.", field="endpoint")
        window_s = seconds_in(completion_window)
        if window_s is None or not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S:
            raise InvalidRequest(
                f"Invalid completion_window: {completion_window[:80]!r}. Expected 24h, or another time of up to 30d.",
                field="completion_window",
            )
        now_ms = self._ledger.now_ms()
        batch = Batch(
            id=new_id("batch").replace("-", "_"),
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=completion_window,
            status=BatchStatus.VALIDATING,
            created_at=now_ms // 1000,
            expires_at=now_ms // 1000 + int(window_s),
            metadata=metadata,
        )
        record = BatchRecord(batch=batch, output_ttl_s=output_ttl_s, output_id=new_id("file"), error_id=new_id("file"))
        self._ledger.batches.add(batch.id, tenant, record.model_dump_json(), due_ms=now_ms, quota=self._quota)
        return batch

    def find(self, batch_id: str, access: Viewer) -> Batch:
        """Return a batch. Raises `NotFound`."""
        return self._shown([self._document(batch_id, access)])[0]

    def page(self, tenant: str, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """Return at most `limit` batches behind `after`, the newest first, and whether there are more."""
        page, more = self._ledger.batches.page(tenant, limit, after)
        return self._shown(page), more

    def cancel(self, batch_id: str, access: Viewer) -> Batch:
        """Ask a batch to stop; what is done is kept. Raises `NotFound`, `Conflict` for one that has ended."""
        while True:
            document = self._document(batch_id, access)
            record = read_record(document)
            batch = record.batch
            if batch.status in _FINAL_FOR_CANCEL:
                raise Conflict(f"Cannot cancel a batch with status '{batch.status}'.", batch=batch_id)
            if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return self._shown([document])[0]
            now_ms = self._ledger.now_ms()
            changed = record.model_copy(update={"batch": batch.moved(BatchStatus.CANCELLING, now_ms // 1000)})
            if self._ledger.batches.change(document, changed.model_dump_json(), due_ms=now_ms):
                return self.find(batch_id, access)

    def _document(self, batch_id: str, access: Viewer) -> Document:
        found = self._ledger.batches.find(batch_id)
        if found is None or not access.may_see(found.tenant):
            raise NotFound(f"No batch found with id '{batch_id[:128]}'.", field="batch_id")
        return found

    def _shown(self, documents: list[Document]) -> list[Batch]:
        """Return batches, those that run with the counts of their jobs."""
        records = [read_record(document) for document in documents]
        running = [one.batch.job for one in records if one.batch.job and not one.batch.status.is_final]
        jobs = {job.id: job for job in self._ledger.jobs.read_many(running)} if running else {}
        return [_with_counts(record, jobs.get(record.batch.job or "")) for record in records]


def _with_counts(record: BatchRecord, job: JobRecord | None) -> Batch:
    """Count requests by the rows of the job; of requests with several rows, as if all had as many."""
    batch = record.batch
    if job is None or batch.status.is_final or not record.rows:
        return batch
    total = batch.request_counts.total
    done, dead = (rows * total // record.rows for rows in (job.last.rows_done, job.rows_dead))
    counts = batch.request_counts.model_copy(update={"completed": done, "failed": dead})
    return batch.model_copy(update={"request_counts": counts})


def read_record(document: Document) -> BatchRecord:
    """Read a batch as it is stored."""
    return BatchRecord.model_validate_json(document.body)
