"""The coordinator in one process: the ledger, the roles, and what the routes work with."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from batchmill.clock import SystemClock
from batchmill.errors import ServiceUnavailable
from batchmill.jobs.stages import FIRST_STAGE, last_stage
from batchmill.ledger import Ledger
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.sources.base import EndlessSource
from batchmill.storage.named_webhooks import NamedWebhooks
from batchmill.storage.served_models import ServedModels
from batchmill.store_mark import Mark, StoreMark
from batchmill.tokens import split_entry
from batchmill.workspace import Workspace
from batchmill_coordinator.admission.admission import Admission
from batchmill_coordinator.admission.pushes import Pushes
from batchmill_coordinator.admission.replays import Replays, require_ended
from batchmill_coordinator.admission.uploads import Uploads
from batchmill_coordinator.batches.batches import Batches
from batchmill_coordinator.batches.files import Files
from batchmill_coordinator.batches.output import BatchWriter
from batchmill_coordinator.event_hub import EventHub
from batchmill_coordinator.fleet.backlog import PoolBacklog
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.indexes.catalog import IndexCatalog
from batchmill_coordinator.indexes.publication import IndexPublication
from batchmill_coordinator.indexes.search import IndexSearch
from batchmill_coordinator.inspection.inspector import InspectedSource, Inspector
from batchmill_coordinator.inspection.pool import inspector_pool
from batchmill_coordinator.lane.lane import Lane, LaneLimits
from batchmill_coordinator.lane.served import ServedModelLoader
from batchmill_coordinator.metering.page import CoordinatorMetrics
from batchmill_coordinator.planning.plans import Plans
from batchmill_coordinator.results.closing import OutputCloser
from batchmill_coordinator.results.dead_rows import DeadRowStore
from batchmill_coordinator.results.freed_results import FreedResults
from batchmill_coordinator.results.inputs import open_input
from batchmill_coordinator.results.merger import Merger
from batchmill_coordinator.results.one_schema import OneSchema, schema_without_rows
from batchmill_coordinator.results.pages import parse_cursor, read_page
from batchmill_coordinator.results.resuming.resumption import Resumption
from batchmill_coordinator.results.roll_forward import RollForward
from batchmill_coordinator.results.stage_source import StageSource
from batchmill_coordinator.results.stream_retention import StreamRetention
from batchmill_coordinator.results.stream_rolls import StreamRolls
from batchmill_coordinator.roles.batch_keeper import BatchKeeper
from batchmill_coordinator.roles.buffers import BufferKeeper
from batchmill_coordinator.roles.clock_guard import ClockGuard
from batchmill_coordinator.roles.deletion import delete_job
from batchmill_coordinator.roles.dispatcher import Dispatcher
from batchmill_coordinator.roles.finisher import Finisher
from batchmill_coordinator.roles.janitor import Janitor
from batchmill_coordinator.roles.leadership import Leadership
from batchmill_coordinator.roles.ledger_keeper import LedgerKeeper
from batchmill_coordinator.roles.lost_rows import LostRowSettler
from batchmill_coordinator.roles.plan_keeper import PlanKeeper
from batchmill_coordinator.roles.planner import STREAMED, Planner
from batchmill_coordinator.roles.recoverer import Recoverer
from batchmill_coordinator.roles.role import RoleThread
from batchmill_coordinator.roles.scaler import Scaler
from batchmill_coordinator.roles.sending.notifier import Notifier
from batchmill_coordinator.roles.stream_keeper import StreamKeeper
from batchmill_coordinator.roles.streams.roller import Roller
from batchmill_coordinator.roles.watcher import Watcher, runs_nothing, why_blocked
from batchmill_coordinator.roles.watches.preemption_watch import PreemptionWatch
from batchmill_coordinator.roles.watches.straggler_watch import StragglerWatch
from batchmill_coordinator.scheduling.message_publisher import MessagePublisher
from batchmill_coordinator.scheduling.model_demand import ModelNames, starting
from batchmill_coordinator.scheduling.scaling.targets import PoolTargets
from batchmill_coordinator.scheduling.scaling.view import ScaleView
from batchmill_coordinator.scheduling.stragglers import Lateness
from batchmill_coordinator.scheduling.tenant_loads import TenantLoads
from batchmill_coordinator.scheduling.tenant_quotas import TenantQuotas
from batchmill_coordinator.scheduling.tenant_shares import TenantShares
from batchmill_coordinator.status.insights import Insights
from batchmill_coordinator.status.notices import Notices
from batchmill_coordinator.status.readiness import ReadinessProbe
from batchmill_coordinator.status.shown_request import shown_request
from batchmill_coordinator.status.status import cost_of, status_of
from batchmill_coordinator.webhooks.deliveries import Deliveries

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from batchmill.clock import Clock
    from batchmill.jobs.cost import CostTotals
    from batchmill.jobs.job import JobRequest
    from batchmill.jobs.shard import ShardId
    from batchmill.jobs.status import JobCost, JobStatus
    from batchmill.ledger import JobRecord
    from batchmill.ledger.submission import Acceptance
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import Source
    from batchmill_coordinator.results.dead_rows import DeadRowFilter
    from batchmill_coordinator.results.pages import ResultPage
    from batchmill_coordinator.roles.role import Role

log = logging.getLogger(__name__)

MARK_INTERVAL_S = 0.1


class Service:
    """Everything behind the routes. `start` and `stop` frame its life."""

    def __init__(self, settings: CoordinatorSettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.ledger = Ledger.open(settings)
        self.workspace = Workspace.open(settings)
        self.fleet = FleetView(self.ledger, self.clock)
        self._models = ModelNames(self.fleet)
        self.backlog = PoolBacklog(self.ledger, self.fleet, self.clock)
        resumption = Resumption(self.ledger, self.workspace)
        self._inspectors = inspector_pool(settings)
        self._planning_inspectors = inspector_pool(settings)  # of their own: no submission delays the planner
        inspector = Inspector(self._inspectors)
        self._webhooks = NamedWebhooks.load(settings.webhooks)
        self.deliveries = Deliveries(self.ledger, self._webhooks)
        self.admission = Admission(
            self.ledger, self.fleet, self.workspace, resumption, inspector, self._webhooks, settings
        )
        self.served = ServedModels.load(settings.models)
        self._targets = PoolTargets.load(settings.scale_pools, settings.scale_target_s, settings.scale_start_s)
        self.scaling = ScaleView(self.ledger, self._targets, settings.currency)
        limits = LaneLimits(
            settings.lane_max_waiting,
            settings.lane_max_per_tenant,
            settings.lane_timeout_s,
            has_tenants=len({split_entry(entry)[1] for entry in settings.tokens}) > 1,
        )
        self.indexes = IndexCatalog(self.workspace.blobs)
        self.pushes = Pushes(self.ledger, self.workspace, inspector, settings)
        self.uploads = Uploads(self.ledger, self.workspace, inspector, settings)
        self.files = Files(self.ledger, self.workspace.blobs, settings)
        self.batches = Batches(self.ledger)
        self.plans = Plans(
            *(self.ledger, self.fleet, self.workspace, self.admission, self.uploads, inspector, settings), self.submit
        )
        self.leadership = Leadership(self.ledger, _own_name(), settings.leader_ttl_s, self.clock, self._wake_all)
        self.notices = Notices()
        self.quotas = TenantQuotas(self.ledger, settings.tenant_max_device_s, settings.tenant_period_s, self.clock)
        self.metrics = CoordinatorMetrics(
            self.ledger, settings, lambda: self.leadership.epoch, self.clock, self.notices, self.quotas.all
        )
        self.lane = Lane(self.ledger, self.fleet, limits, self.metrics.lane)
        self.served_loader = ServedModelLoader(self.ledger, self.fleet, self.served, self.workspace.locations)
        self.searches = IndexSearch(self.ledger, self.workspace, self._submit_own, self.delete)
        self.readiness = ReadinessProbe(self.ledger, self.notices, self.clock)
        self.dead_rows = DeadRowStore(self.ledger, self.workspace.blobs)
        self.replays = Replays(self.ledger, self.workspace, self.dead_rows, inspector, self._webhooks, settings)
        self._publisher = MessagePublisher(settings)
        self._shares = TenantShares(settings.tenant_weights, settings.tenant_max_shards)
        self._tenant_loads = TenantLoads(self.ledger, self._shares, self.clock)
        self._roles = [RoleThread(role, self.leadership) for role in self._make_roles(resumption)]
        self.hub = EventHub(self.ledger, self._notify)

    def take_blob_store(self) -> None:
        """Mark the blob store as this ledger's, if no coordinator has marked any yet.

        Raises `InvalidSettings` if the ledger has another blob store, `StorageError` if this one cannot be used. The
        mark of a former ledger stays, for the ledger keeper to report.
        """
        mark = StoreMark(self.ledger, self.workspace.blobs)
        mark.require_writable()
        while not mark.require() and mark.read() is None and not self.workspace.blobs.folders("jobs"):
            identity = self.ledger.identity.read(secrets.token_hex(8))
            if mark.claim(Mark(ledger=identity.ledger_id)):
                return
            time.sleep(MARK_INTERVAL_S)  # another coordinator is at it

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to lead, to listen and to work. Raises `ServiceUnavailable` when the ledger cannot be reached."""
        self.ledger.ping()
        self._inspectors.start()
        self._planning_inspectors.start()
        self.hub.start(loop)
        self.lane.start(loop)
        self.served_loader.start()
        for role in self._roles:
            role.start()
        self.leadership.start()

    def stop(self) -> None:
        """End the roles, release the leadership, close the connections."""
        self._inspectors.stop()
        self._planning_inspectors.stop()
        for role in self._roles:
            role.stop()
        self._notifier.close()
        self.leadership.stop()
        self.hub.stop()
        self.lane.stop()
        self.served_loader.stop()
        self._publisher.close()
        self.ledger.close()

    def submit(self, request: JobRequest, tenant: str, *, is_internal: bool = False) -> Acceptance:
        """Accept a job, and publish the message of a shard that was queued with it. Raises as `Admission.admit`."""
        accepted = self.admission.admit(request, tenant, is_internal=is_internal)
        stages = request.stage_specs()
        first = stages[FIRST_STAGE]
        if accepted.is_new:
            self.metrics.roles.submitted(first)
        if accepted.queued is not None:
            ref, queue = accepted.queued
            try:
                stage_name = first.title if len(stages) > 1 else None
                self._publisher.publish(first.operator, queue, ref, request.name, stage_name)
                self.metrics.roles.dispatched(first)
            except ServiceUnavailable as error:  # the job is accepted; the recoverer publishes what nobody claims
                log.warning("%s", error)
        return accepted

    def results_page(self, record: JobRecord, stage: int, start: ShardId) -> ResultPage:
        """Read the page of a stage's results that begins with the shard `start`.

        A page that ends the results of a job without any has the schema that its input gives it.
        """
        results = self.workspace.open_results(record.id, record.spec, stage)
        page = read_page(self.ledger, record, stage, results, start)
        has_no_results = start == parse_cursor("") or record.last.rows_done == 0
        if stage == last_stage(record.spec) and page.at_end and not page.tables and has_no_results:
            return replace(page, schema_if_empty=schema_without_rows(self.ledger, self.workspace, record))
        return page

    def status(self, job_id: str) -> JobStatus:
        """Return a job's status, with what it was run with. Raises `NotFound`."""
        found = self.ledger.jobs.find(job_id)
        return found.status() if isinstance(found, UnreadableJob) else self.status_of(found)

    def status_of(self, record: JobRecord) -> JobStatus:
        """Return a job's status from its record, with what it was run with."""
        return self.statuses([record])[0].model_copy(update={"request": shown_request(record.spec)})

    def cost_of(self, record: JobRecord) -> JobCost:
        """Return what a job cost so far."""
        return cost_of(record, self.settings.currency)

    def statuses(self, jobs: Sequence[JobRecord | UnreadableJob]) -> list[JobStatus]:
        """Return the status of each job, with what blocks it."""
        records = [job for job in jobs if not isinstance(job, UnreadableJob)]
        readable = iter(self._statuses(records))
        return [job.status() if isinstance(job, UnreadableJob) else next(readable) for job in jobs]

    def costs(self, limit: int, tenant: str | None) -> CostTotals:
        """Return what all jobs cost, and what is used of quotas. tenant: whose alone; None: all."""
        quotas = list(self.quotas.all())
        return self.ledger.costs.totals().report(self.settings.currency, limit, tenant, quotas)

    @property
    def insights(self) -> Insights:
        """What past jobs have shown of operators."""
        return Insights(self.ledger)

    def _statuses(self, records: Sequence[JobRecord]) -> list[JobStatus]:
        now_s = self.clock.wall()
        pools = self.fleet.pools() if any(runs_nothing(one) or starting(one) for one in records) else {}
        with_dead = [record.id for record in records if record.rows_dead]
        counts = dict(zip(with_dead, self.ledger.overview.dead_counts(with_dead), strict=True)) if with_dead else {}
        return [
            status_of(
                record,
                now_s,
                why_blocked(record, pools, self.settings.currency)
                or self.quotas.why_waits(record)
                or self._tenant_loads.why_waits(record),
                counts.get(record.id),
                loading=self._models.loading(record, pools) if pools else None,
                currency=self.settings.currency,
            )
            for record in records
        ]

    def _submit_own(self, request: JobRequest, tenant: str) -> str:
        return self.submit(request, tenant, is_internal=True).job_id

    def delete(self, job_id: str) -> None:
        """Delete an ended job. Raises `NotFound`, `Conflict`, or `StorageError`: then it is tried again."""
        delete_job(self.ledger, self.workspace.blobs, job_id)

    def purge(self, record: JobRecord, choice: DeadRowFilter) -> int:
        """Delete dead letters of an ended job; return how many. Raises `Conflict`."""
        require_ended(record)
        return self.dead_rows.purge(record, choice)

    def _make_roles(self, resumption: Resumption) -> list[Role]:
        """Make the roles of the leader."""
        ledger, fleet, blobs, counts = self.ledger, self.fleet, self.workspace.blobs, self.metrics.roles
        settings, clocks = self.settings, ClockGuard(ledger, self.clock, self.notices)
        settler = LostRowSettler(ledger, blobs, self._open_source, self.clock)
        one_schema = OneSchema(ledger, self.workspace, self.dead_rows)
        roll_forward = RollForward(ledger, self.dead_rows)
        merger = Merger(ledger, self.workspace, self.dead_rows, one_schema, roll_forward)
        freed = FreedResults(ledger, self.workspace, self.clock)
        published = IndexPublication(ledger, self.workspace, self.indexes, self.clock)
        rolls = StreamRolls(ledger, self.workspace, settings.max_columns, self.clock)
        outputs = OutputCloser(
            ledger, self.workspace, merger, resumption, rolls, one_schema, roll_forward, published.record, self.clock
        )
        self._notifier = Notifier(ledger, self._webhooks, self.deliveries, clocks, counts)
        return [
            Planner(ledger, fleet, self._open_source, resumption, settings, lambda: self._notify(STREAMED)),
            Dispatcher(ledger, fleet, self._publisher, counts, self._shares, self.quotas),
            Recoverer(ledger, fleet, self._publisher, settler, settings.lease_ttl_s, counts),
            StragglerWatch(
                *(ledger, fleet, self._publisher, counts, self._shares),
                Lateness(settings.straggler_factor, settings.straggler_min_s),
                self.quotas,
            ),
            PreemptionWatch(ledger, fleet, counts, self._shares, settings.preempt_priority, self.quotas),
            Finisher(ledger, outputs, clocks, counts),
            BufferKeeper(ledger, freed),
            StreamKeeper(
                *(ledger, self._open_source, StreamRetention(ledger, self.workspace, self.dead_rows), blobs),
                settings.stream_ttl_s,
            ),
            Roller(ledger, rolls, published),
            self._batch_keeper(clocks),
            self._notifier,
            self._plan_keeper(clocks),
            Janitor(
                *(ledger, blobs, self.files, clocks),
                upload_ttl_s=settings.upload_ttl_s,
                retention_s=settings.retention_s,
            ),
            LedgerKeeper(ledger, blobs, clocks, self.notices, self.clock),
            Watcher(ledger, fleet, self.clock, settings.currency, counts, self.quotas),
            Scaler(ledger, self._targets, self._shares, self.quotas),
        ]

    def _batch_keeper(self, clocks: ClockGuard) -> BatchKeeper:
        writer = BatchWriter(self.ledger, self.workspace, self.dead_rows, self.files)
        return BatchKeeper(
            *(self.ledger, self.fleet, Inspector(self._inspectors), self.uploads, self.served, writer),
            lambda request, tenant: self.submit(request, tenant).job_id,
            clocks,
            self.settings.file_ttl_s,
        )

    def _plan_keeper(self, clocks: ClockGuard) -> PlanKeeper:
        return PlanKeeper(
            *(self.ledger, self.fleet, self.workspace, Inspector(self._planning_inspectors), self.uploads),
            *(self.settings.currency, self.settings.shard_target_s),
            self._submit_own,
            self.delete,
            clocks,
            samples_at_once=max(self.settings.inspectors // 2, 1),
        )

    def _open_source(self, record: JobRecord, stage: int) -> Source:
        inline = None
        if record.spec.source is None and stage == FIRST_STAGE:
            inline = self.ledger.jobs.inline_input(record.id)
        inspector = Inspector(self._planning_inspectors)
        source = open_input(self.ledger, self.workspace, record, stage, inline, inspector)
        if record.spec.source is None or isinstance(source, StageSource | EndlessSource):
            return source
        return InspectedSource(record.id, source, inspector)

    def _notify(self, kind: str) -> None:
        if kind == "worker":
            self.fleet.forget()
        for role in self._roles:
            role.notify(kind)

    def _wake_all(self) -> None:
        for role in self._roles:
            role.wake()


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
