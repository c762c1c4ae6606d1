"""The blocking client: `AsyncClient` on a background thread, for scripts, notebooks and threads."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from batchmill.client.asynchronous import AsyncClient
from batchmill.client.blocking_job import Job
from batchmill.client.blocking_plans import BlockingPlans
from batchmill.client.blocking_webhooks import BlockingWebhooks
from batchmill.client.loop import LoopThread
from batchmill.client.submitting.options import with_job_options

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from batchmill.client.job import AsyncJob
    from batchmill.client.submitting.options import JobOptions
    from batchmill.fleet import PoolScale, PoolStatus, PoolUsage, WorkerInfo
    from batchmill.jobs.cost import CostTotals
    from batchmill.jobs.index_status import IndexStatus
    from batchmill.jobs.search import SearchHit
    from batchmill.jobs.sink import SinkSpec
    from batchmill.jobs.status import CheckedJob
    from batchmill.jobs.streams.pushing import Pushed, PushedStream
    from batchmill.operators.contract import OperatorInfo
    from batchmill.row_cache import CacheStats

T = TypeVar("T")


class Client(BlockingPlans, BlockingWebhooks):
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

    @property
    def url(self) -> str:
        """The URL of the service, without a slash at its end."""
        return self._async.url

    def close(self) -> None:
        """Close all connections. Jobs continue."""
        self._finalizer()

    @with_job_options
    def submit(self, operator: str | None = None, rows: Any = None, **options: Unpack[JobOptions]) -> Job:
        """Submit a job over `rows` or over the files of `source`: exactly one of them.

        Args:
            operator: Name of an operator that the service's workers have loaded; None with `stages`.
            rows: Dicts, an Arrow table, or an iterable of either, of any length. It is read in this thread and uploaded
                in parts. If it raises, nothing is submitted and its error is passed on.

        Returns:
            The job, accepted by the service.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it. Nothing was submitted.
            Conflict: The idempotency key was used for a different request.
            ServiceUnavailable: The service cannot be reached, or has too many unfinished jobs.
        """
        sender, parts = self._async.prepare(operator, rows, options)
        return self._wrap(self._async.job_of(self._sent(sender, parts, sender.finish)))

    @with_job_options
    def check(self, operator: str | None = None, **options: Unpack[JobOptions]) -> CheckedJob:
        """Check a job over the files of `source` as `submit` does, without submitting it.

        Args:
            operator: Name of an operator that the service's workers have loaded.

        Returns:
            The rows and columns of the input.

        Raises:
            InvalidRequest: Something in the request is wrong; the message names it.
        """
        sender, _ = self._async.prepare(operator, None, options)
        return self._loop.run(sender.check())

    def push(self, stream: str, rows: Any, *, producer: str | None = None, sequence: int | None = None) -> list[Pushed]:
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
        return self._loop.run(self._async.push(stream, rows, producer=producer, sequence=sequence))

    def streams(self) -> list[PushedStream]:
        """List the streams to which rows were sent with `push`.

        Returns:
            One entry per stream: its name, its rows, and the bytes of those that no job has settled yet.
        """
        return self._loop.run(self._async.streams())

    def rerun(
        self,
        job: Job | str,
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
    ) -> Job:
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
        found = self._async.rerun(
            job if isinstance(job, str) else job.id,
            from_stage,
            stages=stages,
            output=output,
            sink=sink,
            name=name,
            priority=priority,
            deadline=deadline,
            budget=budget,
            idempotency_key=idempotency_key,
        )
        return self._wrap(self._loop.run(found))

    def job(self, job_id: str) -> Job:
        """Return a job by its id, without a request to the service.

        Args:
            job_id: The id, as `batchmill jobs` lists it.

        Returns:
            The job. Whether it exists is found out by the first method that asks the service.

        Raises:
            InvalidRequest: The id is empty.
        """
        return self._wrap(self._async.job(job_id))

    def jobs(
        self,
        limit: int | None = None,
        *,
        state: Collection[str] | str | None = None,
        name: str | None = None,
        operator: str | None = None,
        tenant: str | None = None,
    ) -> list[Job]:
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
        found = self._async.jobs(limit, state=state, name=name, operator=operator, tenant=tenant)
        return [self._wrap(job) for job in self._loop.run(found)]

    def live_jobs(self, limit: int = 100) -> list[Job]:
        """List the jobs that have not ended, newest first.

        Args:
            limit: At most this many, 1 to 1000.

        Returns:
            The jobs, each with its status in `latest`.
        """
        return [self._wrap(job) for job in self._loop.run(self._async.live_jobs(limit))]

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

    def scale(self, pool: str) -> PoolScale:
        """Return how many workers a pool needs, and why.

        Args:
            pool: The name of the pool; one without workers and work needs none.

        Returns:
            The number of workers and of machines. Raises `ServiceUnavailable` while the service does not know.
        """
        return self._loop.run(self._async.scale(pool))

    def pool_usage(self, days: int = 7) -> list[PoolUsage]:
        """Compare what the workers of each pool cost with what would have been enough.

        Args:
            days: Today and the days before, UTC, 1 to 14.

        Returns:
            One entry per pool: worker hours, money, and advice.
        """
        return self._loop.run(self._async.pool_usage(days))

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

    def call(
        self,
        operator: str,
        rows: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any] | None = None,
        *,
        pool: str | None = None,
        timeout: float | None = 300.0,
    ) -> list[dict[str, Any]]:
        """Have rows answered at once, without a job: by a worker that has the operator loaded with these parameters.

        If none has, one loads it first, and the call waits for that.

        Args:
            operator: Name of an operator that the service's workers have loaded.
            rows: The rows, at most 2,048, with values that JSON has.
            params: The operator's parameters.
            pool: The pool of workers. None: the default one.
            timeout: How long to wait for the operator to be loaded, in seconds. None: without limit.

        Returns:
            What the operator makes of the rows, in their order.

        Raises:
            InvalidRequest: The request is wrong, or a row failed (`InvalidRows`): the others' results are dropped.
            TooManyRequests: Too many requests wait already.
            ModelNotLoaded: The operator was not loaded in time.
            OperatorFailed: The operator cannot be loaded, or fails.
        """
        return self._loop.run(self._async.call(operator, rows, params, pool=pool, timeout=timeout))

    def search(
        self,
        index: str,
        text: str | None = None,
        *,
        vector: Sequence[float] | None = None,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        model: str | None = None,
    ) -> list[SearchHit]:
        """Find the rows of an index that are nearest to a text or a vector.

        Args:
            index: The name of the index.
            text: A text, which is embedded as the rows of the index were.
            vector: Or a vector.
            k: How many rows to find, at most.
            where: A filter: for each column a value, or comparisons such as `{"gte": 2020, "in": [1, 2]}`.
            columns: The columns of the rows to return. None: all but the vectors.
            model: The model that you expect: an index of another one is refused.

        Returns:
            The rows with their ids and distances, the nearest first.

        Raises:
            NotFound: There is no such index.
            InvalidRequest: The search does not fit the index.
        """
        return self._loop.run(
            self._async.search(index, text, vector=vector, k=k, where=where, columns=columns, model=model)
        )

    def indexes(self) -> list[IndexStatus]:
        """List the indexes that sinks of jobs have published.

        Returns:
            One entry per index: its place, rows, and how its vectors were made.
        """
        return self._loop.run(self._async.indexes())

    def forget_index(self, name: str) -> None:
        """Forget an index. Its rows stay in the store.

        Args:
            name: The name of the index.

        Raises:
            NotFound: There is no such index.
        """
        self._loop.run(self._async.forget_index(name))

    def costs(self, limit: int = 50) -> CostTotals:
        """Read what all jobs cost, deleted ones included.

        Args:
            limit: At most this many entries per list, 1 to 1000.

        Returns:
            The total, and lists by tenant, by pool and operator, and by day, the most expensive first.
        """
        return self._loop.run(self._async.costs(limit))

    def _wrap(self, job: AsyncJob) -> Job:
        return Job(self, self._loop, job)
