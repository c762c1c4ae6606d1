"""The client for asyncio: the only implementation, which the blocking client runs on its own thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel

from batchmill.client.connection.answers import (
    IndexesAnswer,
    JobsAnswer,
    StreamsAnswer,
)
from batchmill.client.connection.service import find_service
from batchmill.client.connection.transport import Transport
from batchmill.client.fleet_calls import FleetCalls
from batchmill.client.interactive import InteractiveCalls
from batchmill.client.job import AsyncJob
from batchmill.client.job_filter import JobFilter
from batchmill.client.planning import PlanCalls
from batchmill.client.submitting.options import check_names, with_job_options
from batchmill.client.submitting.push import push_requests
from batchmill.client.submitting.rerun import rerun_request
from batchmill.client.submitting.rows import check_rows, upload_parts
from batchmill.client.submitting.submission import JobSender, make_spec
from batchmill.client.webhook_calls import WebhookCalls
from batchmill.errors import InvalidRequest
from batchmill.jobs.cost import CostTotals
from batchmill.jobs.status import CheckedJob, JobStatus
from batchmill.jobs.streams.pushing import Pushed
from batchmill.row_cache import CacheStats

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping
    from datetime import datetime, timedelta

    from batchmill.client.submitting.options import JobOptions
    from batchmill.client.submitting.rows import UploadPart
    from batchmill.jobs.index_status import IndexStatus
    from batchmill.jobs.sink import SinkSpec
    from batchmill.jobs.streams.pushing import PushedStream

M = TypeVar("M", bound=BaseModel)
MAX_JOBS_PAGE = 100
MAX_INDEXES_PAGE = 1000


class AsyncClient(InteractiveCalls, PlanCalls, FleetCalls, WebhookCalls):
    """A client of a Batchmill service for asyncio code.

    Use it as an async context manager or `close` it. It belongs to one event loop. Besides the errors that a method
    lists, each raises `Unauthorized` and `ServiceUnavailable`.

    Args:
        url: Address of the service. Default: `BATCHMILL_URL`, else the service that `batchmill up` runs on this
            machine.
        token: Bearer token. Default: `BATCHMILL_TOKEN`, else the token that `batchmill up` wrote.

    Raises:
        InvalidSettings: The URL or the token is malformed.
        ServiceUnavailable: No service is named and none runs on this machine.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._transport = Transport(find_service(url, token))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.address.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The URL of the service, without a slash at its end."""
        return self._transport.address.url

    async def close(self) -> None:
        """Close all connections. Jobs continue."""
        await self._transport.close()

    @with_job_options
    async def submit(self, operator: str | None = None, rows: Any = None, **options: Unpack[JobOptions]) -> AsyncJob:
        """Submit a job over `rows` or over the files of `source`: exactly one of them.

        Args:
            operator: Name of an operator that the service's workers have loaded; None with `stages`.
            rows: Dicts, an Arrow table, or an iterable of either, of any length. It is read in another thread and
                uploaded in parts. If it raises, nothing is submitted and its error is passed on.

        Returns:
            The job, accepted by the service.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it. Nothing was submitted.
            Conflict: The idempotency key was used for a different request.
            ServiceUnavailable: The service cannot be reached, or has too many unfinished jobs.
        """
        sender, parts = self.prepare(operator, rows, options)
        return self.job_of(await sender.send(parts, sender.finish))

    def prepare(self, operator: str | None, rows: Any, options: JobOptions) -> tuple[JobSender, Iterator[UploadPart]]:
        """Check a job without sending anything: the first half of `submit`.

        Args:
            operator: As for `submit`.
            rows: As for `submit`.
            options: The other arguments of `submit`.

        Returns:
            The sender of the job, and the parts of its rows to `put`.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it.
        """
        check_names(options)
        if (rows is None) == (options.get("source") is None):
            raise InvalidRequest(
                f"expected rows or a source, got {'neither' if rows is None else 'both'}.",
                hint="Give rows= or source=; a job file has source.",
            )
        if rows is not None:
            check_rows(rows)
        sender = JobSender(self._transport, make_spec(operator, options), options.get("idempotency_key"))
        return sender, iter(()) if rows is None else upload_parts(rows)

    @with_job_options
    async def check(self, operator: str | None = None, **options: Unpack[JobOptions]) -> CheckedJob:
        """Check a job over the files of `source` as `submit` does, without submitting it.

        Args:
            operator: Name of an operator that the service's workers have loaded.

        Returns:
            The rows and columns of the input.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it.
        """
        sender, _ = self.prepare(operator, None, options)
        return await sender.check()

    async def rerun(
        self,
        job: AsyncJob | str,
        from_stage: str,
        *,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
        output: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        sink: str | os.PathLike[str] | SinkSpec | Mapping[str, Any] | None = None,
        name: str | None = None,
        priority: int | None = None,
        deadline: datetime | timedelta | float | str | None = None,
        budget: float | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Run the later stages of an ended job of several again, over what is kept of the stage before them.

        The first job stays as it is; it cannot be deleted before the new one has ended. Rows keep their paths and
        `source_row`. Rows that have failed before `from_stage` are not among them.

        Args:
            job: The job, or its id. The stage before `from_stage` must have been submitted with `keep=True`.
            from_stage: The first stage that is run again.
            stages: For stages by name what is different: arguments of `Stage`, and parameters of the operator.
            output: A folder for the results, as in `submit`. None: the service keeps the results.
            sink: A store for the results instead, as in `submit`.
            name: A name for the new job. None: as the first one.
            priority: -100 to 100; higher runs first. None: as the first one.
            deadline: When the new job expires, as in `submit`.
            budget: Pause the new job when it has cost this much.
            idempotency_key: Asking again with the same key returns the existing job.

        Returns:
            The new job.

        Raises:
            Conflict: The job has not ended, or the results of the stage before are not there.
            InvalidRequest: The job has no such stage, or it is the first one, or the request is wrong otherwise.
        """
        request = rerun_request(
            from_stage,
            stages,
            output=output,
            sink=sink,
            name=name,
            priority=priority,
            deadline=deadline,
            budget=budget,
            idempotency_key=idempotency_key,
        )
        job_id = job if isinstance(job, str) else job.id
        path = f"/v1/jobs/{quote(job_id, safe='')}/rerun"
        return self.job_of(self._transport.parse(JobStatus, await self._transport.json("POST", path, body=request)))

    async def push(
        self, stream: str, rows: Any, *, producer: str | None = None, sequence: int | None = None
    ) -> list[Pushed]:
        """Send rows to a stream of the service, for jobs over `Push(stream)`.

        Args:
            stream: The name of the stream. It need not exist before.
            rows: Dicts, an Arrow table, or an iterable of either.
            producer: Who sends them. With `sequence`, sending the same rows again changes nothing.
            sequence: The producer's number of these rows, greater than that of all rows that it sent before.

        Returns:
            What became of the rows, for each request that was needed: more than one for more than 4 MiB.

        Raises:
            InvalidRows: The rows do not form a table, or are too many for one sequence.
            ServiceUnavailable: The streams of the tenant hold as many bytes as they may; try again later.
        """
        requests = await asyncio.to_thread(push_requests, rows, producer, sequence)
        path = f"/v1/streams/{quote(stream, safe='')}"
        return [
            self._transport.parse(Pushed, await self._transport.json("POST", path, body=request))
            for request in requests
        ]

    async def streams(self) -> list[PushedStream]:
        """List the streams to which rows were sent with `push`.

        Returns:
            One entry per stream: its name, its rows, and the bytes of those that no job has settled yet.
        """
        return (await self._get(StreamsAnswer, "/v1/streams")).streams

    def job_of(self, status: JobStatus) -> AsyncJob:
        """Return the job that a status describes.

        Args:
            status: A status from the service.

        Returns:
            The job, with `status` as its `latest`.
        """
        return AsyncJob(self._transport, status.id, status)

    def job(self, job_id: str) -> AsyncJob:
        """Return a job by its id, without a request to the service.

        Args:
            job_id: The id, as `batchmill jobs` lists it.

        Returns:
            The job. Whether it exists is found out by the first method that asks the service.

        Raises:
            InvalidRequest: The id is empty.
        """
        if not job_id.strip():
            raise InvalidRequest("the job id is empty.", hint="`client.jobs()` and `batchmill jobs` list the jobs.")
        return AsyncJob(self._transport, job_id)

    async def jobs(
        self,
        limit: int | None = None,
        *,
        state: Collection[str] | str | None = None,
        name: str | None = None,
        operator: str | None = None,
        tenant: str | None = None,
    ) -> list[AsyncJob]:
        """List the jobs that the service knows, newest first.

        Args:
            limit: At most this many. None: all.
            state: Only jobs in this state, or in one of these.
            name: Only jobs of this name; `*` and `?` stand for any characters and for one.
            operator: Only jobs of this operator.
            tenant: Only jobs of this tenant.

        Returns:
            The jobs, each with its status in `latest`.
        """
        wanted = JobFilter(state, name, operator, tenant)
        found: list[AsyncJob] = []
        before: str | None = None
        while limit is None or len(found) < limit:
            size = MAX_JOBS_PAGE if limit is None or wanted.excludes_some else min(MAX_JOBS_PAGE, limit - len(found))
            query = {"limit": str(size)} | ({"before": before} if before else {})
            page = await self._get(JobsAnswer, "/v1/jobs", query)
            found += [self.job_of(status) for status in page.jobs if wanted.accepts(status)]
            before = page.next
            if not before:
                break
        return found[:limit]

    async def live_jobs(self, limit: int = 100) -> list[AsyncJob]:
        """List the jobs that have not ended, newest first.

        Args:
            limit: At most this many, 1 to 1000.

        Returns:
            The jobs, each with its status in `latest`.
        """
        page = await self._get(JobsAnswer, "/v1/jobs", {"live": "true", "limit": str(limit)})
        return [self.job_of(status) for status in page.jobs]

    async def cache(self) -> CacheStats:
        """Read the statistics of the service's row cache.

        Returns:
            Its size, hits, misses and evicted rows.
        """
        return await self._get(CacheStats, "/v1/cache")

    async def clear_cache(self) -> None:
        """Empty the service's row cache."""
        await self._transport.call("DELETE", "/v1/cache")

    async def indexes(self) -> list[IndexStatus]:
        """List the indexes that sinks of jobs have published.

        Returns:
            One entry per index: its place, rows, and how its vectors were made.
        """
        found: list[IndexStatus] = []
        query = {"limit": str(MAX_INDEXES_PAGE)}
        while True:
            page = await self._get(IndexesAnswer, "/v1/indexes", query)
            found += page.indexes
            if page.next is None:
                return found
            query["after"] = page.next

    async def forget_index(self, name: str) -> None:
        """Forget an index. Its rows stay in the store.

        Args:
            name: The name of the index.

        Raises:
            NotFound: There is no such index.
        """
        await self._transport.call("DELETE", f"/v1/indexes/{quote(name, safe='')}")

    async def costs(self, limit: int = 50) -> CostTotals:
        """Read what all jobs cost, deleted ones included.

        Args:
            limit: At most this many entries per list, 1 to 1000.

        Returns:
            The total, and lists by tenant, by pool and operator, and by day, the most expensive first.
        """
        return await self._get(CostTotals, "/v1/costs", {"limit": str(limit)})

    async def _get(self, model: type[M], path: str, query: Mapping[str, str] | None = None) -> M:
        return self._transport.parse(model, await self._transport.json("GET", path, query=query))
