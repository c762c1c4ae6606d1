"""The blocking client: `AsyncClient` on a background thread, for scripts, notebooks and threads."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from batchmill.client.asynchronous import AsyncClient
from batchmill.client.display import as_html, mimebundle
from batchmill.client.job import AsyncJob, describe
from batchmill.client.loop import LoopThread
from batchmill.client.options import with_job_options
from batchmill.client.pages import dicts
from batchmill.errors import BatchmillError
from batchmill.job_log import LogLevel

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping

    import pyarrow as pa

    from batchmill.client.options import JobOptions
    from batchmill.client.pages import ResultPage
    from batchmill.client.rows import UploadPart
    from batchmill.client.submission import JobSender
    from batchmill.cost import CostTotals
    from batchmill.dead_letters import DeadLetter
    from batchmill.job import JobCost, JobStatus, PoolStatus, WorkerInfo
    from batchmill.job_log import LogEntry
    from batchmill.operators.contract import OperatorInfo
    from batchmill.row_cache import CacheStats


class Client:
    """A client of a Batchmill service; safe to share between threads.

    url, token: the service, else `BATCHMILL_URL` and `BATCHMILL_TOKEN`, else the one that `batchmill up` runs on
    this machine. Use it as a context manager or `close` it. All methods raise the typed errors of
    `batchmill.errors`, among them `Unauthorized` and `ServiceUnavailable`.
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
        """Close all connections; jobs continue."""
        self._finalizer()

    @with_job_options
    def submit(self, operator: str, rows: Any = None, **options: Unpack[JobOptions]) -> Job:
        """Submit a job over `rows` or over the files of `source`; exactly one of them.

        Args:
            operator: The name of an operator that the service's workers have loaded.
            rows: Dicts, an Arrow table, or an iterable of either, of any length. It is read in this thread and
                uploaded part by part. If it raises, nothing is submitted and its error propagates.

        Returns:
            The job, which the service has accepted.

        Raises:
            InvalidRequest: The request is wrong; the message names what. Nothing was submitted.
        """
        sender, parts = self._async.prepare(operator, rows, options)
        return self._send(sender, parts)

    def _send(self, sender: JobSender, parts: Iterator[UploadPart]) -> Job:
        """Send a prepared job; after an error, delete what was sent."""
        try:
            for part in parts:
                if not sender.hold(part):
                    self._loop.run(sender.put(part))
            return self._wrap(self._async.job_of(self._loop.run(sender.finish())))
        except BaseException:
            self._loop.run(sender.abort())
            raise

    def job(self, job_id: str) -> Job:
        """Return a job by its id, without a request: the first method that sends one reports an unknown id."""
        return self._wrap(self._async.job(job_id))

    def jobs(self, limit: int | None = None) -> list[Job]:
        """Return the jobs, newest first, at most `limit`; each with its `latest` status."""
        return [self._wrap(job) for job in self._loop.run(self._async.jobs(limit))]

    def live_jobs(self, limit: int = 100) -> list[Job]:
        """Return the jobs that have not ended, newest first, at most `limit` (1 to 1000)."""
        return [self._wrap(job) for job in self._loop.run(self._async.live_jobs(limit))]

    def workers(self) -> list[WorkerInfo]:
        """Return the running workers."""
        return self._loop.run(self._async.workers())

    def pools(self) -> list[PoolStatus]:
        """Return running and queued work by pool."""
        return self._loop.run(self._async.pools())

    def operators(self) -> list[OperatorInfo]:
        """Return the operators that the workers have loaded."""
        return self._loop.run(self._async.operators())

    def cache(self) -> CacheStats:
        """Return statistics of the row cache."""
        return self._loop.run(self._async.cache())

    def clear_cache(self) -> None:
        """Clear the row cache."""
        self._loop.run(self._async.clear_cache())

    def costs(self, limit: int = 50) -> CostTotals:
        """Return the cost of all jobs, deleted ones included: by tenant, pool and operator, and day, `limit` each."""
        return self._loop.run(self._async.costs(limit))

    def _wrap(self, job: AsyncJob) -> Job:
        return Job(self, self._loop, job)


class Job:
    """A job of a `Client`."""

    def __init__(self, client: Client, loop: LoopThread, job: AsyncJob) -> None:
        self._client = client  # kept, so that it is not closed while one of its jobs is in use
        self._loop = loop
        self._async = job

    def __repr__(self) -> str:
        return describe("Job", self.id, self.latest)

    def _repr_html_(self) -> str:
        return as_html(self.id, self._current_status())

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return mimebundle("Job", self.id, self._current_status())

    def _current_status(self) -> JobStatus | None:
        """Return the current status for display; the last one seen if the service does not answer."""
        if self.latest is None or not self.latest.is_final:
            with suppress(BatchmillError, RuntimeError):  # a closed client shows the last one too
                return self.status()
        return self.latest

    @property
    def id(self) -> str:
        """The job's id."""
        return self._async.id

    @property
    def latest(self) -> JobStatus | None:
        """The last status received, None before the first; sends no request."""
        return self._async.latest

    def status(self) -> JobStatus:
        """Return the current status."""
        return self._loop.run(self._async.status())

    def pause(self) -> JobStatus:
        """Pause the job: its workers stop after the current batch, and no more of its shards are started.

        Raises `Conflict` if it is stopping or has ended.
        """
        return self._loop.run(self._async.pause())

    def resume(self, *, budget: float | None = None) -> JobStatus:
        """Resume a paused job. budget: the new total budget; None: unchanged.

        Raises `Conflict` if it is stopping or has ended, or has used up its budget.
        """
        return self._loop.run(self._async.resume(budget=budget))

    def cost(self) -> JobCost:
        """Return what the job cost so far. Running attempts are counted when they end."""
        return self._loop.run(self._async.cost())

    def cancel(self) -> JobStatus:
        """Ask the job to stop and keep its finished rows. A job that has ended is not changed."""
        return self._loop.run(self._async.cancel())

    def delete(self) -> None:
        """Delete the job, its rows and its results from the service; the output folder stays.

        Raises `Conflict` if it has not ended.
        """
        self._loop.run(self._async.delete())

    def dead_letters(self) -> list[DeadLetter]:
        """Return the failed rows so far, in input order, each with its error, its attempts and its row."""
        return self._loop.run(self._async.dead_letters())

    def dead_letter_counts(self) -> dict[str, int]:
        """Return the number of failed rows by error type."""
        return self._loop.run(self._async.dead_letter_counts())

    def replay(
        self,
        indices: Collection[int] | None = None,
        *,
        error_type: str | None = None,
        edits: Mapping[int, Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Run failed rows of an ended job again; their results are inserted into its results, in input order.

        indices: the rows, by index; None: all. error_type: only rows that failed with this error. edits: by index,
        new values for columns of a row; without `indices` and `error_type`, only edited rows are run. Returns the
        replay, which is a job; when it has ended, the results are in place.

        Raises `Conflict` if this job has not ended, `InvalidRequest` if the request is wrong.
        """
        replay = self._async.replay(indices, error_type=error_type, edits=edits, idempotency_key=idempotency_key)
        return Job(self._client, self._loop, self._loop.run(replay))

    def export_dead_letters(self, path: str | os.PathLike[str]) -> int:
        """Write the dead letters to a JSON Lines file, for other tools or for editing; return their number.

        Raises `StorageError` if it cannot be written; an existing file is then unchanged.
        """
        return self._loop.run(self._async.export_dead_letters(path))

    def purge_dead_letters(self, indices: Collection[int] | None = None, *, error_type: str | None = None) -> int:
        """Delete dead letters of an ended job, including their rows; return their number.

        The job still counts the rows as failed. Raises `Conflict` if it has not ended.
        """
        return self._loop.run(self._async.purge_dead_letters(indices, error_type=error_type))

    def watch(self) -> Iterator[JobStatus]:
        """Yield the current status and then each change; end after the final status."""
        yield from self._loop.iterate(self._async.watch())

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until the job has ended, and return it.

        timeout: in seconds. Raises `JobFailed`, `JobCancelled` or `JobExpired` if it did not complete, `TimeoutError`
        if it has not ended in time; the job continues.
        """
        self._loop.run(self._async.wait(timeout))
        return self

    def log(self, level: LogLevel | str = LogLevel.INFO) -> list[LogEntry]:
        """Return the job's log: failures, what followed them, and changes of state; oldest first.

        level: the minimum level to return. The service keeps the last few hundred entries for as long as the job.
        """
        return self._loop.run(self._async.log(level))

    def follow_log(self, level: LogLevel | str = LogLevel.INFO) -> Iterator[LogEntry]:
        """Yield the entries of the log, and new ones until the job has ended."""
        yield from self._loop.iterate(self._async.follow_log(level))

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield the result rows as dicts, in input order, as soon as they are available.

        Raises `JobFailed` after the rows of a job that failed; a cancelled or expired job yields its finished rows.
        """
        for table in self._loop.iterate(self._async.tables()):
            for rows in dicts(table):
                yield from rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the result rows as `pyarrow.RecordBatch`es, in input order; otherwise like `results`."""
        yield from self._loop.iterate(self._async.batches())

    def to_table(self) -> pa.Table:
        """Return all result rows as one `pyarrow.Table`, in input order; waits until the job has ended.

        Raises `JobFailed` if the job failed; for a cancelled or expired job, returns its finished rows.
        """
        return self._loop.run(self._async.to_table())

    def pages(self, content_type: Literal["arrow", "jsonl"]) -> Iterator[ResultPage]:
        """Yield the results in pages, as the service sends them; otherwise like `results`."""
        yield from self._loop.iterate(self._async.pages(content_type))
