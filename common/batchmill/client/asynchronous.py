"""The client for asyncio: the one implementation, which the blocking client runs on a thread of its own."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel

from batchmill.client import pages as paging
from batchmill.client.events import server_sent_events
from batchmill.client.rows import check_rows, pieces
from batchmill.client.service import find_service
from batchmill.client.submission import Submission, make_spec
from batchmill.client.transport import Patience, Transport
from batchmill.dead_letters import DeadLetter
from batchmill.errors import InvalidRequest, JobCancelled, JobExpired, JobFailed, NotFound, ServiceUnavailable
from batchmill.job import JobState, JobStatus, WorkerInfo
from batchmill.operator import OperatorInfo

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    import pyarrow as pa

    from batchmill.client.rows import Piece
    from batchmill.job import RetryPolicy

EVENTS_TIMEOUT_S = 35.0  # the service sends a comment each 10 s, so that silence means a dead connection

M = TypeVar("M", bound=BaseModel)


class _Jobs(BaseModel):
    jobs: list[JobStatus]
    next: str | None = None


class _Workers(BaseModel):
    workers: list[WorkerInfo]


class _Operators(BaseModel):
    operators: list[OperatorInfo]


class AsyncClient:
    """Talks to a Batchmill service from asyncio code.

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
        """Close all connections; jobs go on."""
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
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Submit a job over `rows` or over the files of `source`; exactly one of them.

        operator: the name of an operator that the service's workers have loaded.
        rows: dicts, an Arrow table, or an iterable of either, as long as you like: it is read in another thread,
            piece by piece, and uploaded. If it raises, nothing is submitted and its error passes through.
        source: a file, folder or glob, several of them, or `{"path": …, "format": …, "columns": […]}`, read by the
            service. Relative paths are taken from the current folder.
        params: the operator's parameters.
        output: a folder for the results, or `{"path": …, "format": "parquet" | "jsonl"}`; None keeps them in the
            service.
        carry: input columns that the results keep; None keeps all.
        pool: the pool of workers to run on. priority: -100 to 100, higher goes first.
        deadline: when the job expires unless it is done: a moment with its time zone, or how long from now, as a
            timedelta or in seconds. Of jobs of one priority, the earliest deadline goes first.
        idempotency_key: submitting again with the same key gives the job that is there already.

        Raises an `InvalidRequest` that names what is wrong; then nothing was submitted.
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
            idempotency_key=idempotency_key,
        )
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
        """The first half of `submit`: everything is checked, nothing is sent; then come the pieces to `put`."""
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
        """The job that a status tells of."""
        return AsyncJob(self._transport, status.id, status)

    def job(self, job_id: str) -> AsyncJob:
        """A job by its id. Asks nothing of the service: an unknown id is told by the first method that does."""
        if not job_id.strip():
            raise InvalidRequest("the job id is empty.", hint="`client.jobs()` and `batchmill jobs` list the jobs.")
        return AsyncJob(self._transport, job_id)

    async def jobs(self, limit: int | None = None) -> list[AsyncJob]:
        """The jobs the service knows, newest first, at most `limit` of them; each with its `latest` status."""
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

    async def workers(self) -> list[WorkerInfo]:
        """The workers that are alive."""
        return (await self._get(_Workers, "/v1/workers")).workers

    async def operators(self) -> list[OperatorInfo]:
        """The operators that the workers have loaded."""
        return (await self._get(_Operators, "/v1/operators")).operators

    async def _get(self, model: type[M], path: str, query: Mapping[str, str] | None = None) -> M:
        return self._transport.parse(model, await self._transport.json("GET", path, query=query))


class _DeadLetterPage(BaseModel):
    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next: str | None


class AsyncJob:
    """A job of an `AsyncClient`.

    id: its id. latest: the last status that was seen of it, None before the first.
    """

    def __init__(self, transport: Transport, job_id: str, latest: JobStatus | None = None) -> None:
        self.id = job_id
        self.latest = latest
        self._transport = transport
        self._path = f"/v1/jobs/{quote(job_id, safe='')}"

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.id, self.latest)

    async def status(self) -> JobStatus:
        """How the job stands now."""
        return self._seen(await self._transport.json("GET", self._path))

    async def pause(self) -> JobStatus:
        """Hold the job: its workers let go at the end of their batches, and nothing more of it is begun.

        Raises `Conflict` if it is stopping or has ended.
        """
        return self._seen(await self._transport.json("POST", f"{self._path}/pause"))

    async def resume(self) -> JobStatus:
        """Let the job go on where it was paused. Raises `Conflict` if it is stopping or has ended."""
        return self._seen(await self._transport.json("POST", f"{self._path}/resume"))

    async def cancel(self) -> JobStatus:
        """Ask the job to stop; what is done is kept. A job that has ended stays as it is."""
        return self._seen(await self._transport.json("POST", f"{self._path}/cancel"))

    async def delete(self) -> None:
        """Delete the job, its rows and its results from the service; its output folder stays.

        Raises `Conflict` if it has not ended.
        """
        await self.status()  # an unknown job is told here: below, an answer that was lost looks the same
        with suppress(NotFound):
            await self._transport.call("DELETE", self._path)

    async def watch(self) -> AsyncGenerator[JobStatus, None]:
        """Each change of the job's status as it comes, the present one first; ends after the final one."""
        patience = Patience(self._transport)
        last: JobStatus | None = None
        while last is None or not last.is_final:
            try:
                async with aclosing(self._stream()) as statuses:
                    async for status in statuses:
                        patience.renew()
                        if status != last:
                            last = status
                            yield status
                if last is None or not last.is_final:
                    await patience.pause(aiohttp.ServerDisconnectedError("the stream of events ended early"))
            except (aiohttp.ClientError, ServiceUnavailable) as error:
                await patience.pause(error)

    async def wait(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109  # the public name is given
        """Wait until the job has ended, and return it.

        timeout: in seconds. Raises `JobFailed`, `JobCancelled` or `JobExpired` if it did not complete, `TimeoutError`
        if it has not ended in time; the job goes on then.
        """
        statuses = self.watch()
        try:
            async with asyncio.timeout(timeout) as limit, aclosing(statuses):
                async for _ in statuses:
                    pass
        except TimeoutError:
            if not limit.expired():
                raise
            state = f"is still {self.latest.state}" if self.latest else "has not ended"
            raise TimeoutError(f"{self.id} {state} after {timeout} s; it goes on.") from None
        if self.latest is not None:
            raise_unless_completed(self.latest)
        return self

    async def results(self) -> AsyncGenerator[dict[str, Any], None]:
        """The result rows as dicts, in input order, as soon as they are there.

        Raises `JobFailed` behind the rows of a job that failed; a cancelled or expired job ends with what was
        kept.
        """
        async with aclosing(self.tables()) as tables:
            async for table in tables:
                for rows in paging.dicts(table):
                    for row in rows:
                        yield row
                    await asyncio.sleep(0)  # the next page is read meanwhile, however busy the caller is

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The result rows as `pyarrow.RecordBatch`es, in input order; otherwise like `results`."""
        async with aclosing(self.tables()) as tables:
            async for table in tables:
                for batch in table.to_batches():
                    yield batch

    async def to_table(self) -> pa.Table:
        """All result rows as one `pyarrow.Table`, in input order; waits for the job to end.

        Raises `JobFailed` if the job failed; of a cancelled or expired job it gives what was kept.
        """
        async with aclosing(self.tables()) as tables:
            return paging.join([table async for table in tables])

    async def pages(self, content_type: Literal["arrow", "jsonl"]) -> AsyncGenerator[paging.Page, None]:
        """The results as the service sends them, in pages; otherwise like `results`."""
        kind = paging.ARROW_STREAM if content_type == "arrow" else paging.JSON_LINES
        state: JobState | None = None
        async with aclosing(paging.pages(self._transport, f"{self._path}/results", kind)) as all_pages:
            async for page in all_pages:
                state = page.state
                yield page
        if state is None or state is JobState.FAILED:
            status = await self.status()
            if status.state is JobState.FAILED:
                raise_unless_completed(status)

    async def tables(self) -> AsyncGenerator[pa.Table, None]:
        """The result rows as one `pyarrow.Table` a page, in input order; otherwise like `results`."""
        async with aclosing(self.pages("arrow")) as all_pages:
            async for page in all_pages:
                table = page.table()
                if table.num_columns:
                    yield table

    async def dead_letters(self) -> list[DeadLetter]:
        """The rows that the job gave up on so far, in input order, each with its error, its attempts and its row."""
        return [letter async for page in self._dead_letter_pages() for letter in page.dead_letters]

    async def dead_letter_counts(self) -> dict[str, int]:
        """How many rows the job gave up on, by the type of their error."""
        page = await self._transport.json("GET", f"{self._path}/dead-letters", query={"limit": "1"})
        return self._transport.parse(_DeadLetterPage, page).counts

    async def _dead_letter_pages(self) -> AsyncGenerator[_DeadLetterPage, None]:
        cursor: str | None = ""
        while cursor is not None:
            answer = await self._transport.json("GET", f"{self._path}/dead-letters", query={"cursor": cursor})
            page = self._transport.parse(_DeadLetterPage, answer)
            yield page
            cursor = page.next

    async def _stream(self) -> AsyncGenerator[JobStatus, None]:
        path = f"{self._path}/events"
        stream = self._transport.open("GET", path, accept="text/event-stream", read_timeout_s=EVENTS_TIMEOUT_S)
        async with stream as response, aclosing(server_sent_events(response.content)) as events:
            async for event in events:
                if event.name == "status":
                    yield self._seen(self._transport.decode(event.data))

    def _seen(self, value: object) -> JobStatus:
        self.latest = self._transport.parse(JobStatus, value)
        return self.latest


def describe(kind: str, job_id: str, status: JobStatus | None) -> str:
    """A job as `repr` shows it."""
    if status is None:
        return f"<{kind} {job_id}>"
    total = "?" if status.rows_total is None else f"{status.rows_total:,}"
    return f"<{kind} {job_id} {status.operator!r} {status.state}: {status.rows_done:,} of {total} rows>"


def raise_unless_completed(status: JobStatus) -> None:
    """Raise `JobFailed`, `JobCancelled` or `JobExpired` for a final status that is not `completed`."""
    if status.state is JobState.FAILED:
        error = status.error
        reason = error.message if error else "the service gave no reason"
        details = {**error.details, "code": error.code} if error else {}
        raise JobFailed(f"{status.id} failed: {reason}", **{**details, "job": status.id})
    total = "" if status.rows_total is None else f" of {status.rows_total:,}"
    if status.state is JobState.CANCELLED:
        raise JobCancelled(f"{status.id} was cancelled after {status.rows_done:,}{total} rows.", job=status.id)
    if status.state is JobState.EXPIRED:
        raise JobExpired(
            f"{status.id} passed its deadline after {status.rows_done:,}{total} rows.",
            hint="The rows it has can be read; a later deadline or a higher priority gives it more time.",
            job=status.id,
        )
