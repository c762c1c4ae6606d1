"""The client for asyncio: the only implementation, which the blocking client runs on its own thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from pydantic import BaseModel

from batchmill.client.job import AsyncJob
from batchmill.client.options import check_names, with_job_options
from batchmill.client.rows import check_rows, upload_parts
from batchmill.client.service import find_service
from batchmill.client.submission import JobSender, make_spec
from batchmill.client.transport import Transport
from batchmill.cost import CostTotals
from batchmill.errors import InvalidRequest
from batchmill.job import JobStatus, PoolStatus, WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill.row_cache import CacheStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.client.options import JobOptions
    from batchmill.client.rows import UploadPart

M = TypeVar("M", bound=BaseModel)


class _Jobs(BaseModel):
    jobs: list[JobStatus]
    next: str | None = None


class _Workers(BaseModel):
    workers: list[WorkerInfo]


class _Pools(BaseModel):
    pools: list[PoolStatus]


class _Operators(BaseModel):
    operators: list[OperatorInfo]


class AsyncClient:
    """A client of a Batchmill service for asyncio code.

    url, token: the service, else `BATCHMILL_URL` and `BATCHMILL_TOKEN`, else the one that `batchmill up` runs on
    this machine. Use it as an async context manager or `close` it; it belongs to one event loop. All methods raise
    the typed errors of `batchmill.errors`, among them `Unauthorized` and `ServiceUnavailable`.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._transport = Transport(find_service(url, token))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.address.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; jobs continue."""
        await self._transport.close()

    @with_job_options
    async def submit(self, operator: str, rows: Any = None, **options: Unpack[JobOptions]) -> AsyncJob:
        """Submit a job over `rows` or over the files of `source`; exactly one of them.

        Args:
            operator: The name of an operator that the service's workers have loaded.
            rows: Dicts, an Arrow table, or an iterable of either, of any length. It is read in another thread and
                uploaded part by part. If it raises, nothing is submitted and its error propagates.

        Returns:
            The job, which the service has accepted.

        Raises:
            InvalidRequest: The request is wrong; the message names what. Nothing was submitted.
        """
        sender, parts = self.prepare(operator, rows, options)
        return await self._send(sender, parts)

    async def _send(self, sender: JobSender, parts: Iterator[UploadPart]) -> AsyncJob:
        """Send a prepared job; after an error, delete what was sent."""
        try:
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                if not sender.hold(part):
                    await sender.put(part)
            return self.job_of(await sender.finish())
        except BaseException:
            await sender.abort()
            raise

    def prepare(self, operator: str, rows: Any, options: JobOptions) -> tuple[JobSender, Iterator[UploadPart]]:
        """Check a job without sending anything; return its sender and the parts to `put`."""
        check_names(options)
        if (rows is None) == (options.get("source") is None):
            raise InvalidRequest(
                f"expected rows or a source, got {'neither' if rows is None else 'both'}.",
                hint="Give rows= or source=.",
            )
        if rows is not None:
            check_rows(rows)
        sender = JobSender(self._transport, make_spec(operator, options), options.get("idempotency_key"))
        return sender, iter(()) if rows is None else upload_parts(rows)

    def job_of(self, status: JobStatus) -> AsyncJob:
        """Return the job of a status."""
        return AsyncJob(self._transport, status.id, status)

    def job(self, job_id: str) -> AsyncJob:
        """Return a job by its id, without a request: the first method that sends one reports an unknown id."""
        if not job_id.strip():
            raise InvalidRequest("the job id is empty.", hint="`client.jobs()` and `batchmill jobs` list the jobs.")
        return AsyncJob(self._transport, job_id)

    async def jobs(self, limit: int | None = None) -> list[AsyncJob]:
        """Return the jobs, newest first, at most `limit`; each with its `latest` status."""
        found: list[AsyncJob] = []
        before: str | None = None
        while limit is None or len(found) < limit:
            query = {"limit": str(min(100, limit - len(found)) if limit is not None else 100)}
            page = await self._get(_Jobs, "/v1/jobs", query | ({"before": before} if before else {}))
            found += map(self.job_of, page.jobs)
            before = page.next
            if not before:
                break
        return found

    async def live_jobs(self, limit: int = 100) -> list[AsyncJob]:
        """Return the jobs that have not ended, newest first, at most `limit` (1 to 1000)."""
        page = await self._get(_Jobs, "/v1/jobs", {"live": "true", "limit": str(limit)})
        return [self.job_of(status) for status in page.jobs]

    async def workers(self) -> list[WorkerInfo]:
        """Return the running workers."""
        return (await self._get(_Workers, "/v1/workers")).workers

    async def pools(self) -> list[PoolStatus]:
        """Return running and queued work by pool."""
        return (await self._get(_Pools, "/v1/pools")).pools

    async def operators(self) -> list[OperatorInfo]:
        """Return the operators that the workers have loaded."""
        return (await self._get(_Operators, "/v1/operators")).operators

    async def cache(self) -> CacheStats:
        """Return statistics of the row cache."""
        return await self._get(CacheStats, "/v1/cache")

    async def clear_cache(self) -> None:
        """Clear the row cache."""
        await self._transport.call("DELETE", "/v1/cache")

    async def costs(self, limit: int = 50) -> CostTotals:
        """Return the cost of all jobs, deleted ones included: by tenant, pool and operator, and day, `limit` each."""
        return await self._get(CostTotals, "/v1/costs", {"limit": str(limit)})

    async def _get(self, model: type[M], path: str, query: Mapping[str, str] | None = None) -> M:
        return self._transport.parse(model, await self._transport.json("GET", path, query=query))
