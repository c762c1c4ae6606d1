"""The batch keeper: takes batches of the OpenAI-compatible API from one state to the next. A batch is a job.

1. `validating`: an inspector reads the lines of the file into the rows of an upload. If one is bad, the batch is
   `failed`. Otherwise the rows are submitted as a job, under the batch's id as its idempotency key: a coordinator that
   dies in between leaves one job, which the next coordinator finds.
2. `in_progress`: the job is checked from time to time. `cancelling`: it is stopped.
3. When the job has ended, the batch is `finalizing` (a cancelled one stays `cancelling`), its files are written, and
   then it takes the state of its job. The files have ids that were chosen when the batch was created, and are written
   before the state says so: each line is in one of them, once, however often this is tried.
4. What could not be done for a batch is tried again later; the others continue. A batch that ended long ago is removed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidRequest, NotFound
from batchmill.jobs.files import UploadSource
from batchmill.jobs.job import JobRequest, JobState
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.storage.served_models import ServedModel
from batchmill_coordinator.admission.acceptance import tenant_key
from batchmill_coordinator.batches.batches import read_record
from batchmill_coordinator.batches.files import content_name
from batchmill_coordinator.batches.record import BatchError, BatchErrors, BatchStatus, RequestCounts
from batchmill_coordinator.endpoints.known import endpoint_of, served_params
from batchmill_coordinator.endpoints.operators import PREFIX
from batchmill_coordinator.inspection.batch_lines import INPUT, LINE
from batchmill_coordinator.roles.job_guard import apart

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.documents import Document
    from batchmill.storage.served_models import ModelKind, ServedModels
    from batchmill_coordinator.admission.uploads import Uploads
    from batchmill_coordinator.batches.output import BatchWriter
    from batchmill_coordinator.batches.record import BatchRecord
    from batchmill_coordinator.endpoints.base import Endpoint
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.inspection.batch_lines import LineFault
    from batchmill_coordinator.inspection.inspector import Inspector
    from batchmill_coordinator.roles.clock_guard import ClockGuard

log = logging.getLogger(__name__)

MAX_BATCHES = 64  # in a step
LOOK_MS = 500  # between two looks at a job, and after a failure
NEVER_MS = 2**52

ENDS = {
    JobState.COMPLETED: BatchStatus.COMPLETED,
    JobState.FAILED: BatchStatus.FAILED,
    JobState.EXPIRED: BatchStatus.EXPIRED,
    JobState.CANCELLED: BatchStatus.CANCELLED,
}


class BatchKeeper:
    """Runs batches as jobs, and writes their files.

    submit: submits a job of a tenant, and returns its id. ttl_s: how long a batch that ended is kept; 0: forever.
    """

    name = "batch-keeper"
    wakes_on = frozenset({"batch", "finished", "ended"})
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        inspector: Inspector,
        uploads: Uploads,
        served: ServedModels,
        writer: BatchWriter,
        submit: Callable[[JobRequest, str], str],
        clocks: ClockGuard,
        ttl_s: float,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._inspector = inspector
        self._uploads = uploads
        self._served = served
        self._writer = writer
        self._submit = submit
        self._clocks = clocks
        self._ttl_ms = int(ttl_s * 1000)

    def step(self, epoch: int) -> None:
        """Take every batch that is due as far as it comes."""
        now_ms = self._ledger.now_ms()
        due = self._ledger.batches.due(now_ms, MAX_BATCHES)
        self._ledger.batches.defer([document.id for document in due], now_ms + LOOK_MS)
        for document in due:
            with apart(f"the batch {document.id}"):
                self._advance(document, epoch)

    def _advance(self, document: Document, epoch: int) -> None:
        following: Document | None = document
        while following is not None:
            document = following
            following = self._next(document, read_record(document), epoch)

    def _next(self, document: Document, record: BatchRecord, epoch: int) -> Document | None:
        """Take one step with a batch. Returns what it is then; None: nothing more can be done now."""
        batch = record.batch
        if batch.status.is_final:
            if self._clocks.is_trusted():
                self._ledger.batches.remove(document.id, document.tenant)
            return None
        if batch.job is not None:
            return self._follow(document, record, epoch)
        if batch.status is BatchStatus.CANCELLING:
            return self._adopt_or_end(document, record, BatchStatus.CANCELLED, epoch)
        if self._ledger.now_ms() >= batch.expires_at * 1000:
            return self._adopt_or_end(document, record, BatchStatus.EXPIRED, epoch)
        try:
            if record.upload is None:
                return self._validate(document, record, epoch)
            return self._begin(document, record, epoch)
        except InvalidRequest as error:
            fault = BatchError(code=error.code, message=str(error), param=error.details.get("field"))
            return self._fail(document, record, [fault], epoch)

    def _change(self, document: Document, record: BatchRecord, epoch: int, due_ms: int = 0) -> Document | None:
        body = record.model_dump_json()
        if self._ledger.batches.change(document, body, due_ms=due_ms, epoch=epoch):
            return replace(document, body=body, revision=document.revision + 1)
        return None  # a user has changed it meanwhile, or another coordinator leads

    def _validate(self, document: Document, record: BatchRecord, epoch: int) -> Document | None:
        """Read the lines of the file into the rows of an upload."""
        batch, tenant = record.batch, document.tenant
        file = self._ledger.files.find(batch.input_file_id)
        if file is None or file.tenant != tenant:
            return self._fail(document, record, [_no_file(batch.input_file_id, tenant)], epoch)
        upload = self._uploads.begin(tenant)
        try:
            found = self._inspector.read_batch(content_name(file.id), upload, batch.endpoint, self._served.models)
        except BaseException as error:
            self._uploads.drop(upload, tenant)
            if isinstance(error, NotFound):
                return self._fail(document, record, [_no_file(batch.input_file_id, tenant)], epoch)
            raise
        if found.faults:
            self._uploads.drop(upload, tenant)
            return self._fail(document, record, [_shown(fault) for fault in found.faults], epoch)
        counts = RequestCounts(total=found.lines)
        read = batch.model_copy(update={"model": found.model, "request_counts": counts})
        changes = {"batch": read, "upload": upload, "parts": found.parts, "rows": found.rows, "params": found.params}
        changed = self._change(document, record.model_copy(update=changes), epoch)
        if changed is None:
            self._uploads.drop(upload, tenant)
        return changed

    def _begin(self, document: Document, record: BatchRecord, epoch: int) -> Document | None:
        """Submit the job, unless it is submitted already."""
        job_id = self._submit(self._request(record), document.tenant)
        batch = record.batch.moved(BatchStatus.IN_PROGRESS, self._now_s(), job=job_id)
        log.info("batch %s of %d requests runs as job %s", batch.id, batch.request_counts.total, job_id)
        return self._change(document, record.model_copy(update={"batch": batch}), epoch)

    def _request(self, record: BatchRecord) -> JobRequest:
        batch = record.batch
        endpoint = _endpoint(record)
        if endpoint.kind is None:
            name = batch.endpoint.removeprefix(PREFIX)
            model = self._served.get(name) or ServedModel(operator=name)
        else:
            found = self._served.find(batch.model or "")
            if found is None:
                raise InvalidRequest(f"The model {batch.model!r} is not served any more.", field="model")
            model = found
        return JobRequest(
            operator=model.operator,
            params=self._params(model, endpoint.kind, record.params),
            pool=model.pool,
            source=UploadSource(upload=record.upload or "", parts=record.parts),
            carry=None if endpoint.kind is None else [LINE, INPUT],
            name=batch.id,
            deadline_at=float(batch.expires_at),
            idempotency_key=batch.id,
        )

    def _params(self, model: ServedModel, kind: ModelKind | None, given: dict[str, Any]) -> dict[str, Any]:
        operator, params = self._fleet.operator(model.operator), {**model.params, **given}
        return params if operator is None else served_params(operator, kind, params)  # without one it is refused

    def _adopt_or_end(
        self, document: Document, record: BatchRecord, status: BatchStatus, epoch: int
    ) -> Document | None:
        """Continue with a job that was submitted and not noted; without one, end the batch."""
        known = self._ledger.jobs.known_under(tenant_key(document.tenant, record.batch.id) or "")
        if known is not None:
            batch = record.batch.model_copy(update={"job": known.job_id})
            return self._change(document, record.model_copy(update={"batch": batch}), epoch)
        return self._end(document, record, status, epoch)

    def _follow(self, document: Document, record: BatchRecord, epoch: int) -> Document | None:
        """Look at the job; once it has ended, write the files."""
        batch = record.batch
        try:
            job = self._ledger.jobs.find(batch.job or "")
        except NotFound:
            lost = BatchError(code="job_deleted", message=f"The job {batch.job} of the batch was deleted.")
            return self._fail(document, record, [lost], epoch)
        if not job.state.is_final:
            if batch.status is BatchStatus.CANCELLING and not job.state.is_stopping:
                self._ledger.jobs.stop(job.id, JobState.CANCELLING, None)
            return None
        if isinstance(job, UnreadableJob):
            raise job.error()
        if batch.status is BatchStatus.IN_PROGRESS:
            moved = batch.moved(BatchStatus.FINALIZING, self._now_s())
            return self._change(document, record.model_copy(update={"batch": moved}), epoch)
        return self._finish(document, record, job, epoch)

    def _finish(self, document: Document, record: BatchRecord, job: JobRecord, epoch: int) -> Document | None:
        written = self._writer.write(record, document.tenant, job)
        is_cancelled = record.batch.status is BatchStatus.CANCELLING
        status = BatchStatus.CANCELLED if is_cancelled else ENDS[job.state]
        errors = None
        if status is BatchStatus.FAILED and job.error is not None:
            errors = BatchErrors(data=[BatchError(code=job.error.code, message=job.error.message)])
        return self._end(
            document,
            record,
            status,
            epoch,
            errors=errors,
            request_counts=written.counts,
            usage=written.usage,
            output_file_id=written.output_file_id,
            error_file_id=written.error_file_id,
        )

    def _fail(self, document: Document, record: BatchRecord, errors: list[BatchError], epoch: int) -> Document | None:
        return self._end(document, record, BatchStatus.FAILED, epoch, errors=BatchErrors(data=errors))

    def _end(
        self, document: Document, record: BatchRecord, status: BatchStatus, epoch: int, **changes: Any
    ) -> Document | None:
        batch = record.batch.moved(status, self._now_s(), **changes)
        due_ms = self._ledger.now_ms() + self._ttl_ms if self._ttl_ms else NEVER_MS
        if self._change(document, record.model_copy(update={"batch": batch}), epoch, due_ms) is None:
            return None
        log.info("batch %s is %s: %d of %d requests are answered", batch.id, status, *_counts(batch.request_counts))
        if record.upload is not None and batch.job is None:
            self._uploads.drop(record.upload, document.tenant)
        return None

    def _now_s(self) -> int:
        return self._ledger.now_ms() // 1000


def _endpoint(record: BatchRecord) -> Endpoint:
    endpoint = endpoint_of(record.batch.endpoint)
    if endpoint is None:
        raise InvalidRequest(f"Invalid endpoint: {record.batch.endpoint}.", field="endpoint")
    return endpoint


def _counts(counts: RequestCounts) -> tuple[int, int]:
    return counts.completed, counts.total


def _no_file(file_id: str, tenant: str) -> BatchError:
    message = f"Cannot find file {file_id[:128]}, or organization {tenant} does not have access to it."
    return BatchError(code="invalid_request", message=message, param="file_id")


def _shown(fault: LineFault) -> BatchError:
    return BatchError(code=fault.code, message=fault.message, param=fault.param, line=fault.line)
