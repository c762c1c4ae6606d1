"""Admission: a request is validated completely, its rows are stored, and only then the ledger accepts the job."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from batchmill.broker import model_queue_of
from batchmill.errors import Conflict, InvalidOutput, InvalidRequest, UnknownOperator, did_you_mean
from batchmill.jobs.files import FileSource, ResultsSource, UploadSource, upload_part
from batchmill.jobs.ids import new_id
from batchmill.jobs.job import MAX_INLINE_BYTES, JobForm, JobRequest, JobSpec, StageSpec
from batchmill.jobs.shard import FIRST_ROWS, Shard, ShardId
from batchmill.jobs.sink import RESERVED_OPERATORS
from batchmill.jobs.stage_cost import first_rows
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.jobs.stateful.window_params import check_window
from batchmill.jobs.stateful.windows import WINDOW_OPERATOR
from batchmill.jobs.status import CheckedJob
from batchmill.ledger.submission import Acceptance, FirstPlace, OneShardPlan, Submission
from batchmill.operators.model_key import model_key
from batchmill.sources import InlineSource, SourceDescription
from batchmill.sources.base import InputSplit
from batchmill.storage.named_webhooks import NamedWebhooks
from batchmill.workspace import stream_from_table, table_from_stream
from batchmill_coordinator.admission.acceptance import KeyTurns, accept, tenant_key
from batchmill_coordinator.admission.column_checks import (
    check_chain,
    check_columns,
    check_output_types,
    param_flag,
    with_gathering,
    without_consumed,
)
from batchmill_coordinator.admission.fusion import as_before, with_fusion
from batchmill_coordinator.admission.kept_results import KeptResults
from batchmill_coordinator.admission.param_checks import check_cache, check_params
from batchmill_coordinator.admission.request_checks import digest_of, refuse_reserved, require_one_input
from batchmill_coordinator.admission.sinks import SinkAdmission
from batchmill_coordinator.admission.streams import StreamAdmission
from batchmill_coordinator.admission.tables import with_pinned_tables
from batchmill_coordinator.admission.uploads import Uploads
from batchmill_coordinator.fleet.pools import EMPTY
from batchmill_coordinator.inspection.arrow_bounds import arrow_limits
from batchmill_coordinator.inspection.request_rows import check_shape, table_from_json
from batchmill_coordinator.results.resuming.resumed_order import Order
from batchmill_coordinator.results.stage_source import StageSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorInfo
    from batchmill.settings import CoordinatorSettings
    from batchmill.sinks import Manifest
    from batchmill.sources.base import Source
    from batchmill.workspace import Workspace
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.inspection.inspector import Inspector
    from batchmill_coordinator.results.resuming.resumption import Resumption

Form = TypeVar("Form", bound=JobForm)


@dataclass(frozen=True, slots=True)
class _Input:
    """The rows of a job: where they are stored, and what the ledger records about them."""

    spec: JobSpec
    source: Source
    nbytes: int
    inline: bytes = b""
    description: SourceDescription | None = None


class Admission:
    """Lets jobs in. A refused request leaves nothing behind, in the ledger or the blob store."""

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        workspace: Workspace,
        resumption: Resumption,
        inspector: Inspector,
        webhooks: NamedWebhooks,
        settings: CoordinatorSettings,
    ) -> None:
        self._inspector = inspector
        self._webhooks = webhooks
        self._resumption = resumption
        self._uploads = Uploads(ledger, workspace, inspector, settings)
        self._ledger = ledger
        self._fleet = fleet
        self._workspace = workspace
        self._settings = settings
        self._limits = arrow_limits(settings)
        self._kept_results = KeptResults(ledger, workspace)
        self._streams = StreamAdmission(ledger, workspace, settings)
        self._turns = KeyTurns()
        self.sinks = SinkAdmission(ledger, workspace, settings)

    def check_spec(self, spec: JobSpec, *, is_internal: bool = False) -> tuple[OperatorInfo, ...]:
        """Check what is known without the rows; return the operator of each stage.

        is_internal: whether the service itself runs the job. Raises a subclass of `InvalidRequest`.
        """
        self._check_deadline(spec)
        if not is_internal:
            refuse_reserved(spec)
        return tuple(self._checked_stage(spec, stage) for stage in spec.stages)

    def _checked_stage(self, spec: JobSpec, stage: StageSpec) -> OperatorInfo:
        if len(spec.computing) < 2:  # then the stage need not be named
            return self._checked_operator(stage)
        try:
            return self._checked_operator(stage, param_flag(stage))
        except InvalidRequest as error:
            raise type(error)(f"stage {stage.title!r}: {error.message}", hint=error.hint, **error.details) from error

    def _checked_operator(self, stage: StageSpec, flag: str = "--param ") -> OperatorInfo:
        operator = self._fleet.operator(stage.operator)
        if operator is None:
            self._fleet.forget()  # a worker may have announced it a moment ago
            operator = self._fleet.operator(stage.operator)
        if operator is None:
            names = (info.name for info in self._fleet.operators())
            known = [name for name in names if not name.startswith(RESERVED_OPERATORS)]
            hint = did_you_mean(stage.operator, known)
            raise UnknownOperator(
                f"no worker has an operator {stage.operator!r}.",
                hint=hint or "No worker has announced any operator yet: start one with `batchmill worker`.",
                operator=stage.operator,
            )
        if stage.operator == WINDOW_OPERATOR:
            check_window(stage.params)
        check_params(operator, stage.params, flag=flag)
        self._workspace.locations.hub_models.check_params(operator.params_schema, stage.params)
        check_cache(operator, cache=stage.cache)
        return operator

    def _check_deadline(self, spec: JobSpec) -> None:
        if spec.deadline_at is None:
            return
        late_s = self._ledger.now_ms() / 1000 - spec.deadline_at
        if late_s >= 0:
            raise InvalidRequest(
                f"the deadline passed {late_s:,.0f} s ago: expected a moment in the future.",
                hint="Give seconds since the epoch, and see whether this machine's clock is right.",
                field="deadline_at",
            )

    def dated(self, form: Form) -> Form:
        """Make the deadline of a request a moment, by the clock that deadlines are judged by."""
        return form if form.deadline is None else form.dated(self._ledger.now_ms() / 1000)

    def admit(self, request: JobRequest, tenant: str, *, is_internal: bool = False) -> Acceptance:
        """Accept a job. Raises a subclass of `InvalidRequest`, or `Conflict`.

        Where the rows are in the request, the ledger says whether it is known as it accepts it: to ask first would be
        another round trip for every small job.

        is_internal: whether the service itself runs it.
        """
        if request.rows is not None:
            check_shape(request.rows, self._limits)
        digest = digest_of(request)
        with self._turns.take(tenant_key(tenant, request.idempotency_key)):
            known = None if request.source is None else self._known(request, digest, tenant)
            if known is not None:
                return Acceptance(known, is_new=False)
            try:
                return self._admit(request, digest, tenant, is_internal=is_internal)
            except (InvalidRequest, Conflict):
                # What has changed since a request was accepted does not concern its repetition, nor does what its job
                # has taken; another coordinator may have accepted it a moment ago.
                known = self._known(request, digest, tenant)
                if known is None:
                    raise
                return Acceptance(known, is_new=False)

    def _admit(self, request: JobRequest, digest: str, tenant: str, *, is_internal: bool) -> Acceptance:
        require_one_input(request)
        request = self.dated(request)
        self._webhooks.check(request.webhooks, tenant)
        operators = self.check_spec(request.spec(), is_internal=is_internal)
        with self.sinks.turn(request.sink), ExitStack() as undo:
            job_id = new_id("job")
            undo.callback(self._workspace.blobs.delete_folder, f"jobs/{job_id}")
            found = self._checked_input(request, operators, job_id, undo, tenant)
            order = Order(found.spec, operators, found.inline, found.description)
            self.sinks.claim(job_id, found.spec, operators, tenant, undo)
            webhooks = NamedWebhooks() if is_internal else self._webhooks  # nobody waits for jobs of the service
            accepted = self._accept(job_id, request, found, order, digest, undo, tenant, webhooks)
            if not accepted.is_new:
                self._known(request, digest, tenant)
        return accepted

    def check(self, request: JobRequest, tenant: str) -> CheckedJob:
        """Check a request over files as `admit` does, and accept nothing. Raises a subclass of `InvalidRequest`."""
        if not isinstance(request.source, FileSource):
            raise InvalidRequest(
                "only a job over files can be checked without submitting it.", hint="Give `source` with a path."
            )
        require_one_input(request)
        request = self.dated(request)
        self._webhooks.check(request.webhooks, tenant)
        operators = self.check_spec(request.spec())
        with ExitStack() as undo:
            job_id = new_id("job")
            undo.callback(self._workspace.blobs.delete_folder, f"jobs/{job_id}")
            self.sinks.check(request.spec(), operators, tenant)
            source = self._checked_input(request, operators, job_id, undo, tenant).source
            total = source.count("")
            columns = {field.name: str(field.type) for field in source.schema}
        return CheckedJob(rows_total=total.rows, rows_total_is_exact=total.exact, columns=columns)

    def _checked_input(
        self, request: JobRequest, operators: Sequence[OperatorInfo], job_id: str, undo: ExitStack, tenant: str
    ) -> _Input:
        hold = partial(self._kept_results.hold_table, job_id=job_id, tenant=tenant, undo=undo)
        spec = with_pinned_tables(with_gathering(request.spec(), operators), operators, self._inspector, hold)
        found = self._find_input(request, spec, job_id, undo, tenant)
        schema = found.source.columns if isinstance(found.source, StageSource) else found.source.schema
        self._limits.check_columns(schema)
        check_columns(operators[0], found.spec.first, schema)
        if found.spec.is_chain:
            check_chain(found.spec, operators, schema)
        found = replace(found, spec=without_consumed(found.spec, operators[0], schema))
        if found.spec.is_chain:
            versions = [operator.version for operator in operators]
            found = replace(found, spec=with_fusion(found.spec, versions, self._ledger.profiles))
        check_output_types(found.spec, schema)
        return found

    def _known(self, request: JobRequest, digest: str, tenant: str) -> str | None:
        """The job that was accepted under the request's key, or None. Raises `Conflict` if it was another request."""
        key = tenant_key(tenant, request.idempotency_key)
        known = self._ledger.jobs.known_under(key) if key is not None else None
        if known is None:
            return None
        job_id, known_digest = known
        if known_digest != digest or not self._same_upload(job_id, request):
            raise Conflict(
                f"the idempotency key was used for job {job_id}, whose request differs from this one.",
                hint="Use a new key for a new request.",
                job=job_id,
            )
        return job_id

    def _same_upload(self, job_id: str, request: JobRequest) -> bool:
        """Whether the rows of a repeated request, under an upload's new name, are the job's own."""
        ours, theirs = request.source, self._ledger.jobs.read(job_id).spec.source
        if not isinstance(ours, UploadSource) or not isinstance(theirs, UploadSource) or ours == theirs:
            return True
        blobs = self._workspace.blobs
        pairs = ((upload_part(ours.upload, n), upload_part(theirs.upload, n)) for n in range(ours.parts))
        return all(blobs.get(one).equals(blobs.get(other)) for one, other in pairs)

    def _find_input(self, request: JobRequest, spec: JobSpec, job_id: str, undo: ExitStack, tenant: str) -> _Input:
        if isinstance(spec.source, FileSource):
            found = self._inspector.describe(spec.source)
            if found.table_version is not None:
                source = spec.source.model_copy(update={"table_version": found.table_version})
                spec = spec.model_copy(update={"source": source})
            return self._open(job_id, spec, found)
        if spec.stream is not None:
            spec, endless = self._streams.open(job_id, spec, spec.stream, tenant)
            return _Input(spec, endless, 0)
        if isinstance(spec.source, UploadSource):
            return self._from_upload(job_id, spec, spec.source, tenant)
        if isinstance(spec.source, ResultsSource):
            kept = self._kept_results.open(job_id, spec, spec.source, tenant, undo)
            return _Input(spec, kept, sum(part.nbytes for part in kept.parts()))
        if request.rows is not None:
            table = table_from_json(request.rows, self._limits)
            stream = stream_from_table(table)
        else:
            stream = self._inspector.read_rows(request.rows_arrow or "")
            table = table_from_stream(stream)
        if len(stream) <= MAX_INLINE_BYTES:
            return _Input(spec, InlineSource(table), len(stream), inline=stream)
        return self._store_rows(job_id, spec, table, undo, tenant)

    def _store_rows(self, job_id: str, spec: JobSpec, table: pa.Table, undo: ExitStack, tenant: str) -> _Input:
        """Store rows of the request that are too many to be kept inline, as an upload of one part."""
        upload_id = self._uploads.begin(tenant)
        undo.callback(self._uploads.drop, upload_id, tenant)
        self._workspace.blobs.put_table(upload_part(upload_id, 0), table)
        source = UploadSource(upload=upload_id, parts=1)
        return self._from_upload(job_id, spec.model_copy(update={"source": source}), source, tenant)

    def _from_upload(self, job_id: str, spec: JobSpec, source: UploadSource, tenant: str) -> _Input:
        self._uploads.require(source.upload, tenant)
        return self._open(job_id, spec, self._inspector.describe_upload(source))

    def _open(self, job_id: str, spec: JobSpec, description: SourceDescription) -> _Input:
        source = self._workspace.open_described(job_id, description)
        return _Input(spec, source, description.nbytes, description=description)

    def _accept(
        self,
        job_id: str,
        request: JobRequest,
        found: _Input,
        order: Order,
        digest: str,
        undo: ExitStack,
        tenant: str,
        webhooks: NamedWebhooks,
    ) -> Acceptance:
        if found.description is not None:
            self._workspace.describe_source(job_id, found.description)
        earlier = self._take_output(job_id, order, undo, tenant)
        if earlier is not None and earlier.rest is not None and earlier.rest.earlier:
            found = replace(found, spec=as_before(found.spec, [work.joins for work in earlier.rest.stages]))
        total = found.source.count("")
        submission = Submission(
            job_id=job_id,
            spec=found.spec,
            digest=digest,
            idempotency_key=tenant_key(tenant, request.idempotency_key),
            inline_rows=found.inline,
            rows_total=total.rows if total.exact else None,
            resumed_from=None if earlier is None else earlier.job,
            operator_versions=tuple(operator.version for operator in order.operators),
            tenant=tenant,
            plan=self._plan(job_id, found, order) if found.inline and earlier is None else None,
            place=self._first_place(found.spec.first, order.operators[0], tenant),
        )
        return accept(self._ledger, submission, undo, self._settings, webhooks)

    def _first_place(self, stage: StageSpec, operator: OperatorInfo, tenant: str) -> FirstPlace | None:
        """Return the queue of the workers that have the model of a stage; None if there are none.

        With fewer shards in flight in the pool than these workers have slots, one of them is free. What a tenant with a
        limit has in flight, or has used of a quota, is counted by the dispatcher alone.
        """
        pool = self._fleet.pools().get(stage.pool, EMPTY)
        is_limited = tenant in self._settings.tenant_max_shards or tenant in self._settings.tenant_max_device_s
        if stage.operator not in pool.operators or is_limited:
            return None
        model = model_key(operator, stage.params)
        slots = pool.slots_with(model)
        return FirstPlace(model_queue_of(stage.pool, model), slots) if slots else None

    def _require_own(self, job_id: str, tenant: str, folder: str) -> None:
        """Raise `InvalidOutput` when an unfinished output is of a job of another tenant."""
        found = self._ledger.jobs.read_many([job_id])
        if any(record.tenant != tenant for record in found):
            raise InvalidOutput(
                f"the output folder {folder} holds an unfinished output of another tenant.",
                hint="Choose another folder.",
                path=folder,
            )

    def _plan(self, job_id: str, found: _Input, order: Order) -> OneShardPlan | None:
        max_rows, rows = FIRST_ROWS, found.source.count("").rows
        if found.spec.first.takes_all:
            max_rows = rows
        elif rows > FIRST_ROWS:
            max_rows = first_rows(self._ledger.profiles.cost_of(found.spec.first, order.operators[0].version))
        return _one_shard_plan(job_id, found, max_rows, self._settings.shard_max_bytes)

    def _take_output(self, job_id: str, order: Order, undo: ExitStack, tenant: str) -> Manifest | None:
        """Take the output, if one was asked for; returns the manifest of the unfinished one that it resumes, if any."""
        output = self._workspace.open_publisher(job_id, order.spec)
        if output is None:
            self._streams.take_output(job_id, order.spec, undo)
            return None
        earlier = self._resumption.find(output, order)
        if earlier is None:
            output.prepare()
        else:
            self._require_own(earlier.job, tenant, output.uri)
            self._resumption.keep(job_id, earlier, undo)
            output.reopen()
        undo.callback(output.release)
        return earlier


def _one_shard_plan(job_id: str, found: _Input, max_rows: int, max_bytes: int) -> OneShardPlan | None:
    """Plan a job whose rows are in the request, if they fit into one shard: the planner need not read them again."""
    split = found.source.splitter("").next_split(max_rows, max_bytes)
    if not isinstance(split, InputSplit) or split.rows < found.source.count("").rows:
        return None
    shard = Shard(job_id, FIRST_STAGE, ShardId((0,)), 0, split.rows, split.slices)
    return OneShardPlan(shard, split.bytes, split.cursor)
