"""A job of the asyncio client; the jobs of the blocking client run it on a thread."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from batchmill.client import pages as paging
from batchmill.client.display import as_html, mimebundle
from batchmill.client.events import server_sent_events
from batchmill.client.transport import Patience
from batchmill.dead_letters import DeadLetter, json_value
from batchmill.errors import (
    InvalidRequest,
    JobCancelled,
    JobExpired,
    JobFailed,
    NotFound,
    ServiceUnavailable,
    StorageError,
)
from batchmill.job import JobCost, JobState, JobStatus
from batchmill.job_log import LogEntry, LogLevel, LogPage
from batchmill.replay import ReplayRequest, RowEdit
from batchmill.wording import shown

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Collection, Mapping

    import pyarrow as pa

    from batchmill.client.transport import Transport

EVENTS_TIMEOUT_S = 35.0  # the service sends a comment every 15 s, so silence means a dead connection
LOG_INTERVAL_S = 1.0  # between two requests while a log is followed
MAX_PURGED_INDICES = 400  # indices in one URL


class _DeadLetterPage(BaseModel):
    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next: str | None


class _Purged(BaseModel):
    purged: int


class AsyncJob:
    """A job of an `AsyncClient`.

    id: the job's id. latest: the last status received, None before the first.
    """

    def __init__(self, transport: Transport, job_id: str, latest: JobStatus | None = None) -> None:
        self.id = job_id
        self.latest = latest
        self._transport = transport
        self._path = f"/v1/jobs/{quote(job_id, safe='')}"

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.id, self.latest)

    def _repr_html_(self) -> str:
        return as_html(self.id, self.latest)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return mimebundle(type(self).__name__, self.id, self.latest)

    async def status(self) -> JobStatus:
        """Return the current status."""
        return self._seen(await self._transport.json("GET", self._path))

    async def pause(self) -> JobStatus:
        """Pause the job: its workers stop after the current batch, and no more of its shards are started.

        Raises `Conflict` if it is stopping or has ended.
        """
        return self._seen(await self._transport.json("POST", f"{self._path}/pause"))

    async def resume(self, *, budget: float | None = None) -> JobStatus:
        """Resume a paused job. budget: the new total budget; None: unchanged.

        Raises `Conflict` if it is stopping or has ended, or has used up its budget.
        """
        query = {} if budget is None else {"budget": repr(float(budget))}
        return self._seen(await self._transport.json("POST", f"{self._path}/resume", query=query))

    async def cost(self) -> JobCost:
        """Return what the job cost so far. Running attempts are counted when they end."""
        return self._transport.parse(JobCost, await self._transport.json("GET", f"{self._path}/cost"))

    async def cancel(self) -> JobStatus:
        """Ask the job to stop and keep its finished rows. A job that has ended is not changed."""
        return self._seen(await self._transport.json("POST", f"{self._path}/cancel"))

    async def delete(self) -> None:
        """Delete the job, its rows and its results from the service; the output folder stays.

        Raises `Conflict` if it has not ended.
        """
        await self.status()  # reports an unknown job: below, a lost answer looks the same
        with suppress(NotFound):
            await self._transport.call("DELETE", self._path)

    async def watch(self) -> AsyncGenerator[JobStatus, None]:
        """Yield the current status and then each change; end after the final status."""
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
        if it has not ended in time; the job continues.
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
            raise TimeoutError(f"{self.id} {state} after {timeout} s; it continues.") from None
        if self.latest is not None:
            raise_unless_completed(self.latest)
        return self

    async def log(self, level: LogLevel | str = LogLevel.INFO) -> list[LogEntry]:
        """Return the job's log: failures, what followed them, and changes of state; oldest first.

        level: the minimum level to return. The service keeps the last few hundred entries for as long as the job.
        """
        return (await self._log_page(level, "")).entries

    async def follow_log(self, level: LogLevel | str = LogLevel.INFO) -> AsyncGenerator[LogEntry, None]:
        """Yield the entries of the log, and new ones until the job has ended."""
        cursor, is_final = "", False
        while True:
            page = await self._log_page(level, cursor)
            for entry in page.entries:
                yield entry
            if is_final:  # once more after the end: the log entry of the last shard may follow its commit
                return
            cursor, is_final = page.next, page.is_final
            await asyncio.sleep(LOG_INTERVAL_S)

    async def _log_page(self, level: LogLevel | str, cursor: str) -> LogPage:
        query = {"level": str(level), "cursor": cursor}
        return self._transport.parse(LogPage, await self._transport.json("GET", f"{self._path}/log", query=query))

    async def results(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the result rows as dicts, in input order, as soon as they are available.

        Raises `JobFailed` after the rows of a job that failed; a cancelled or expired job yields its finished rows.
        """
        async with aclosing(self.tables()) as tables:
            async for table in tables:
                for rows in paging.dicts(table):
                    for row in rows:
                        yield row
                    await asyncio.sleep(0)  # lets the next page arrive while the caller is busy

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield the result rows as `pyarrow.RecordBatch`es, in input order; otherwise like `results`."""
        async with aclosing(self.tables()) as tables:
            async for table in tables:
                for batch in table.to_batches():
                    yield batch

    async def to_table(self) -> pa.Table:
        """Return all result rows as one `pyarrow.Table`, in input order; waits until the job has ended.

        Raises `JobFailed` if the job failed; for a cancelled or expired job, returns its finished rows.
        """
        async with aclosing(self.tables()) as tables:
            return paging.join([table async for table in tables])

    async def pages(self, content_type: Literal["arrow", "jsonl"]) -> AsyncGenerator[paging.ResultPage, None]:
        """Yield the results in pages, as the service sends them; otherwise like `results`."""
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
        """Yield the result rows as one `pyarrow.Table` per page, in input order; otherwise like `results`."""
        async with aclosing(self.pages("arrow")) as all_pages:
            async for page in all_pages:
                table = page.table()
                if table.num_columns:
                    yield table

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the failed rows so far, in input order, each with its error, its attempts and its row."""
        return [letter async for page in self._dead_letter_pages() for letter in page.dead_letters]

    async def dead_letter_counts(self) -> dict[str, int]:
        """Return the number of failed rows by error type."""
        page = await self._transport.json("GET", f"{self._path}/dead-letters", query={"limit": "1"})
        return self._transport.parse(_DeadLetterPage, page).counts

    async def replay(
        self,
        indices: Collection[int] | None = None,
        *,
        error_type: str | None = None,
        edits: Mapping[int, Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Run failed rows of an ended job again; their results are inserted into its results, in input order.

        indices: the rows, by index; None: all. error_type: only rows that failed with this error. edits: by index,
        new values for columns of a row; without `indices` and `error_type`, only edited rows are run. Returns the
        replay, which is a job; when it has ended, the results are in place.

        Raises `Conflict` if this job has not ended, `InvalidRequest` if the request is wrong.
        """
        try:
            request = ReplayRequest(
                indices=None if indices is None else sorted(indices),
                error_type=error_type,
                edits=[RowEdit(index=index, row=json_value(row)) for index, row in (edits or {}).items()],
                idempotency_key=idempotency_key or secrets.token_hex(16),
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidRequest(f"replay: {where}: {first['msg']}, got {shown(first['input'])}.") from error
        answer = await self._transport.json("POST", f"{self._path}/replay", body=request)
        status = self._transport.parse(JobStatus, answer)
        return AsyncJob(self._transport, status.id, status)

    async def export_dead_letters(self, path: str | os.PathLike[str]) -> int:
        """Write the dead letters to a JSON Lines file, for other tools or for editing; return their number.

        Raises `StorageError` if it cannot be written; an existing file is then unchanged.
        """
        target, count = Path(path), 0
        try:
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
                unfinished = Path(folder) / target.name
                with unfinished.open("w", encoding="utf-8") as file:
                    async for page in self._dead_letter_pages():
                        file.writelines(letter.model_dump_json() + "\n" for letter in page.dead_letters)
                        count += len(page.dead_letters)
                unfinished.replace(target)
        except OSError as error:
            raise StorageError(f"{path!s} cannot be written: {error.strerror or error}.", path=str(path)) from error
        return count

    async def purge_dead_letters(self, indices: Collection[int] | None = None, *, error_type: str | None = None) -> int:
        """Delete dead letters of an ended job, including their rows; return their number.

        The job still counts the rows as failed. Raises `Conflict` if it has not ended.
        """
        kind = [("error_type", error_type)] if error_type is not None else []
        if indices is None:
            return await self._purge(kind)
        named = [("index", str(index)) for index in sorted(indices)]
        groups = [named[start : start + MAX_PURGED_INDICES] for start in range(0, len(named), MAX_PURGED_INDICES)]
        return sum([await self._purge(kind + group) for group in groups])

    async def _purge(self, query: list[tuple[str, str]]) -> int:
        answer = await self._transport.json("DELETE", f"{self._path}/dead-letters", query=query)
        return self._transport.parse(_Purged, answer).purged

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
    """Return the `repr` of a job."""
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
            hint="Its finished rows can be read; set a later deadline or a higher priority.",
            job=status.id,
        )
