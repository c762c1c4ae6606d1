"""A stand-in for the coordinator that speaks its HTTP contract over a real socket, with jobs that tests move on."""

import asyncio
import base64
import json
import threading
import time

import pyarrow as pa
from aiohttp import web

from batchmill.errors import (
    BatchmillError,
    Conflict,
    InvalidRequest,
    NotFound,
    Unauthorized,
    UnknownOperator,
    did_you_mean,
)
from batchmill.job import (
    BatchChoice,
    JobError,
    JobForm,
    JobRequest,
    JobState,
    JobStatus,
    PoolStatus,
    WorkerInfo,
    new_id,
)
from batchmill.job_log import LogPage
from batchmill.operators.contract import OperatorInfo

TOKEN = "a-token-of-the-tests"  # noqa: S105  # opens nothing but a stand-in
OPERATORS = [
    OperatorInfo(name="echo", summary="Returns its rows.", params_schema={"properties": {}}),
    OperatorInfo(
        name="embed",
        summary="A vector for each text.",
        params_schema={
            "properties": {"model": {"type": "string"}, "column": {"type": "string", "default": "text"}},
            "required": ["model"],
        },
        columns=["{column}"],
    ),
]


COUNTS = {"workers": 1, "capacity": 2, "jobs": 1, "shards_queued": 3, "shards_running": 2, "shards_waiting": 4}
POOL = PoolStatus(name="default", **COUNTS, rows_waiting=12_345, oldest_queued_s=1.5)


class StandInJob:
    """A job: pages of results that tests add, and a status."""

    def __init__(self, request, table):
        self.request = request
        self.input = table
        self.pages = []
        self.changed = asyncio.Condition()
        self.status = JobStatus(
            id=new_id("job"),
            state=JobState.RUNNING,
            operator=request.operator,
            name=request.name,
            pool=request.pool,
            priority=request.priority,
            deadline_at=request.deadline_at,
            rows_total=None if table is None else table.num_rows,
            created_at=time.time(),
            output=request.output.path if request.output else None,
        )

    async def change(self, table=None, **fields):
        async with self.changed:
            if table is not None:
                self.pages.append(table)
                fields.setdefault("rows_done", self.status.rows_done + table.num_rows)
            if "state" in fields and JobState(fields["state"]).is_final:
                fields.setdefault("finished_at", time.time())
            self.status = self.status.model_copy(update=fields)
            self.changed.notify_all()


class StandIn:
    """The service. `requests` tells what came; `faults` are met by the next requests to a path that ends so."""

    def __init__(self):
        self.token = TOKEN
        self.holds_jobs = False  # whether new jobs wait for the test; else they echo their rows and complete
        self.page_rows = 100_000
        self.max_part_bytes = 32 * 1024 * 1024
        self.requests = []
        self.faults = []  # (method, end of path, fault): "drop", "truncate", or an answer to give
        self.jobs = {}
        self.by_key = {}
        self.uploads = {}
        self.log_pages = []  # what is answered for any job's log, one after the other; the last one again and again
        self.in_flight = self.most_in_flight = 0
        self.holds_the_first_part = False  # until another one is on its way
        self._two_on_their_way = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    # what tests call

    def start(self, port=0):
        self._port = port
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    def change(self, job_id, table=None, **fields):
        asyncio.run_coroutine_threadsafe(self.jobs[job_id].change(table, **fields), self._loop).result(10)

    def fail(self, job_id, message="the model has no weights"):
        self.change(job_id, state=JobState.FAILED, error=JobError(code="invalid_operator", message=message))

    def only_job(self):
        (job,) = self.jobs.values()
        return job

    def asked(self, method):
        return [path for asked, path in self.requests if asked == method]

    # what the client meets

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(middlewares=[self._middleware], client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/v1/jobs", self._submit),
                web.get("/v1/jobs", self._list),
                web.get("/v1/jobs/{id}", self._status),
                web.delete("/v1/jobs/{id}", self._delete),
                web.post("/v1/jobs/{id}/pause", self._pause),
                web.post("/v1/jobs/{id}/resume", self._resume),
                web.post("/v1/jobs/{id}/cancel", self._cancel),
                web.get("/v1/jobs/{id}/events", self._events),
                web.get("/v1/jobs/{id}/log", self._log),
                web.get("/v1/jobs/{id}/results", self._results),
                web.post("/v1/uploads", self._open_upload),
                web.put("/v1/uploads/{id}/parts/{n}", self._put_part),
                web.get("/v1/workers", self._workers),
                web.get("/v1/pools", self._pools),
                web.get("/v1/operators", self._operators),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        self.port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    @web.middleware
    async def _middleware(self, request, handler):
        self.requests.append((request.method, request.path))
        fault = self._fault(request)
        if fault == "drop":
            request.transport.close()
            raise web.HTTPServiceUnavailable
        if isinstance(fault, tuple):
            status, text = fault
            return web.Response(status=status, text=text)
        try:
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise Unauthorized("the bearer token is missing or wrong.", hint="Set BATCHMILL_TOKEN.")
            response = await handler(request)
        except BatchmillError as error:
            return web.json_response(error.envelope(), status=error.http_status)
        if fault == "lost answer":  # the work is done, the client never hears of it
            request.transport.close()
        return response

    def _fault(self, request):
        for fault in self.faults:
            method, ending, what = fault
            if request.method == method and request.path.endswith(ending):
                self.faults.remove(fault)
                return what
        return None

    def _job(self, request):
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            raise NotFound(f"there is no job {request.match_info['id']!r}.", hint="`batchmill jobs` lists them.")
        return job

    def _check_operator(self, spec):
        known = [info.name for info in OPERATORS]
        if spec.operator not in known:
            hint = did_you_mean(spec.operator, known)
            raise UnknownOperator(f"no worker has an operator {spec.operator!r}.", hint=hint)

    async def _submit(self, request):
        order = JobRequest.model_validate_json(await request.read())
        self._check_operator(order)
        known = self.by_key.get(order.idempotency_key)
        if known:
            return web.json_response(text=known.status.model_dump_json(), status=200)
        job = StandInJob(order, self._input(order))
        self.jobs[job.status.id] = job
        if order.idempotency_key:
            self.by_key[order.idempotency_key] = job
        if not self.holds_jobs:
            table = pa.table({}) if job.input is None else job.input
            await job.change(table, state=JobState.COMPLETED, rows_total=table.num_rows)
        return web.json_response(text=job.status.model_dump_json(), status=201)

    def _input(self, order):
        if order.rows_arrow is not None:
            return pa.ipc.open_stream(base64.b64decode(order.rows_arrow)).read_all()
        if order.source is not None and hasattr(order.source, "upload"):
            parts = self.uploads[order.source.upload]
            assert sorted(parts) == list(range(order.source.parts))
            tables = [pa.ipc.open_file(pa.py_buffer(parts[n])).read_all() for n in sorted(parts)]
            return pa.concat_tables(tables, promote_options="permissive")
        return None

    async def _list(self, request):
        newest = sorted(self.jobs, reverse=True)
        if request.query.get("live") == "true":
            newest = [one for one in newest if not self.jobs[one].status.is_final]
        before, limit = request.query.get("before"), int(request.query.get("limit", 100))
        rest = [one for one in newest if before is None or one < before]
        shown = [json.loads(self.jobs[one].status.model_dump_json()) for one in rest[:limit]]
        return web.json_response({"jobs": shown, "next": rest[limit - 1] if len(rest) > limit else None})

    async def _status(self, request):
        return web.json_response(text=self._job(request).status.model_dump_json())

    async def _cancel(self, request):
        job = self._job(request)
        if not job.status.is_final:
            await job.change(state=JobState.CANCELLED)
        return web.json_response(text=job.status.model_dump_json())

    async def _pause(self, request):
        return await self._steer(request, JobState.PAUSED, "paused")

    async def _resume(self, request):
        return await self._steer(request, JobState.RUNNING, "resumed")

    async def _steer(self, request, state, what):
        job = self._job(request)
        if job.status.is_final:
            raise Conflict(f"job {job.status.id} has ended ({job.status.state}) and cannot be {what}.")
        await job.change(state=state)
        return web.json_response(text=job.status.model_dump_json())

    async def _delete(self, request):
        job = self._job(request)
        if not job.status.is_final:
            raise Conflict(f"job {job.status.id} has not ended ({job.status.state}) and cannot be deleted.")
        del self.jobs[job.status.id]
        return web.Response(status=204)

    async def _events(self, request):
        job = self._job(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        shown = None
        while shown is None or not shown.is_final:
            async with job.changed:
                await job.changed.wait_for(lambda: job.status is not shown)  # noqa: B023  # awaited at once
                shown = job.status
            await response.write(f"event: status\ndata: {shown.model_dump_json()}\n\n".encode())
            if self._fault(request) == "cut":
                request.transport.close()
                break
        return response

    async def _results(self, request):
        job = self._job(request)
        page, row = map(int, request.query.get("cursor", "0.0").split("."))
        if page >= len(job.pages) and not job.status.is_final:
            try:
                async with asyncio.timeout(float(request.query["wait_s"])), job.changed:
                    await job.changed.wait_for(lambda: page < len(job.pages) or job.status.is_final)
            except TimeoutError:
                pass
        if page < len(job.pages) and not job.pages[page].num_columns:  # a slice of it would have rows
            table, page = pa.table({}), page + 1
        elif page < len(job.pages):
            table = job.pages[page].slice(row, self.page_rows)
            row += table.num_rows
            if row >= job.pages[page].num_rows:
                page, row = page + 1, 0
        else:
            table = pa.table({})
        headers = {"Batchmill-Rows": str(table.num_rows), "Batchmill-Next-Cursor": f"{page}.{row}"}
        headers["Batchmill-State"] = job.status.state
        if job.status.is_final and page >= len(job.pages):
            headers["Batchmill-End"] = "true"
        return web.Response(body=self._encoded(table, request), headers=headers, content_type=request.headers["Accept"])

    def _encoded(self, table, request):
        if request.headers["Accept"] == "application/x-ndjson":
            return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = sink.getvalue().to_pybytes()
        if self._fault(request) == "truncate":
            return body[: len(body) // 2]
        return body

    async def _open_upload(self, request):
        spec = JobForm.model_validate((await request.json())["spec"])
        if spec.source is not None:
            raise InvalidRequest("an upload has no source.")
        self._check_operator(spec)
        upload = new_id("upl")
        self.uploads[upload] = {}
        return web.json_response({"upload": upload, "max_part_bytes": self.max_part_bytes}, status=201)

    async def _put_part(self, request):
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        if self.in_flight == 2:
            self._two_on_their_way.set()
        body = await request.read()
        if self.holds_the_first_part:
            await asyncio.wait_for(self._two_on_their_way.wait(), timeout=30)
        self.in_flight -= 1
        assert request.content_type == "application/vnd.apache.arrow.file"
        self.uploads[request.match_info["id"]][int(request.match_info["n"])] = body
        return web.Response(status=204)

    async def _workers(self, _request):
        worker = WorkerInfo(
            name="cpu0@here",
            pool="default",
            device="cpu",
            operators=["echo", "embed"],
            shards_at_once=1,
            pid=1,
            started_at=time.time(),
            seen_at=time.time(),
            batches=[BatchChoice(operator="embed", units=950.4, rows=18, reason="overhead")],
        )
        return web.json_response({"workers": [json.loads(worker.model_dump_json())]})

    async def _pools(self, _request):
        return web.json_response({"pools": [POOL.model_dump()]})

    async def _log(self, request):
        job = self._job(request)
        if not self.log_pages:
            page = LogPage(entries=[], next="0-0", dropped=0, is_final=job.status.is_final)
        else:
            page = self.log_pages.pop(0) if len(self.log_pages) > 1 else self.log_pages[0]
        return web.json_response(text=page.model_dump_json())

    async def _operators(self, _request):
        return web.json_response({"operators": [one.model_dump() for one in OPERATORS]})
