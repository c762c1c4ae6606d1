"""The blocking client: `AsyncClient` on a background thread, for scripts, notebooks and threads."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from batchmill.client.asynchronous import AsyncClient
from batchmill.client.display import as_html, mimebundle
from batchmill.client.job import AsyncJob, describe
from batchmill.client.loop import LoopThread
from batchmill.client.pages import dicts
from batchmill.errors import BatchmillError
from batchmill.job_log import LogLevel

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    import pyarrow as pa

    from batchmill.client.pages import Page
    from batchmill.client.rows import Piece
    from batchmill.client.submission import Submission
    from batchmill.cost import CostTotals
    from batchmill.dead_letters import DeadLetter
    from batchmill.job import BatchPolicy, JobCost, JobStatus, PoolStatus, RetryPolicy, WorkerInfo
    from batchmill.job_log import LogEntry
    from batchmill.operators.contract import OperatorInfo
    from batchmill.row_cache import CacheStats


class Client:
    """Talks to a Batchmill service; safe to share between threads.

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
        """Close all connections; jobs go on."""
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
        on_null: Literal["dead", "fail"] = "dead",
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job over `rows` or over the files of `source`; exactly one of them.

        operator: the name of an operator that the service's workers have loaded.
        rows: dicts, an Arrow table, or an iterable of either, as long as you like: it is read piece by piece in this
            thread and uploaded meanwhile. If it raises, nothing is submitted and its error passes through.
        source: a file, folder or glob, several of them, or `{"path": …, "format": …, …}` with the fields
            of `FileSource`, read by the service. Relative paths are taken from the current folder.
        params: the operator's parameters.
        output: a folder for the results, or `{"path": …, "format": "parquet" | "jsonl"}`; None keeps them in the
            service.
        carry: input columns that the results keep; None keeps all.
        pool: the pool of workers to run on. priority: -100 to 100, higher goes first.
        deadline: when the job expires unless it is done: a moment with its time zone, or how long from now, as a
            timedelta or in seconds. Of jobs of one priority, the earliest deadline goes first.
        retry: how often rows are tried, how long they wait in between, how many may be given up on.
        batch: how many rows go to the device at once; by default as the operator says.
        cache: whether rows whose results are known from earlier jobs are taken from the row cache, and new ones are
            put there; rows that are equal are then computed once.
        budget: the job is paused when it has cost so much, in the service's currency; `Job.resume` can raise it.
        on_null: what becomes of a row without a value that the operator requires: a dead letter, or it fails the job.
        idempotency_key: submitting again with the same key gives the job that is there already.

        Raises an `InvalidRequest` that names what is wrong; then nothing was submitted.
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
            on_null=on_null,
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
        """A job by its id. Asks nothing of the service: an unknown id is told by the first method that does."""
        return self._adopt(self._async.job(job_id))

    def jobs(self, limit: int | None = None) -> list[Job]:
        """The jobs the service knows, newest first, at most `limit` of them; each with its `latest` status."""
        return [self._adopt(job) for job in self._loop.run(self._async.jobs(limit))]

    def live_jobs(self, limit: int = 100) -> list[Job]:
        """The jobs that have not ended, newest first, at most `limit` (1 to 1000) of them."""
        return [self._adopt(job) for job in self._loop.run(self._async.live_jobs(limit))]

    def workers(self) -> list[WorkerInfo]:
        """The workers that are alive."""
        return self._loop.run(self._async.workers())

    def pools(self) -> list[PoolStatus]:
        """What runs and what waits in each pool."""
        return self._loop.run(self._async.pools())

    def operators(self) -> list[OperatorInfo]:
        """The operators that the workers have loaded."""
        return self._loop.run(self._async.operators())

    def cache(self) -> CacheStats:
        """How the service's row cache stands."""
        return self._loop.run(self._async.cache())

    def clear_cache(self) -> None:
        """Empty the service's row cache."""
        self._loop.run(self._async.clear_cache())

    def costs(self, limit: int = 50) -> CostTotals:
        """What all jobs cost, deleted ones too: by tenant, by pool and operator, by day; at most `limit` of each."""
        return self._loop.run(self._async.costs(limit))

    def _adopt(self, job: AsyncJob) -> Job:
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
        return as_html(self.id, self._as_it_stands())

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return mimebundle("Job", self.id, self._as_it_stands())

    def _as_it_stands(self) -> JobStatus | None:
        """Its present status, for those who look; the last one seen if the service cannot tell."""
        if self.latest is None or not self.latest.is_final:
            with suppress(BatchmillError, RuntimeError):  # a closed client has the last one too
                return self.status()
        return self.latest

    @property
    def id(self) -> str:
        """Its id."""
        return self._async.id

    @property
    def latest(self) -> JobStatus | None:
        """The last status that was seen of it, None before the first; asks nothing of the service."""
        return self._async.latest

    def status(self) -> JobStatus:
        """How the job stands now."""
        return self._loop.run(self._async.status())

    def pause(self) -> JobStatus:
        """Hold the job: its workers let go at the end of their batches, and nothing more of it is begun.

        Raises `Conflict` if it is stopping or has ended.
        """
        return self._loop.run(self._async.pause())

    def resume(self, *, budget: float | None = None) -> JobStatus:
        """Let the job go on where it was paused. budget: its budget from now on, in all; None: as before.

        Raises `Conflict` if it is stopping or has ended, or has cost its budget already.
        """
        return self._loop.run(self._async.resume(budget=budget))

    def cost(self) -> JobCost:
        """What the job cost so far. What is at work just now is counted when it ends."""
        return self._loop.run(self._async.cost())

    def cancel(self) -> JobStatus:
        """Ask the job to stop; what is done is kept. A job that has ended stays as it is."""
        return self._loop.run(self._async.cancel())

    def delete(self) -> None:
        """Delete the job, its rows and its results from the service; its output folder stays.

        Raises `Conflict` if it has not ended.
        """
        self._loop.run(self._async.delete())

    def dead_letters(self) -> list[DeadLetter]:
        """The rows that the job gave up on so far, in input order, each with its error, its attempts and its row."""
        return self._loop.run(self._async.dead_letters())

    def dead_letter_counts(self) -> dict[str, int]:
        """How many rows the job gave up on, by the type of their error."""
        return self._loop.run(self._async.dead_letter_counts())

    def replay(
        self,
        indices: Collection[int] | None = None,
        *,
        error_type: str | None = None,
        edits: Mapping[int, Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Run dead rows of the job, which has ended, again; their results go into their places in its results.

        indices: the rows, by index; None: all. error_type: only those that died of this error. edits: by index, new
        values for some columns of a row before it is run again; without `indices` and `error_type` just these rows
        are. Returns the job that runs them; when that has ended, the results are in their places.

        Raises `Conflict` if this job has not ended, and an `InvalidRequest` that names what is wrong.
        """
        replay = self._async.replay(indices, error_type=error_type, edits=edits, idempotency_key=idempotency_key)
        return Job(self._client, self._loop, self._loop.run(replay))

    def export_dead_letters(self, path: str | os.PathLike[str]) -> int:
        """Write the dead letters to a file of JSON Lines, for other tools or to be edited; returns how many.

        Raises `StorageError` if it cannot be written; then the file is as it was.
        """
        return self._loop.run(self._async.export_dead_letters(path))

    def purge_dead_letters(self, indices: Collection[int] | None = None, *, error_type: str | None = None) -> int:
        """Delete dead letters of the job, which has ended, and the rows in them; returns how many.

        The job still counts the rows as dead. Raises `Conflict` if it has not ended.
        """
        return self._loop.run(self._async.purge_dead_letters(indices, error_type=error_type))

    def watch(self) -> Iterator[JobStatus]:
        """Each change of the job's status as it comes, the present one first; ends after the final one."""
        yield from self._loop.iterate(self._async.watch())

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until the job has ended, and return it.

        timeout: in seconds. Raises `JobFailed`, `JobCancelled` or `JobExpired` if it did not complete, `TimeoutError`
        if it has not ended in time; the job goes on then.
        """
        self._loop.run(self._async.wait(timeout))
        return self

    def log(self, level: LogLevel | str = LogLevel.INFO) -> list[LogEntry]:
        """What went wrong with the job, what became of that, and when its state changed; the oldest first.

        level: "warning" leaves out what is as it should be, "error" all but the worst. Of the others the last few
        hundred are kept, as long as the job is.
        """
        return self._loop.run(self._async.log(level))

    def follow_log(self, level: LogLevel | str = LogLevel.INFO) -> Iterator[LogEntry]:
        """The entries of the log, and those to come, until the job has ended."""
        yield from self._loop.iterate(self._async.follow_log(level))

    def results(self) -> Iterator[dict[str, Any]]:
        """The result rows as dicts, in input order, as soon as they are there.

        Raises `JobFailed` behind the rows of a job that failed; a cancelled or expired job ends with what was
        kept.
        """
        for table in self._loop.iterate(self._async.tables()):
            for rows in dicts(table):
                yield from rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The result rows as `pyarrow.RecordBatch`es, in input order; otherwise like `results`."""
        yield from self._loop.iterate(self._async.batches())

    def to_table(self) -> pa.Table:
        """All result rows as one `pyarrow.Table`, in input order; waits for the job to end.

        Raises `JobFailed` if the job failed; of a cancelled or expired job it gives what was kept.
        """
        return self._loop.run(self._async.to_table())

    def pages(self, content_type: Literal["arrow", "jsonl"]) -> Iterator[Page]:
        """The results as the service sends them, in pages; otherwise like `results`."""
        yield from self._loop.iterate(self._async.pages(content_type))
