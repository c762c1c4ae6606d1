"""The plan keeper: makes the plans that tenants ask for, and sees what their jobs took in the end.

1. `sampling`: an inspector reads a sample of the source into an upload, in a thread of its own, so that a slow source
   delays no other plan; it takes at most half of the inspectors that plan the sources of jobs. Tenants take turns, so
   that one with many plans holds up no other. Rounds of the sample run as jobs of their own, one after the other, each
   without an output, and deleted as soon as they are measured. A round is submitted under the plan's id and its number
   as idempotency key: a coordinator that dies in between leaves one job, which the next one finds.
2. After the last round the plan is `ready`: all that it says follows from the rounds, by `planning.arithmetic`. Where
   the sample cannot be read or run, or a round cannot be submitted for `MAX_SAMPLING_MS`, it is `failed`, with the
   reason.
3. A plan whose job was submitted is looked at until the job has ended; what that took is kept with it, for the
   intervals of later plans.
4. Plans are forgotten when they are old.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

from batchmill.errors import (
    BatchmillError,
    Conflict,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceUnavailable,
    StorageError,
)
from batchmill.insights.plans import PlanOutcome, PlanState
from batchmill.jobs.files import FileSource, UploadSource, upload_part
from batchmill.jobs.job import JobError, JobState
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.telemetry.log_context import about
from batchmill_coordinator.planning.arithmetic import next_rows
from batchmill_coordinator.planning.making import PlanMaker
from batchmill_coordinator.planning.record import Round, read_record
from batchmill_coordinator.roles.job_guard import apart, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.jobs.job import JobRequest
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.documents import Document
    from batchmill.workspace import Workspace
    from batchmill_coordinator.admission.uploads import Uploads
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.inspection.inspector import Inspector
    from batchmill_coordinator.planning.record import PlanRecord
    from batchmill_coordinator.roles.clock_guard import ClockGuard

log = logging.getLogger(__name__)

MAX_PLANS = 32  # in a step
LOOK_MS = 500  # between two looks at a job, and after a failure
WAITING_LOOK_MS = 30_000  # at a plan that waits for its turn: many must not delay looks at the jobs of others
MAX_SAMPLING_MS = 15 * 60 * 1000
KEPT_MS = 30 * 24 * 3600 * 1000


class PlanKeeper:
    """Makes plans. submit: submits a job of a tenant, and returns its id. delete: deletes an ended job.

    samples_at_once: sources of which a sample is read at a time.
    """

    name = "plan-keeper"
    wakes_on = frozenset({"plan", "finished", "ended"})
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        workspace: Workspace,
        inspector: Inspector,
        uploads: Uploads,
        currency: str,
        shard_target_s: float,
        submit: Callable[[JobRequest, str], str],
        delete: Callable[[str], None],
        clocks: ClockGuard,
        samples_at_once: int = 1,
    ) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._inspector = inspector
        self._uploads = uploads
        self._maker = PlanMaker(ledger, fleet, currency, shard_target_s)
        self._submit = submit
        self._delete = delete
        self._clocks = clocks
        self._samples_at_once = samples_at_once
        self._sampling: dict[str, Thread] = {}
        self._waiting: dict[str, dict[str, None]] = {}  # plans whose sample is to be read, by tenant in turn

    def step(self, epoch: int) -> None:
        """Take every plan that is due as far as it comes."""
        now_ms = self._ledger.now_ms()
        due = self._ledger.plans.due(now_ms, MAX_PLANS)
        self._ledger.plans.defer([document.id for document in due], now_ms + LOOK_MS)
        self._sampling = {plan: thread for plan, thread in self._sampling.items() if thread.is_alive()}
        waiting = []
        for document in due:
            if document.id in self._sampling:
                continue
            with apart(f"the plan {document.id}"):
                if _has_to_read(read_record(document)):
                    self._waiting.setdefault(document.tenant, {})[document.id] = None
                    waiting.append(document.id)
                else:
                    self._advance(document, epoch)
        self._ledger.plans.defer(waiting, now_ms + WAITING_LOOK_MS)
        while self._waiting and len(self._sampling) < self._samples_at_once:
            plan_id = self._next_waiting()
            with apart(f"the plan {plan_id}"):
                found = self._ledger.plans.find(plan_id)
                if found is not None and _has_to_read(read_record(found)) and plan_id not in self._sampling:
                    self._ledger.plans.defer([plan_id], now_ms + LOOK_MS)
                    self._sampling[plan_id] = self._start(found, epoch)

    def _next_waiting(self) -> str:
        """Take the oldest plan of the tenant whose turn it is."""
        tenant = next(iter(self._waiting))
        plans = self._waiting.pop(tenant)
        plan_id = next(iter(plans))
        del plans[plan_id]
        if plans:
            self._waiting[tenant] = plans
        return plan_id

    def _start(self, document: Document, epoch: int) -> Thread:
        """Read the sample of a plan in a thread, which ends with the process even if the source never answers."""

        def run() -> None:
            with about(role=self.name), apart(f"the plan {document.id}"):
                try:
                    self._advance(document, epoch)
                except ServiceUnavailable as error:
                    log.warning("the plan %s has to wait: %s", document.id, reason_of(error))

        thread = Thread(target=run, name=f"{self.name} {document.id}", daemon=True)
        thread.start()
        return thread

    def _advance(self, document: Document, epoch: int) -> None:
        following: Document | None = document
        while following is not None:
            following = self._next(following, read_record(following), epoch)

    def _next(self, document: Document, record: PlanRecord, epoch: int) -> Document | None:
        """Take one step with a plan. Returns what it is then; None: nothing more can be done now."""
        plan = record.plan
        if plan.state is PlanState.SAMPLING:
            try:
                return self._sample(document, record, epoch)
            except (InvalidRequest, NotFound, StorageError) as error:
                return self._fail(document, record, error, epoch)
            except (Conflict, Overloaded) as error:  # of a limit, which may have room again
                if self._ledger.now_ms() - document.created_at < MAX_SAMPLING_MS:
                    raise
                return self._fail(document, record, error, epoch)
        if self._ledger.now_ms() - document.created_at >= KEPT_MS and self._clocks.is_trusted():
            self._ledger.plans.remove(document.id, document.tenant)
            return None
        if plan.job is not None and plan.outcome is None:
            return self._look_at(document, record, plan.job, epoch)
        self._ledger.plans.defer([document.id], document.created_at + KEPT_MS)
        return None

    def _sample(self, document: Document, record: PlanRecord, epoch: int) -> Document | None:
        if record.upload is None:
            return self._read(document, record, epoch)
        if record.job is not None:
            return self._follow(document, record, record.job, epoch)
        rows = next_rows(record.rounds, record.kept, record.taken, record.plan.rows)
        if rows:
            return self._begin(document, record, rows, epoch)
        made = self._maker.make(record, document.tenant)
        self._uploads.drop(record.upload, document.tenant)
        return self._change(document, record, epoch, plan=made)

    def _read(self, document: Document, record: PlanRecord, epoch: int) -> Document | None:
        """Read the sample of the source."""
        source, tenant = record.request.source, document.tenant
        if isinstance(source, FileSource):
            description = self._inspector.describe(source)
        elif isinstance(source, UploadSource):
            self._uploads.require(source.upload, tenant)
            description = self._inspector.describe_upload(source)
        else:
            raise InvalidRequest("the plan has no source.")
        upload = self._uploads.begin(tenant)
        try:
            found = self._inspector.sample(description, upload)
            if not found.kept:
                raise InvalidRequest("the source has no rows that can be read.", field="source")
        except BaseException:
            self._uploads.drop(upload, tenant)
            raise
        notes = [] if found.is_complete else ["The source is so large that the sample is only of its beginning."]
        plan = record.plan.model_copy(update={"rows": found.rows, "rows_are_exact": found.is_exact, "notes": notes})
        facts = {"kept": found.kept, "read": found.read, "unreadable": found.unreadable, "alike": found.alike}
        return self._change(document, record, epoch, plan=plan, upload=upload, **facts)

    def _begin(self, document: Document, record: PlanRecord, rows: int, epoch: int) -> Document | None:
        """Submit the next round, unless it is submitted already."""
        blobs, tenant = self._workspace.blobs, document.tenant
        sample = blobs.read_table(upload_part(record.upload or "", 0))
        upload = self._uploads.begin(tenant)
        try:
            blobs.put_table(upload_part(upload, 0), sample.slice(record.taken, rows).combine_chunks())
            job_id = self._submit(_round_request(record, upload), tenant)
        except BaseException:
            self._uploads.drop(upload, tenant)
            raise
        return self._change(document, record, epoch, job=job_id, taken=record.taken + rows)

    def _follow(self, document: Document, record: PlanRecord, job_id: str, epoch: int) -> Document | None:
        """Look at the job of a round; measure it when it has ended."""
        job = self._ledger.jobs.find(job_id)
        if isinstance(job, UnreadableJob):
            raise job.error()
        if not job.state.is_final:
            if self._ledger.now_ms() - document.created_at < MAX_SAMPLING_MS:
                return None
            self._ledger.jobs.stop(job_id, JobState.CANCELLING, None)
            raise InvalidRequest(
                "the sample was not done within 15 minutes.", hint="See `batchmill workers`; more may be needed."
            )
        if job.state is not JobState.COMPLETED:
            reason = job.error.message if job.error else f"it was {job.state}"
            raise InvalidRequest(f"the sample could not be run: {reason}", **(job.error.details if job.error else {}))
        measured = Round.of(job, self._ledger.jobs.dead_counts(job_id))
        changed = self._change(document, record, epoch, job=None, rounds=(*record.rounds, measured))
        with suppress(BatchmillError):  # it is deleted with the others, later
            self._delete(job_id)
        return changed

    def _look_at(self, document: Document, record: PlanRecord, job_id: str, epoch: int) -> Document | None:
        """Look at the job that was submitted from a plan; keep what it took when it has completed."""
        try:
            job = self._ledger.jobs.find(job_id)
        except NotFound:
            job = None
        if job is not None and not job.state.is_final:
            return None
        outcome = None
        if job is not None and not isinstance(job, UnreadableJob) and job.state is JobState.COMPLETED:
            outcome = _outcome(record, job)
        if outcome is None:  # it has ended otherwise, and says nothing about the plan
            self._ledger.plans.defer([document.id], document.created_at + KEPT_MS)
            return None
        return self._change(document, record, epoch, plan=record.plan.model_copy(update={"outcome": outcome}))

    def _fail(self, document: Document, record: PlanRecord, error: BatchmillError, epoch: int) -> Document | None:
        if record.upload is not None:
            self._uploads.drop(record.upload, document.tenant)
        shown = JobError(code=error.code, message=str(error), details=error.details)
        plan = record.plan.model_copy(update={"state": PlanState.FAILED, "error": shown})
        return self._change(document, record, epoch, plan=plan, job=None)

    def _change(self, document: Document, record: PlanRecord, epoch: int, **changes: Any) -> Document | None:
        body = record.model_copy(update=changes).model_dump_json()
        if self._ledger.plans.change(document, body, due_ms=0, epoch=epoch):
            return replace(document, body=body, revision=document.revision + 1)
        return None  # it was submitted meanwhile, or another coordinator leads


def _has_to_read(record: PlanRecord) -> bool:
    return record.plan.state is PlanState.SAMPLING and record.upload is None


def _round_request(record: PlanRecord, upload: str) -> JobRequest:
    """Return the job of the next round: as that of the plan, without output, limits, webhooks and row cache."""
    request, number = record.request, len(record.rounds)
    plain = {"cache": False, "retry": request.retry.model_copy(update={"max_dead": None})}
    stages = request.stages
    if stages is not None:
        stages = [
            stage.model_copy(
                update={
                    "cache": False,
                    "keep": False,
                    "retry": stage.retry and stage.retry.model_copy(update={"max_dead": None}),
                }
            )
            for stage in stages
        ]
    name = f"{record.plan.id}, round {number + 1}"
    return request.model_copy(
        update={
            **plain,
            "stages": stages,
            "source": UploadSource(upload=upload, parts=1),
            "output": None,
            "sink": None,
            "deadline": None,
            "deadline_at": None,
            "budget": None,
            "webhooks": [],
            "name": name,
            "idempotency_key": f"{record.plan.id}-{number}",
        }
    ).as_undivided()


def _outcome(record: PlanRecord, job: JobRecord) -> PlanOutcome | None:
    """Compare what a job took with its plan; None where too little of it was run to compare."""
    plan = record.plan
    work, cost = plan.work, plan.cost
    if work is None or cost is None or job.resumed_from is not None or any(one.rows_cached for one in job.stages):
        return None
    stages = job.stages[: len(plan.stages)]
    ended, began = job.finished_at or 0, job.started_at or job.created_at
    return PlanOutcome(
        device_s=sum(one.cost.us.total - one.cost.us.load for one in stages) / 1e6,
        planned_device_s=work,
        seconds=max(ended - began - job.paused_ms, 0) / 1000,
        planned_s=plan.seconds_with(max(record.submitted_workers, 1)),
        cost=sum(one.cost.nano.total - one.cost.nano.load for one in stages) / 1e9,
        planned_cost=cost,
    )
