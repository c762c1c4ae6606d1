"""The client for asyncio: the one implementation, which the blocking client runs on a thread of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel

from batchmill.client.job import AsyncJob
from batchmill.client.rows import check_rows, pieces
from batchmill.client.service import find_service
from batchmill.client.submission import Submission, make_spec
from batchmill.client.transport import Transport
from batchmill.cost import CostTotals
from batchmill.errors import InvalidRequest
from batchmill.job import JobStatus, PoolStatus, WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill.row_cache import CacheStats

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from batchmill.client.rows import Piece
    from batchmill.job import BatchPolicy, RetryPolicy

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

    async def close(self) -> None:
        """Close all connections. Jobs continue."""
        await self._transport.close()

    async def submit(
        self,
        operator: str,
        rows: Any = None,
        *,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        output: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        carry: Sequence[str] | None = None,
        name: str | None = None,
        pool: str | None = None,
        priority: int = 0,
        deadline: datetime | timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        batch: BatchPolicy | None = None,
        cache: bool = False,
        budget: float | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Submit a job over `rows` or over the files of `source`: exactly one of them.

        Args:
            operator: Name of an operator that the service's workers have loaded.
            rows: Dicts, an Arrow table, or an iterable of either, of any length: it is read in another thread and
                uploaded in parts. If it raises, nothing is submitted and its error is passed on.
            source: A file, folder or glob, several of them, or `{"path": …, "format": …, "columns": […]}`. The service
                reads it. Relative paths start at the current folder.
            params: The operator's parameters.
            output: A folder for the results, or `{"path": …, "format": "parquet" | "jsonl"}`. None: the service keeps
                the results.
            carry: Input columns to copy into the results. None: all.
            name: A name to recognise the job by, shown in lists. It does not have to be unique.
            pool: Pool of workers to run on. None: `"default"`.
            priority: -100 to 100; jobs with a higher priority run first.
            deadline: When the job expires: a datetime with a time zone, or a time from now, as a timedelta or in
                seconds. Among jobs of equal priority, the earliest deadline runs first.
            retry: How often rows are tried, how long they wait in between, and how many may fail.
            batch: How many rows are given to the device at once. None: as the operator says.
            cache: Whether to take results of equal rows from the row cache, and to add new ones to it. Equal rows are
                then computed once.
            budget: Pause the job when its cost reaches this amount, in the service's currency. `AsyncJob.resume` can
                raise it.
            idempotency_key: Submitting the same request again with the same key returns the existing job.

        Returns:
            The job, accepted by the service.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it. Nothing was submitted.
            Conflict: The idempotency key was used for a different request.
            ServiceUnavailable: The service cannot be reached, or has too many unfinished jobs.
        """
        submission, parts = self.prepare(
            operator,
            rows,
            source=source,
            params=params,
            output=output,
            carry=carry,
            name=name,
            pool=pool,
            priority=priority,
            deadline=deadline,
            retry=retry,
            batch=batch,
            cache=cache,
            budget=budget,
            idempotency_key=idempotency_key,
        )
        return await self._send(submission, parts)

    async def _send(self, submission: Submission, parts: Iterator[Piece]) -> AsyncJob:
        """The second half of `submit`: everything is sent, or what was sent is dropped again."""
        try:
            while (piece := await asyncio.to_thread(next, parts, None)) is not None:
                if not submission.hold(piece):
                    await submission.put(piece)
            return self.adopt(await submission.finish())
        except BaseException:
            await submission.abort()
            raise

    def prepare(
        self, operator: str, rows: Any, *, source: Any, idempotency_key: str | None, **options: Any
    ) -> tuple[Submission, Iterator[Piece]]:
        """Check a submission without sending anything: the first half of `submit`.

        Args:
            operator: As for `submit`.
            rows: As for `submit`.
            source: As for `submit`.
            idempotency_key: As for `submit`.
            **options: The other arguments of `submit`.

        Returns:
            The submission, and the pieces of its rows to upload.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it.
        """
        if (rows is None) == (source is None):
            raise InvalidRequest(
                f"a job takes rows or a source, {'neither' if rows is None else 'both'} came.",
                hint="Give rows= or source=.",
            )
        if rows is not None:
            check_rows(rows)
        spec = make_spec(operator, source=source, **options)
        return Submission(self._transport, spec, idempotency_key), iter(()) if rows is None else pieces(rows)

    def adopt(self, status: JobStatus) -> AsyncJob:
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

    async def jobs(self, limit: int | None = None) -> list[AsyncJob]:
        """List the jobs that the service knows, newest first.

        Args:
            limit: At most this many. None: all.

        Returns:
            The jobs, each with its status in `latest`.
        """
        found: list[AsyncJob] = []
        before: str | None = None
        while limit is None or len(found) < limit:
            query = {"limit": str(min(100, limit - len(found)) if limit is not None else 100)}
            page = await self._get(_Jobs, "/v1/jobs", query | ({"before": before} if before else {}))
            found += map(self.adopt, page.jobs)
            before = page.next
            if not before:
                break
        return found

    async def live_jobs(self, limit: int = 100) -> list[AsyncJob]:
        """List the jobs that have not ended, newest first.

        Args:
            limit: At most this many, 1 to 1000.

        Returns:
            The jobs, each with its status in `latest`.
        """
        page = await self._get(_Jobs, "/v1/jobs", {"live": "true", "limit": str(limit)})
        return [self.adopt(status) for status in page.jobs]

    async def workers(self) -> list[WorkerInfo]:
        """List the workers that are alive.

        Returns:
            One entry per worker: name, pool, device, operators, running attempts.
        """
        return (await self._get(_Workers, "/v1/workers")).workers

    async def pools(self) -> list[PoolStatus]:
        """List the pools that have workers or jobs.

        Returns:
            One entry per pool: its capacity, and the shards and rows that run and wait.
        """
        return (await self._get(_Pools, "/v1/pools")).pools

    async def operators(self) -> list[OperatorInfo]:
        """List the operators that the workers have loaded.

        Returns:
            One entry per operator: name, summary, required columns, and its parameters as JSON Schema.
        """
        return (await self._get(_Operators, "/v1/operators")).operators

    async def cache(self) -> CacheStats:
        """Read the statistics of the service's row cache.

        Returns:
            Its size, hits, misses and evicted rows.
        """
        return await self._get(CacheStats, "/v1/cache")

    async def clear_cache(self) -> None:
        """Empty the service's row cache."""
        await self._transport.call("DELETE", "/v1/cache")

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
