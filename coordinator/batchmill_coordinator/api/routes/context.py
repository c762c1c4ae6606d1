"""What one request may see and do: the service as routes reach it, limited to the tenant of the request's token.

Every route goes through a `Context`, so what belongs to another tenant does not exist for any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Response

from batchmill.errors import Conflict, ModelNotFound, UnknownOperator, did_you_mean
from batchmill.jobs.job import JobState
from batchmill.jobs.sink import RESERVED_OPERATORS
from batchmill.jobs.stages import last_stage, stage_called, stages_of
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.ledger.jobs import no_such_job
from batchmill_coordinator.admission.reruns import job_request
from batchmill_coordinator.fleet.pools import what_pool_lacks
from batchmill_coordinator.fleet.shown_workers import shown_workers
from batchmill_coordinator.results.dead_rows import FIRST
from batchmill_coordinator.results.pages import StagePlace
from batchmill_coordinator.roles.cache_sweep import clear_row_cache
from batchmill_coordinator.status.job_log_page import page_of

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from pydantic import BaseModel

    from batchmill.fleet import PoolStatus, WorkerInfo
    from batchmill.jobs.cost import CostTotals
    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.jobs.index_status import IndexStatus
    from batchmill.jobs.job import JobForm, JobRequest
    from batchmill.jobs.job_log import LogCursor, LogLevel, LogPage
    from batchmill.jobs.replay import RedoRequest, ReplayRequest
    from batchmill.jobs.rerun import RerunRequest
    from batchmill.jobs.search import SearchRequest, SearchResult
    from batchmill.jobs.shard import ShardId
    from batchmill.jobs.status import CheckedJob, JobCost, JobStatus
    from batchmill.ledger import JobRecord
    from batchmill.operators.contract import OperatorInfo
    from batchmill.row_cache import CacheStats
    from batchmill.storage.served_models import ServedModel, ServedModels
    from batchmill_coordinator.admission.pushes import Pushes
    from batchmill_coordinator.api.pool import RequestPool
    from batchmill_coordinator.api.tenants import Access
    from batchmill_coordinator.batches.batches import Batches
    from batchmill_coordinator.batches.files import Files
    from batchmill_coordinator.event_hub import EventHub
    from batchmill_coordinator.lane.call import LaneCall
    from batchmill_coordinator.lane.served import ModelState
    from batchmill_coordinator.lane.target import LaneTarget
    from batchmill_coordinator.metering.lane import LaneMetrics
    from batchmill_coordinator.planning.plans import Plans
    from batchmill_coordinator.results.dead_rows import DeadRowFilter
    from batchmill_coordinator.results.pages import ResultPage
    from batchmill_coordinator.scheduling.scaling.view import ScaleView
    from batchmill_coordinator.service import Service
    from batchmill_coordinator.status.insights import Insights


class Context:
    """One request's view of the service. Methods that name a job raise `NotFound` for one of another tenant."""

    def __init__(self, service: Service, pool: RequestPool, heavy_pool: RequestPool, access: Access) -> None:
        self._service = service
        self._ledger = service.ledger
        self.pool = pool
        self.heavy_pool = heavy_pool
        self.access = access

    @property
    def hub(self) -> EventHub:
        """The changes of jobs; what changed is read through this context."""
        return self._service.hub

    @property
    def max_part_bytes(self) -> int:
        """The largest part of an upload."""
        return self._service.settings.max_part_bytes

    @property
    def pushes(self) -> Pushes:
        """The streams of all tenants; a route names that of the request."""
        return self._service.pushes

    def job(self, job_id: str) -> JobRecord:
        """Return a job's record."""
        found = self._find(job_id)
        if isinstance(found, UnreadableJob):
            raise found.error()
        return found

    def _find(self, job_id: str) -> JobRecord | UnreadableJob:
        """Return a job's record, or what is known of it if that cannot be read."""
        if self.access.may_see((found := self._ledger.jobs.find(job_id)).tenant):
            return found
        raise no_such_job(job_id)

    def submit(self, request: JobRequest) -> tuple[JobStatus, bool]:
        """Submit a job; return its status, and whether it is new."""
        accepted = self._service.submit(request, self.access.tenant)
        return self.status(accepted.job_id), accepted.is_new

    def check(self, request: JobRequest) -> CheckedJob:
        """Check a request without submitting it; return what was found of its input."""
        found = self._service.admission.check(request, self.access.tenant)
        pools = self._service.fleet.pools()
        lacking = (what_pool_lacks(stage, pools) for stage in request.stage_specs())
        return found.model_copy(update={"notes": list(dict.fromkeys(filter(None, lacking)))})

    def replay(self, job_id: str, request: ReplayRequest) -> tuple[JobStatus, bool]:
        """Submit the replay of a job's failed rows; return its status, and whether it is new."""
        record = self.job(job_id)
        replay_id, is_new = self._service.replays.begin(record, request, self.access.tenant)
        if is_new:
            self._service.metrics.roles.submitted(record.spec.first)
        return self.status(replay_id), is_new

    def redo(self, job_id: str, request: RedoRequest) -> tuple[JobStatus, bool]:
        """Submit a job that does the damaged shards of a job again; return its status, and whether it is new."""
        record = self.job(job_id)
        redo_id, is_new = self._service.replays.redo(record, request, self.access.tenant)
        if is_new:
            self._service.metrics.roles.submitted(record.spec.first)
        return self.status(redo_id), is_new

    def rerun(self, job_id: str, request: RerunRequest) -> tuple[JobStatus, bool]:
        """Submit the later stages of a job again, as a job of their own; return its status, and whether it is new."""
        return self.submit(job_request(self.job(job_id), request))

    def status(self, job_id: str) -> JobStatus:
        """Return a job's status, with what it was run with."""
        found = self._find(job_id)
        return found.status() if isinstance(found, UnreadableJob) else self._service.status_of(found)

    def jobs(self, limit: int, before: str | None) -> tuple[list[JobStatus], str | None]:
        """Return at most `limit` jobs, newest first, older than the job `before`; and the next `before`, if any."""
        tenant = self._own_tenant
        if tenant is None:
            records = self._ledger.jobs.newest(limit, before)
            following = records[-1].id if len(records) == limit else None
            return self._service.statuses(records), following
        ids = self._ledger.tenants.newest(tenant, limit, before)
        records = self._ledger.jobs.find_many(ids)
        return self._service.statuses(records), ids[-1] if len(ids) == limit else None

    def live_jobs(self, limit: int) -> list[JobStatus]:
        """Return the newest `limit` jobs that have not ended."""
        tenant = self._own_tenant
        overview, tenants = self._ledger.overview, self._ledger.tenants
        ids = overview.live_ids(limit) if tenant is None else tenants.live_ids(tenant, limit)
        return self._service.statuses(self._ledger.jobs.find_many(ids))

    def cancel(self, job_id: str) -> JobStatus:
        """Stop a job; one that has ended stays as it is."""
        self._ledger.jobs.stop(self._find(job_id).id, JobState.CANCELLING, None)
        return self.status(job_id)

    def pause(self, job_id: str) -> JobStatus:
        """Pause a job. Raises `Conflict` for one that is stopping or has ended."""
        self._ledger.jobs.pause(self.job(job_id).id)
        return self.status(job_id)

    def resume(self, job_id: str, budget: float | None, *, any_version: bool) -> JobStatus:
        """Resume a job, with another budget or other versions of its operators if asked. Raises `Conflict`."""
        self._ledger.jobs.resume(self.job(job_id).id, budget, any_version=any_version)
        return self.status(job_id)

    def drain(self, job_id: str) -> JobStatus:
        """Drain a job over a stream. Raises `Conflict` for another job, or one that is stopping or has ended."""
        job = self.job(job_id)
        if job.spec.stream is None:
            raise Conflict(f"job {job_id} reads no stream: it ends by itself.", job=job_id)
        self._ledger.jobs.drain(job.id)
        return self.status(job_id)

    def delete(self, job_id: str) -> None:
        """Delete an ended job. Raises `Conflict`, or `StorageError`: then it is tried again."""
        self._service.delete(self._find(job_id).id)

    def cost(self, job_id: str) -> JobCost:
        """Return what a job cost so far."""
        return self._service.cost_of(self.job(job_id))

    def costs(self, limit: int) -> CostTotals:
        """Return what all jobs cost; for a tenant, what its own jobs cost."""
        return self._service.costs(limit, self._own_tenant)

    def log(self, job_id: str, after: LogCursor, level: LogLevel, limit: int) -> LogPage:
        """Return a page of a job's log."""
        return page_of(self._ledger.log.read(self.job(job_id).id), after, level, limit)

    def page(self, job_id: str, stage: str | None, start: ShardId) -> ResultPage:
        """Return the page of results that begins with the shard `start`. stage: whose; None: the last one's."""
        record = self.job(job_id)
        number = last_stage(record.spec) if stage is None else stage_called(record.spec, stage)
        return self._service.results_page(record, number, start)

    def dead_letters(
        self, job_id: str, stage: str | None, start: StagePlace, limit: int
    ) -> tuple[list[DeadLetter], StagePlace | None]:
        """Return the dead letters from `start` on until there are about `limit`, and where those after them begin.

        stage: only those of this one; None: of all, one stage after the other.
        """
        record = self.job(job_id)
        letters: list[DeadLetter] = []
        stages = stages_of(record.spec) if stage is None else [stage_called(record.spec, stage)]
        for number in stages:
            if number < start.stage:
                continue
            first = start.shard_id if number == start.stage else FIRST
            for shard in self._service.dead_rows.shards(record, number, first):
                if len(letters) >= limit:
                    return letters, StagePlace(number, shard.shard_id)
                letters += self._service.dead_rows.read(record.id, shard).letters
        return letters, None

    def dead_counts(self, job_id: str) -> dict[str, int]:
        """Return how many rows of a job failed with which error."""
        return self._ledger.jobs.dead_counts(self.job(job_id).id)

    def purge(self, job_id: str, choice: DeadRowFilter) -> int:
        """Delete dead letters of an ended job; return how many. Raises `Conflict`."""
        return self._service.purge(self.job(job_id), choice)

    def begin_upload(self, form: JobForm) -> str:
        """Open an upload for a job of this form; return its id. Raises `Overloaded` when too many are open."""
        self._service.admission.check_spec(self._service.admission.dated(form).spec())
        return self._service.uploads.begin(self.access.tenant)

    def drop_upload(self, upload_id: str) -> None:
        """Drop an upload that no job has taken; one that is not open is left as it is."""
        self._service.uploads.drop(upload_id, self.access.tenant)

    def require_upload(self, upload_id: str) -> None:
        """Raise `InvalidSource` unless the upload is open."""
        self._service.uploads.require(upload_id, self.access.tenant)

    def store_part(self, upload_id: str, number: int, path: str) -> None:
        """Store one part of an upload, a file at `path`, which is moved. Raises `InvalidRows` or `InvalidSource`."""
        self._service.uploads.store(upload_id, self.access.tenant, number, path)

    @property
    def files(self) -> Files:
        """The files of all tenants; routes name their own."""
        return self._service.files

    @property
    def batches(self) -> Batches:
        """The batches of all tenants; routes name their own."""
        return self._service.batches

    @property
    def plans(self) -> Plans:
        """The plans of all tenants; routes name their own."""
        return self._service.plans

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are present, each with the attempts it runs of jobs that this request may see."""
        if self.access.sees_all:
            return self._ledger.fleet.workers(self._ledger.now_ms())
        return shown_workers(self._ledger, self.access.may_see)

    def pools(self) -> list[PoolStatus]:
        """Return what runs and what waits in each pool, of all tenants together."""
        return self._service.backlog.pools()

    @property
    def scaling(self) -> ScaleView:
        """How many workers the pools need and what they cost, of all tenants together."""
        return self._service.scaling

    def operators(self) -> list[OperatorInfo]:
        """Return the operators that workers have announced, without those that only the service itself uses."""
        return [each for each in self._ledger.fleet.operators() if not each.name.startswith(RESERVED_OPERATORS)]

    def insights(self) -> Insights:
        """Return what past jobs have shown of operators."""
        return self._service.insights

    def cache_stats(self) -> CacheStats:
        """Return the statistics of the row cache."""
        return self._ledger.row_cache.stats()

    def clear_cache(self) -> None:
        """Empty the row cache, which all tenants share. Raises `Forbidden` without an admin token."""
        self.access.require_admin("clear the row cache")
        clear_row_cache(self._ledger, self._service.workspace.blobs)

    def indexes(self, after: str | None, limit: int) -> tuple[list[IndexStatus], str | None]:
        """Return the indexes that this request may see, by tenant and name, and where the next page begins."""
        catalog, own = self._service.indexes, self._own_tenant
        return catalog.page(catalog.tenants() if own is None else [own], after, limit)

    def index(self, name: str) -> IndexStatus:
        """Return an index: the tenant's own of that name, or for who sees all the first one. Raises `NotFound`."""
        catalog, own = self._service.indexes, self.access.tenant
        tenants = [own, *(catalog.tenants() if self.access.sees_all else ())]
        return next((found for one in tenants if (found := catalog.find(one, name))), None) or catalog.read(own, name)

    def forget_index(self, name: str) -> None:
        """Forget an index. Raises `NotFound`."""
        index = self.index(name)
        self._service.indexes.forget(index.tenant, index.name)

    def begin_search(self, name: str, request: SearchRequest) -> str:
        """Begin to search an index; return the search's id. Raises `NotFound`, a subclass of `InvalidRequest`."""
        return self._service.searches.begin(self.index(name), request)

    def search_result(self, search_id: str) -> SearchResult | None:
        """Return what a search has found; None: not yet. Raises its error."""
        return self._service.searches.result(search_id)

    def end_search(self, search_id: str) -> None:
        """Stop a search, and forget it."""
        self._service.searches.end(search_id)

    @property
    def served(self) -> ServedModels:
        """The models that are served, to all tenants."""
        return self._service.served

    def served_model(self, name: str) -> ServedModel:
        """Return a served model, or `OPERATOR:MODEL`. Raises `ModelNotFound`."""
        found = self._service.served_loader.find(name)
        if found is None:
            raise ModelNotFound(
                f"the model {name[:128]!r} is not served.",
                hint=did_you_mean(name[:128], self.served.models),
                field="model",
            )
        return found

    def model_state(self, name: str) -> tuple[ModelState, str | None]:
        """Return whether a served model is loaded, and why if it has failed. Raises `ModelNotFound`."""
        return self._service.served_loader.state(name, self.served_model(name))

    def lane_call(
        self, target: LaneTarget, rows: list[dict[str, Any]], *, streams: bool = False
    ) -> AbstractAsyncContextManager[LaneCall]:
        """Give rows to a worker, in a context that ends when nobody waits for the answer. Raises as `Lane.call`."""
        return self._service.lane.call(target, rows, self.access.tenant, streams=streams)

    async def operator(self, name: str) -> OperatorInfo:
        """Return an operator that workers have announced. Raises `UnknownOperator`."""
        fleet = self._service.fleet
        latest = fleet.last_read()
        found = latest[1].get(name) if latest is not None else None
        if found is None:
            found = await self.pool.run(fleet.operator, name)
        if found is None or name.startswith(RESERVED_OPERATORS):
            hint = did_you_mean(name[:128], self._names())
            raise UnknownOperator(f"no worker has an operator {name[:128]!r}.", hint=hint, operator=name[:128])
        return found

    def _names(self) -> list[str]:
        latest = self._service.fleet.last_read()
        names = latest[1] if latest is not None else ()
        return [name for name in names if not name.startswith(RESERVED_OPERATORS)]

    @property
    def lane_metrics(self) -> LaneMetrics:
        """What is counted of interactive requests."""
        return self._service.metrics.lane

    @property
    def lane_headers(self) -> dict[str, str]:
        """How many interactive requests the tenant may have open, as headers of OpenAI's API."""
        limit, left = self._service.lane.allowance(self.access.tenant)
        return {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": "0s" if left else "1s",
        }

    def metrics(self) -> bytes:
        """Return the page for Prometheus."""
        return self._service.metrics.page()

    @property
    def _own_tenant(self) -> str | None:
        """The one tenant that this request may see; None: all."""
        return None if self.access.sees_all else self.access.tenant


async def _context(request: Request) -> Context:
    state = request.app.state
    return Context(state.service, state.pool, state.heavy_pool, request.state.access)


CurrentContext = Annotated[Context, Depends(_context)]


def json_response(value: BaseModel, status_code: int = 200) -> Response:
    """Return a value as JSON, dumped once."""
    return Response(value.model_dump_json(), status_code, media_type="application/json")
