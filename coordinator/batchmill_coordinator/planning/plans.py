"""The plans of all tenants: asked for, listed, submitted. The leader's `PlanKeeper` makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.durations import EXAMPLES
from batchmill.errors import Conflict, InvalidRequest, NotFound
from batchmill.insights.plans import Plan, PlanState
from batchmill.jobs.files import FileSource, ResultsSource, UploadSource, upload_part
from batchmill.jobs.ids import new_id
from batchmill.jobs.streams.source import StreamSource
from batchmill.ledger.documents import UNLIMITED, Quota
from batchmill.ledger.formats.documents import write_document
from batchmill.wording import count, duration
from batchmill.workspace import table_from_stream
from batchmill_coordinator.inspection.arrow_bounds import arrow_limits
from batchmill_coordinator.inspection.request_rows import check_shape, table_from_json
from batchmill_coordinator.planning.record import PlanRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from batchmill.jobs.job import JobRequest
    from batchmill.ledger import Ledger
    from batchmill.ledger.documents import Document
    from batchmill.ledger.submission import Acceptance
    from batchmill.settings import CoordinatorSettings
    from batchmill.workspace import Workspace
    from batchmill_coordinator.admission.admission import Admission
    from batchmill_coordinator.admission.uploads import Uploads
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.inspection.inspector import Inspector

    class Viewer(Protocol):
        """Who asks for a plan."""

        @property
        def tenant(self) -> str:
            """Whose token it is."""
            ...

        def may_see(self, tenant: str) -> bool:
            """Whether what belongs to a tenant exists for them."""
            ...


MAX_PLANS_PER_TENANT = 1_000
"""Those that were made count until they are forgotten."""


class Plans:
    """Takes requests for plans, and submits jobs from plans. A plan that who asks may not see is `NotFound`.

    submit: submits a job of a tenant.
    """

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        workspace: Workspace,
        admission: Admission,
        uploads: Uploads,
        inspector: Inspector,
        settings: CoordinatorSettings,
        submit: Callable[[JobRequest, str], Acceptance],
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._workspace = workspace
        self._admission = admission
        self._uploads = uploads
        self._inspector = inspector
        self._limits = arrow_limits(settings)
        self._submit = submit
        self._quota = Quota(MAX_PLANS_PER_TENANT, UNLIMITED)

    def create(self, request: JobRequest, tenant: str) -> Plan:
        """Ask for the plan of a job. Raises a subclass of `InvalidRequest`, or `Overloaded`."""
        self._ledger.plans.require_room(tenant, self._quota)
        stored = self._checked(request, tenant).model_copy(update={"idempotency_key": None})
        now_ms = self._ledger.now_ms()
        title = " → ".join(stage.title for stage in request.stage_specs())
        plan = Plan(id=new_id("plan"), state=PlanState.SAMPLING, title=title, created_at=now_ms / 1000)
        body = write_document(PlanRecord(plan=plan, request=stored), "the plan")
        self._ledger.plans.add(plan.id, tenant, body, due_ms=now_ms, quota=self._quota)
        return plan

    def find(self, plan_id: str, access: Viewer) -> Plan:
        """Return a plan. Raises `NotFound`."""
        return read_record(self._document(plan_id, access)).plan

    def page(self, tenant: str, limit: int, after: str | None) -> tuple[list[Plan], bool]:
        """Return at most `limit` plans of a tenant behind `after`, the newest first, and whether there are more."""
        found, more = self._ledger.plans.page(tenant, limit, after)
        return [read_record(document).plan for document in found], more

    def submit(self, plan_id: str, access: Viewer) -> tuple[str, bool]:
        """Submit the job of a plan; return its id, and whether it is new.

        Raises `NotFound`, `Conflict` for a plan that is not ready, `InvalidRequest` if the plan says that the deadline
        cannot be held, and what submitting a job raises.
        """
        document = self._document(plan_id, access)
        record = read_record(document)
        plan = record.plan
        if plan.job is not None:
            return plan.job, False
        if plan.state is not PlanState.READY:
            raise Conflict(f"nothing can be submitted from the plan {plan_id}: it is {plan.state}.", plan=plan_id)
        self._require_possible(record)
        request = record.request.model_copy(update={"idempotency_key": plan.id})
        accepted = self._submit(request, document.tenant)
        while not self._note(document, accepted.job_id):
            document = self._document(plan_id, access)
        return accepted.job_id, accepted.is_new

    def _note(self, document: Document, job_id: str) -> bool:
        record = read_record(document)
        if record.plan.job is not None:
            return True
        workers = max(workers_of(record, self._fleet), 1)
        changed = record.model_copy(
            update={"plan": record.plan.model_copy(update={"job": job_id}), "submitted_workers": workers}
        )
        now_ms = self._ledger.now_ms()
        return self._ledger.plans.change(document, changed.model_dump_json(), due_ms=now_ms)

    def _require_possible(self, record: PlanRecord) -> None:
        """Raise `InvalidRequest` if even the lower end of the interval is behind the deadline."""
        left_s = seconds_left(record.request, self._ledger.now_ms() / 1000)
        workers = workers_of(record, self._fleet)
        if left_s is None or workers == 0:
            return
        takes = record.plan.seconds_with(workers)
        if takes.low <= left_s:
            return
        enough = record.plan.workers_within(left_s)
        hint = (
            f"Have {count(enough, 'worker')} in each pool, or give" if enough else "More workers are not enough: give"
        )
        raise InvalidRequest(
            f"the deadline leaves {duration(left_s)}, and by the plan {record.plan.id} the job takes "
            f"{duration(takes.low)} to {duration(takes.high)} with {count(workers, 'worker')}.",
            hint=f"{hint} a deadline of {duration(takes.high)} or more (as in {EXAMPLES}).",
            field="deadline",
            workers=enough,
            seconds=round(takes.high, 1),
        )

    def _checked(self, request: JobRequest, tenant: str) -> JobRequest:
        """Check a request as far as is possible without running it, and move its rows into an upload."""
        undated = request.model_copy(update={"deadline": None})  # it begins when the job is submitted
        if isinstance(request.source, StreamSource):
            raise InvalidRequest("a job over a stream has no end, so that it cannot be planned.", field="source")
        if isinstance(request.source, ResultsSource):
            raise InvalidRequest("a job over the results of another one cannot be planned.", field="source")
        if request.source is not None and (request.rows is not None or request.rows_arrow is not None):
            raise InvalidRequest("expected either rows or a source, got both.", field="source")
        if isinstance(request.source, FileSource):
            self._admission.check(undated, tenant)
            return request
        self._admission.check_spec(undated.spec())
        if isinstance(request.source, UploadSource):
            self._uploads.require(request.source.upload, tenant)
            return request
        return self._with_upload(request, tenant)

    def _with_upload(self, request: JobRequest, tenant: str) -> JobRequest:
        if request.rows is not None:
            check_shape(request.rows, self._limits)
            table = table_from_json(request.rows, self._limits)
        elif request.rows_arrow is not None:
            table = table_from_stream(self._inspector.read_rows(request.rows_arrow))
        else:
            raise InvalidRequest("expected either rows or a source, got neither.", hint="Give `rows` or `source`.")
        upload_id = self._uploads.begin(tenant)
        try:
            self._workspace.blobs.put_table(upload_part(upload_id, 0), table)
        except BaseException:
            self._uploads.drop(upload_id, tenant)
            raise
        source = UploadSource(upload=upload_id, parts=1)
        return request.model_copy(update={"source": source, "rows": None, "rows_arrow": None})

    def _document(self, plan_id: str, access: Viewer) -> Document:
        found = self._ledger.plans.find(plan_id)
        if found is None or not access.may_see(found.tenant):
            raise NotFound(f"there is no plan {plan_id[:128]!r}.", hint="`batchmill plans` lists the plans.")
        return found


def workers_of(record: PlanRecord, fleet: FleetView) -> int:
    """Return how many workers run in the smallest pool of a job."""
    pools = fleet.pools()
    names = {stage.pool for stage in record.request.stage_specs()}
    return min((pools[name].workers if name in pools else 0) for name in names)


def seconds_left(request: JobRequest, now_s: float) -> float | None:
    """Return the seconds until the deadline of a job that is submitted now; None if it has none."""
    if request.deadline is not None:
        return request.deadline
    return None if request.deadline_at is None else request.deadline_at - now_s
