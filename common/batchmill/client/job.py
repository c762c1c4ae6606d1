"""A job of the asyncio client; the jobs of the blocking client run it on a thread."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp

from batchmill.client.connection.events import read_events
from batchmill.client.connection.transport import Patience
from batchmill.client.display import as_html, describe, live_display, mimebundle
from batchmill.client.job_stage import AsyncJobStage
from batchmill.client.results.failed_rows import (
    DeadLetterPage,
    dead_letter_pages,
    purge,
    redo_request,
    replay_request,
    write_dead_letters,
)
from batchmill.client.results.job_results import AsyncJobResults
from batchmill.client.stream_controls import AsyncStreamControls
from batchmill.client.waiting import wait_until_ended
from batchmill.errors import NotFound, ServiceUnavailable
from batchmill.jobs.job_log import LogEntry, LogLevel, LogPage
from batchmill.jobs.status import JobCost, JobStatus

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Collection, Mapping

    from batchmill.client.connection.transport import Transport
    from batchmill.jobs.dead_letters import DeadLetter

LOG_INTERVAL_S = 1.0  # between two requests while a log is followed


class AsyncJob(AsyncJobResults, AsyncStreamControls):
    """A job of an `AsyncClient`. `AsyncClient.submit`, `AsyncClient.job` and `AsyncClient.jobs` return it.

    Attributes:
        id: The job's id.
        latest: The last status that was read, None before the first.
    """

    def __init__(self, transport: Transport, job_id: str, latest: JobStatus | None = None) -> None:
        super().__init__(transport, f"/v1/jobs/{quote(job_id, safe='')}")
        self.id = job_id
        self.latest = latest

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.id, self.latest)

    def _repr_html_(self) -> str:
        return as_html(self.id, self.latest)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return mimebundle(type(self).__name__, self.id, self.latest)

    async def status(self) -> JobStatus:
        """Read the job's status.

        Returns:
            The status. It is kept in `latest`.
        """
        return self._seen(await self._transport.json("GET", self._path))

    async def pause(self) -> JobStatus:
        """Pause the job: its workers stop after the current batch, and no more of it is started.

        Returns:
            The new status.

        Raises:
            Conflict: The job is stopping or has ended.
        """
        return self._seen(await self._transport.json("POST", f"{self._path}/pause"))

    async def resume(self, *, budget: float | None = None, any_version: bool = False) -> JobStatus:
        """Resume a paused job.

        Args:
            budget: New budget, for the total cost of the job. None: unchanged.
            any_version: Continue with whatever version of its operators the workers have, although it began with
                another one.

        Returns:
            The new status.

        Raises:
            Conflict: The job is stopping, has ended, or has already cost its budget.
        """
        query = {} if budget is None else {"budget": repr(float(budget))}
        if any_version:
            query["any_version"] = "true"
        return self._seen(await self._transport.json("POST", f"{self._path}/resume", query=query))

    async def drain(self) -> JobStatus:
        """Let the job end after the rows that are planned; what comes later stays in the stream.

        A job that is submitted with the same stream and `start=` the id of this one begins there, also with other
        stages.

        Returns:
            The new status. `wait` waits for the end.

        Raises:
            Conflict: The job reads no stream, is stopping or has ended.
        """
        return self._seen(await self._transport.json("POST", f"{self._path}/drain"))

    async def cost(self) -> JobCost:
        """Read what the job has cost. Attempts that still run are counted when they end.

        Returns:
            Seconds of device time and money, each by what it was used for.
        """
        return self._transport.parse(JobCost, await self._transport.json("GET", f"{self._path}/cost"))

    async def cancel(self) -> JobStatus:
        """Stop the job and keep the rows that are done. A job that has ended does not change.

        Returns:
            The new status.
        """
        return self._seen(await self._transport.json("POST", f"{self._path}/cancel"))

    async def delete(self) -> None:
        """Delete the job, its rows and its results from the service. Its output folder stays.

        Raises:
            NotFound: There is no such job.
            Conflict: The job has not ended.
        """
        await self.status()  # reports an unknown job: below, a lost answer looks the same
        with suppress(NotFound):
            await self._transport.call("DELETE", self._path)

    async def watch(self) -> AsyncGenerator[JobStatus, None]:
        """Follow the job's status until it ends.

        Yields:
            The present status, then each change; the final status is the last.
        """
        patience = Patience(self._transport)
        last: JobStatus | None = None
        while last is None or not last.is_final:
            try:
                async with aclosing(self._changes(last, patience)) as changes:
                    async for last in changes:
                        yield last
                if last is None or not last.is_final:
                    await patience.pause(aiohttp.ServerDisconnectedError("the stream of events ended early"))
            except (aiohttp.ClientError, ServiceUnavailable) as error:
                await patience.pause(error)

    async def _changes(self, last: JobStatus | None, patience: Patience) -> AsyncGenerator[JobStatus, None]:
        """Yield the statuses of one stream of events that differ from the one before; `last` was before the first."""
        async with aclosing(self._stream()) as statuses:
            async for status in statuses:
                patience.renew()
                if status != last:
                    last = status
                    yield status

    async def wait(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109  # the public name is given
        """Wait until the job has ended. In a notebook its progress is shown and updated meanwhile.

        Args:
            timeout: Seconds to wait. None: no limit.

        Returns:
            The job itself.

        Raises:
            JobFailed: The job failed.
            JobCancelled: The job was cancelled.
            JobExpired: The job's deadline passed before it was done.
            TimeoutError: The job has not ended in time; it continues.
        """
        await wait_until_ended(self, live_display(type(self).__name__, self.id, self.latest), timeout)
        return self

    async def log(self, level: LogLevel | str = LogLevel.INFO) -> list[LogEntry]:
        """Read the job's log: errors, retries, lost workers, changes of state.

        Args:
            level: Minimum level: `"info"`, `"warning"` or `"error"`.

        Returns:
            The entries, oldest first. Of entries below "error", the last few hundred are kept.
        """
        return (await self._log_page(level, "")).entries

    async def follow_log(self, level: LogLevel | str = LogLevel.INFO) -> AsyncGenerator[LogEntry, None]:
        """Follow the job's log until the job has ended.

        Args:
            level: Minimum level: `"info"`, `"warning"` or `"error"`.

        Yields:
            The existing entries, then new ones.
        """
        async with aclosing(self.log_pages(level)) as pages:
            async for entries in pages:
                for entry in entries:
                    yield entry

    async def log_pages(self, level: LogLevel | str = LogLevel.INFO) -> AsyncGenerator[list[LogEntry], None]:
        """Follow the job's log like `follow_log`, and show when nothing new has come.

        Args:
            level: Minimum level: `"info"`, `"warning"` or `"error"`.

        Yields:
            The existing entries, then those of each look at the log, one a second: an empty list if none are new.
        """
        cursor, is_final = "", False
        while True:
            page = await self._log_page(level, cursor)
            yield page.entries
            if is_final:  # once more after the end: the log entry of the last shard may follow its commit
                return
            cursor, is_final = page.next, page.is_final
            await asyncio.sleep(LOG_INTERVAL_S)

    async def _log_page(self, level: LogLevel | str, cursor: str) -> LogPage:
        query = {"level": str(level), "cursor": cursor}
        return self._transport.parse(LogPage, await self._transport.json("GET", f"{self._path}/log", query=query))

    def stage(self, name: str) -> AsyncJobStage:
        """Return a stage of the job.

        Args:
            name: The stage's name. Whether there is such a stage is found out when it is read.

        Returns:
            The stage, to read what is known of it.
        """
        return AsyncJobStage(self._transport, self, f"{self._path}/results", name)

    async def dead_letters(self, *, stage: str | None = None) -> list[DeadLetter]:
        """Read the failed rows of the job.

        Args:
            stage: Only those that failed in the stage of this name. None: in all stages.

        Returns:
            One dead letter per failed row, stage by stage in input order: its error, its attempts and the row itself.
        """
        return [letter async for page in self._dead_letter_pages(stage) for letter in page.dead_letters]

    async def dead_letter_counts(self) -> dict[str, int]:
        """Count the failed rows of the job.

        Returns:
            The number of rows by the type of their error.
        """
        page = await self._transport.json("GET", f"{self._path}/dead-letters", query={"limit": "1"})
        return self._transport.parse(DeadLetterPage, page).counts

    async def replay(
        self,
        indices: Collection[int] | None = None,
        *,
        stage: str | None = None,
        error_type: str | None = None,
        edits: Mapping[int, Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Run failed rows of this job, which has ended, again. Their results take their places in its results.

        Args:
            indices: The rows, by index in the stage's input. None: all failed rows.
            stage: The stage that they failed in; they continue through the stages after it. It may be left out where
                rows failed in one stage only.
            error_type: Only rows that failed with this type of error.
            edits: By index, new values for columns of a row, set before it is run. Without `indices` and `error_type`,
                only the edited rows are run.
            idempotency_key: Replaying again with the same key returns the existing replay.

        Returns:
            The job that runs the rows. When it has ended, the results are in place.

        Raises:
            Conflict: This job has not ended, or is a replay itself.
            InvalidRequest: A row is no dead letter, or an edit does not fit; the message names it.
        """
        request = replay_request(indices, stage, error_type, edits, idempotency_key)
        answer = await self._transport.json("POST", f"{self._path}/replay", body=request)
        status = self._transport.parse(JobStatus, answer)
        return AsyncJob(self._transport, status.id, status)

    async def redo(self, shards: Collection[str] | None = None, *, idempotency_key: str | None = None) -> AsyncJob:
        """Check the results of this job, which has ended, and compute those that are damaged or missing again.

        Args:
            shards: Check only these; a `DamagedData` error names its shard in `details`. None: all, which reads all
                results.
            idempotency_key: Asking again with the same key returns the existing job.

        Returns:
            The job that runs all rows of the damaged shards. When it has ended, the results are in place.

        Raises:
            Conflict: This job has not ended, or is a replay itself.
            InvalidRequest: Nothing is damaged or missing.
            InvalidSource: The source has changed since.
        """
        request = redo_request(shards, idempotency_key)
        answer = await self._transport.json("POST", f"{self._path}/redo", body=request)
        status = self._transport.parse(JobStatus, answer)
        return AsyncJob(self._transport, status.id, status)

    async def export_dead_letters(self, path: str | os.PathLike[str], *, stage: str | None = None) -> int:
        """Write the dead letters to a JSON Lines file, to be read by other tools or edited for a replay.

        Args:
            path: The file. It is replaced in one step.
            stage: Only of this stage. None: of all stages.

        Returns:
            The number of dead letters written.

        Raises:
            StorageError: The file cannot be written; it is unchanged.
            InvalidRequest: The job has no such stage.
        """
        return await write_dead_letters(Path(path), self._dead_letter_pages(stage))

    async def purge_dead_letters(
        self, indices: Collection[int] | None = None, *, error_type: str | None = None, stage: str | None = None
    ) -> int:
        """Delete dead letters of this job, which has ended, with the rows in them. The job still counts the rows.

        Args:
            indices: The rows, by index in the input. None: all.
            error_type: Only rows that failed with this type of error.
            stage: Only rows that failed in this stage.

        Returns:
            The number of dead letters deleted.

        Raises:
            Conflict: The job has not ended.
            InvalidRequest: The job has no such stage.
        """
        return await purge(self._transport, f"{self._path}/dead-letters", indices, error_type, stage)

    def _dead_letter_pages(self, stage: str | None = None) -> AsyncGenerator[DeadLetterPage, None]:
        return dead_letter_pages(self._transport, f"{self._path}/dead-letters", stage)

    async def _stream(self) -> AsyncGenerator[JobStatus, None]:
        async with aclosing(read_events(self._transport, f"{self._path}/events")) as events:
            async for event in events:
                if event.name == "status":
                    yield self._seen(self._transport.decode(event.data))

    def _seen(self, value: object) -> JobStatus:
        self.latest = self._transport.parse(JobStatus, value)
        return self.latest
