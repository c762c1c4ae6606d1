"""The real HTTP API over a real ledger, in this process, behind a fault proxy; for tests of what speaks to it.

Its roles and its worker are the real ones too. A test that sets `holds_jobs` plays planner and worker itself, through
the ledger: jobs then get the results and the states that it says.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import uvicorn

from batchmill.fleet import BatchChoice
from batchmill.jobs.job import JobError, JobRequest, JobState
from batchmill.settings import CoordinatorSettings, WorkerSettings
from batchmill_coordinator.api.app import create_app
from batchmill_coordinator.api.server import listen
from batchmill_coordinator.service import Service
from batchmill_worker.devices.placement import SlotIdentity
from batchmill_worker.slot.wiring import build_slot_context
from support.fault_proxy import Fault, FaultProxy
from support.ledger_steps import begin, end_plan, settle_one
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from batchmill.jobs.status import JobStatus
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.unreadable import UnreadableJob
    from batchmill.ledger.submission import Acceptance, Submission
    from batchmill_coordinator.api.status_feed import StatusFeeds
    from batchmill_coordinator.roles.role import Role

TOKEN = "a-token-of-the-tests"  # noqa: S105  # opens nothing but a service of the tests
STOPPING = {
    JobState.FAILED: JobState.FAILING,
    JobState.CANCELLED: JobState.CANCELLING,
    JobState.EXPIRED: JobState.EXPIRING,
}
CHOICE = BatchChoice(operator="embed", units=950.4, rows=18, reason="overhead")
OPERATORS = "support.operators.client_operators"
WORKER_POLL_S = 0.005


class SteeredService(Service):
    """A service whose planner and dispatcher rest while a test plays them, and which shows figures that a test sets."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self.holds_jobs = False
        self.shown: dict[str, dict[str, Any]] = {}  # fields of the status of jobs, in place of what they are
        super().__init__(settings)
        self._submit = self.ledger.jobs.submit
        self.ledger.jobs.submit = self._submit_held  # type: ignore[method-assign]

    def _submit_held(
        self, submission: Submission, *, max_live_jobs: int, max_tenant_jobs: int | None = None
    ) -> Acceptance:
        """A small job that is held is not planned as it is accepted either."""
        held = replace(submission, plan=None) if self.holds_jobs else submission
        return self._submit(held, max_live_jobs=max_live_jobs, max_tenant_jobs=max_tenant_jobs)

    def statuses(self, records: Sequence[JobRecord | UnreadableJob]) -> list[JobStatus]:
        found = super().statuses(records)
        return [status.model_copy(update=self.shown.get(status.id, {})) for status in found]

    def _make_roles(self, *args: Any) -> list[Role]:
        roles = super()._make_roles(*args)
        for role in roles:
            if role.name == "planner":
                self._hold(role, self._begin_held)
            if role.name == "dispatcher":
                self._hold(role, lambda _: None)
        return roles

    def _hold(self, role: Role, instead: Callable[[int], None]) -> None:
        step = role.step
        role.step = lambda epoch: instead(epoch) if self.holds_jobs else step(epoch)  # type: ignore[method-assign]

    def _begin_held(self, epoch: int) -> None:
        for record in self.ledger.jobs.live():
            if record.state is JobState.PENDING:
                begin(self.ledger, epoch, record.id, rows_of(self.ledger, record.id))


def rows_of(ledger: Ledger, job_id: str) -> int:
    """How many rows came with a job."""
    stream = ledger.jobs.inline_input(job_id)
    return pa.ipc.open_stream(stream).read_all().num_rows if stream else 0


class LiveService:
    """The service. `start`, `stop`; `reset` between tests."""

    def __init__(self, redis_url: str, prefix: str, folder: Path, **settings: Any) -> None:
        shared: dict[str, Any] = {
            "redis_url": redis_url,
            "redis_prefix": prefix,
            "blob_root": str(folder / "blobs"),
            "unrestricted": True,
        }
        self.token = TOKEN
        self.service = SteeredService(CoordinatorSettings(**shared, tokens=(TOKEN,), **settings))
        identity = SlotIdentity(
            name="cpu0@here", slot=0, device="cpu", device_type="cpu", device_count=1, memory_bytes=None
        )
        worker = WorkerSettings(**shared, shards_at_once=1, operators=(OPERATORS,))
        self._slot = build_slot_context(worker, identity, folder / "board")
        self._pool = worker.pool
        self._slot.heartbeat.batches = lambda: [CHOICE]
        self._listener = listen("127.0.0.1", 0)
        self._app = create_app(self.service)
        config = uvicorn.Config(self._app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self.direct_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.proxy = FaultProxy(self.direct_url)
        self.faults: list[Fault] = self.proxy.faults
        self._loop = asyncio.new_event_loop()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name="live service", daemon=True),
            threading.Thread(target=self._work, name="live worker", daemon=True),
        ]

    # its life

    def start(self) -> LiveService:
        """Serve, lead, and have a worker in the fleet."""
        self._slot.heartbeat.start()
        for thread in self._threads:
            thread.start()
        until(lambda: self._server.started and bool(self.service.leadership.epoch), "the start of the service")
        self.run(self.proxy.open())
        return self

    def stop(self) -> None:
        """End everything."""
        self.run(self.proxy.close())
        self._stopping.set()
        self._server.should_exit = True
        for thread in self._threads:
            thread.join(GRACE_S)
        self._slot.heartbeat.stop()
        self._slot.close()
        self._listener.close()
        self._loop.close()

    def reset(self) -> None:
        """Forget everything that a test did."""
        self.service.holds_jobs = False
        self.service.shown.clear()
        self.proxy.faults.clear()
        for job_id in self.job_ids():
            self._end(job_id, JobState.CANCELLED)
            self.service.delete(job_id)
        self.proxy.requests.clear()
        self.proxy.in_flight.clear()
        self.proxy.most_in_flight.clear()

    def run(self, work: Any) -> Any:
        """The result of a coroutine, on the loop of the service."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(GRACE_S)

    def restart(self) -> None:
        """Cut all connections, stop to listen, and listen again. Jobs are in the ledger."""
        self.run(self.proxy.close())
        self.run(self.proxy.open())

    # what tests ask and say

    @property
    def feeds(self) -> StatusFeeds:
        """What the event streams are fed from."""
        feeds: StatusFeeds = self._app.state.feeds
        return feeds

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self.proxy.port}"

    @property
    def requests(self) -> list[tuple[str, str]]:
        return [(request.method, request.path) for request in self.proxy.requests]

    def asked(self, method: str) -> list[str]:
        return self.proxy.asked(method)

    @property
    def holds_jobs(self) -> bool:
        return self.service.holds_jobs

    @holds_jobs.setter
    def holds_jobs(self, holds: bool) -> None:
        self.service.holds_jobs = holds

    def job_ids(self) -> list[str]:
        """All jobs, newest first."""
        return [record.id for record in self.service.ledger.jobs.newest(1000)]

    def only_job(self) -> str:
        """The only job there is; one that is held has begun."""
        (job_id,) = self.job_ids()
        return self.begun(job_id)

    def begun(self, job_id: str) -> str:
        """The job, once it runs."""
        until(lambda: self.service.ledger.jobs.read(job_id).state is not JobState.PENDING, f"the begin of {job_id}")
        return job_id

    def ended(self, job_id: str) -> str:
        """The job, once it has ended."""
        until(lambda: self.service.ledger.jobs.read(job_id).state.is_final, f"the end of {job_id}")
        return job_id

    def cut(self, path_ending: str) -> None:
        """Cut the connections of requests that are being answered."""
        self.run(self.proxy.cut(path_ending))

    def last_order(self) -> JobRequest:
        """The job that was submitted last, as it was sent."""
        sent = [request for request in self.proxy.requests if (request.method, request.path) == ("POST", "/v1/jobs")]
        return JobRequest.model_validate_json(sent[-1].body)

    def last_rows(self) -> pa.Table:
        """The rows of the job that was submitted last, as they were sent with it."""
        rows = self.last_order().rows_arrow
        assert rows is not None
        return pa.ipc.open_stream(base64.b64decode(rows)).read_all()

    def change(self, job_id: str, table: pa.Table | None = None, **shown: Any) -> None:
        """Settle one more shard with these rows; show these fields in its status; end it, if `state` is final."""
        state = shown.pop("state", None)
        self.begun(job_id)
        if table is not None:
            settle_one(
                self.service.ledger, self.service.leadership.epoch, job_id, table, rows_of(self.service.ledger, job_id)
            )
        if shown:
            self.service.shown[job_id] = self.service.shown.get(job_id, {}) | shown
            self._announce(job_id)
        if state is not None:
            self._end(job_id, state)

    def fail(self, job_id: str, message: str = "the model has no weights") -> None:
        self._end(job_id, JobState.FAILED, JobError(code="invalid_operator", message=message))

    def _announce(self, job_id: str) -> None:
        """Say that a job has changed, as the ledger's scripts do."""
        store = self.service.ledger._store
        store.redis.publish(store.keys.events(), f"progress {job_id}")

    def _end(self, job_id: str, state: JobState, error: JobError | None = None) -> None:
        jobs = self.service.ledger.jobs

        def has_ended() -> bool:
            record = jobs.read(job_id)
            return record.state.is_final or jobs.finish(record, state, self.service.leadership.epoch)

        if state is JobState.COMPLETED:
            end_plan(self.service.ledger, self.service.leadership.epoch, job_id, rows_of(self.service.ledger, job_id))
        if state in STOPPING and not jobs.read(job_id).state.is_final:
            jobs.stop(job_id, STOPPING[state], error)  # type: ignore[arg-type]  # a state of stopping
        until(has_ended, f"the end of {job_id}")

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve(sockets=[self._listener]))

    def _work(self) -> None:
        """Run whatever is queued, as a slot does that Celery gives messages."""
        runner, ledger = self._slot.runner, self.service.ledger
        while not self._stopping.wait(WORKER_POLL_S):
            if not self.holds_jobs:
                for ref, _ in ledger.shards.queued(self._pool):
                    runner.run(ref)
