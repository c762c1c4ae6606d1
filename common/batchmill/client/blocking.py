"""The blocking client: `AsyncClient` on a background thread, for scripts, notebooks and threads."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from batchmill.client.asynchronous import AsyncClient
from batchmill.client.blocking_job import Job
from batchmill.client.loop import LoopThread

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from batchmill.client.job import AsyncJob
    from batchmill.client.rows import Piece
    from batchmill.client.submission import Submission
    from batchmill.cost import CostTotals
    from batchmill.job import BatchPolicy, PoolStatus, RetryPolicy, WorkerInfo
    from batchmill.operators.contract import OperatorInfo
    from batchmill.row_cache import CacheStats


class Client:
    """A client of a Batchmill service; safe to share between threads.

    Use it as a context manager or `close` it. Besides the errors that a method lists, each raises `Unauthorized` and
    `ServiceUnavailable`.

    Args:
        url: Address of the service. Default: `BATCHMILL_URL`, else the service that `batchmill up` runs on this
            machine.
        token: Bearer token. Default: `BATCHMILL_TOKEN`, else the token that `batchmill up` wrote.

    Raises:
        InvalidSettings: The URL or the token is malformed.
        ServiceUnavailable: No service is named and none runs on this machine.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._async = AsyncClient(url, token)
        self._loop = LoopThread(self._async.close)
        self._finalizer = weakref.finalize(self, self._loop.close)

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncClient", "Client")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Jobs continue."""
        self._finalizer()

    def submit(
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
    ) -> Job:
        """Submit a job over `rows` or over the files of `source`: exactly one of them.

        Args:
            operator: Name of an operator that the service's workers have loaded.
            rows: Dicts, an Arrow table, or an iterable of either, of any length: it is read in this thread and uploaded
                in parts. If it raises, nothing is submitted and its error is passed on.
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
            budget: Pause the job when its cost reaches this amount, in the service's currency. `Job.resume` can raise
                it.
            idempotency_key: Submitting the same request again with the same key returns the existing job.

        Returns:
            The job, accepted by the service.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it. Nothing was submitted.
            Conflict: The idempotency key was used for a different request.
            ServiceUnavailable: The service cannot be reached, or has too many unfinished jobs.
        """
        submission, parts = self._async.prepare(
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
        return self._send(submission, parts)

    def _send(self, submission: Submission, parts: Iterator[Piece]) -> Job:
        """The second half of `submit`: everything is sent, or what was sent is dropped again."""
        try:
            for piece in parts:
                if not submission.hold(piece):
                    self._loop.run(submission.put(piece))
            return self._adopt(self._async.adopt(self._loop.run(submission.finish())))
        except BaseException:
            self._loop.run(submission.abort())
            raise

    def job(self, job_id: str) -> Job:
        """Return a job by its id, without a request to the service.

        Args:
            job_id: The id, as `batchmill jobs` lists it.

        Returns:
            The job. Whether it exists is found out by the first method that asks the service.

        Raises:
            InvalidRequest: The id is empty.
        """
        return self._adopt(self._async.job(job_id))

    def jobs(self, limit: int | None = None) -> list[Job]:
        """List the jobs that the service knows, newest first.

        Args:
            limit: At most this many. None: all.

        Returns:
            The jobs, each with its status in `latest`.
        """
        return [self._adopt(job) for job in self._loop.run(self._async.jobs(limit))]

    def live_jobs(self, limit: int = 100) -> list[Job]:
        """List the jobs that have not ended, newest first.

        Args:
            limit: At most this many, 1 to 1000.

        Returns:
            The jobs, each with its status in `latest`.
        """
        return [self._adopt(job) for job in self._loop.run(self._async.live_jobs(limit))]

    def workers(self) -> list[WorkerInfo]:
        """List the workers that are alive.

        Returns:
            One entry per worker: name, pool, device, operators, running attempts.
        """
        return self._loop.run(self._async.workers())

    def pools(self) -> list[PoolStatus]:
        """List the pools that have workers or jobs.

        Returns:
            One entry per pool: its capacity, and the shards and rows that run and wait.
        """
        return self._loop.run(self._async.pools())

    def operators(self) -> list[OperatorInfo]:
        """List the operators that the workers have loaded.

        Returns:
            One entry per operator: name, summary, required columns, and its parameters as JSON Schema.
        """
        return self._loop.run(self._async.operators())

    def cache(self) -> CacheStats:
        """Read the statistics of the service's row cache.

        Returns:
            Its size, hits, misses and evicted rows.
        """
        return self._loop.run(self._async.cache())

    def clear_cache(self) -> None:
        """Empty the service's row cache."""
        self._loop.run(self._async.clear_cache())

    def costs(self, limit: int = 50) -> CostTotals:
        """Read what all jobs cost, deleted ones included.

        Args:
            limit: At most this many entries per list, 1 to 1000.

        Returns:
            The total, and lists by tenant, by pool and operator, and by day, the most expensive first.
        """
        return self._loop.run(self._async.costs(limit))

    def _adopt(self, job: AsyncJob) -> Job:
        return Job(self, self._loop, job)
