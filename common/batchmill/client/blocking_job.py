"""The jobs of the blocking client: each method runs that of `AsyncJob` on the client's thread."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from batchmill.client.display import as_html, describe, live_display, mimebundle
from batchmill.client.job_stage import JobStage
from batchmill.client.results import frames
from batchmill.client.results.pages import dicts
from batchmill.client.stream_controls import StreamControls
from batchmill.client.waiting import wait_until_ended
from batchmill.errors import BatchmillError
from batchmill.jobs.job_log import LogLevel

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from batchmill.client.job import AsyncJob
    from batchmill.client.loop import LoopThread
    from batchmill.client.results.pages import OnDamage, ResultPage
    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.jobs.job_log import LogEntry
    from batchmill.jobs.status import JobCost, JobStatus


class Job(StreamControls):
    """A job of a `Client`. `Client.submit`, `Client.job` and `Client.jobs` return it."""

    _async: AsyncJob

    def __init__(self, client: object, loop: LoopThread, job: AsyncJob) -> None:
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
        """The last status that was read, None before the first; makes no request."""
        return self._async.latest

    def status(self) -> JobStatus:
        """Read the job's status.

        Returns:
            The status. It is kept in `latest`.
        """
        return self._loop.run(self._async.status())

    def pause(self) -> JobStatus:
        """Pause the job: its workers stop after the current batch, and no more of it is started.

        Returns:
            The new status.

        Raises:
            Conflict: The job is stopping or has ended.
        """
        return self._loop.run(self._async.pause())

    def resume(self, *, budget: float | None = None, any_version: bool = False) -> JobStatus:
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
        return self._loop.run(self._async.resume(budget=budget, any_version=any_version))

    def cost(self) -> JobCost:
        """Read what the job has cost. Attempts that still run are counted when they end.

        Returns:
            Seconds of device time and money, each by what it was used for.
        """
        return self._loop.run(self._async.cost())

    def cancel(self) -> JobStatus:
        """Stop the job and keep the rows that are done. A job that has ended does not change.

        Returns:
            The new status.
        """
        return self._loop.run(self._async.cancel())

    def delete(self) -> None:
        """Delete the job, its rows and its results from the service. Its output folder stays.

        Raises:
            NotFound: There is no such job.
            Conflict: The job has not ended.
        """
        self._loop.run(self._async.delete())

    def stage(self, name: str) -> JobStage:
        """Return a stage of the job.

        Args:
            name: The stage's name. Whether there is such a stage is found out when it is read.

        Returns:
            The stage, to read what is known of it.
        """
        return JobStage(self._loop, self._async.stage(name))

    def dead_letters(self, *, stage: str | None = None) -> list[DeadLetter]:
        """Read the failed rows of the job.

        Args:
            stage: Only those that failed in the stage of this name. None: in all stages.

        Returns:
            One dead letter per failed row, stage by stage in input order: its error, its attempts and the row itself.
        """
        return self._loop.run(self._async.dead_letters(stage=stage))

    def dead_letter_counts(self) -> dict[str, int]:
        """Count the failed rows of the job.

        Returns:
            The number of rows by the type of their error.
        """
        return self._loop.run(self._async.dead_letter_counts())

    def replay(
        self,
        indices: Collection[int] | None = None,
        *,
        stage: str | None = None,
        error_type: str | None = None,
        edits: Mapping[int, Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
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
        replay = self._async.replay(
            indices, stage=stage, error_type=error_type, edits=edits, idempotency_key=idempotency_key
        )
        return Job(self._client, self._loop, self._loop.run(replay))

    def redo(self, shards: Collection[str] | None = None, *, idempotency_key: str | None = None) -> Job:
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
        redo = self._async.redo(shards, idempotency_key=idempotency_key)
        return Job(self._client, self._loop, self._loop.run(redo))

    def export_dead_letters(self, path: str | os.PathLike[str], *, stage: str | None = None) -> int:
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
        return self._loop.run(self._async.export_dead_letters(path, stage=stage))

    def purge_dead_letters(
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
        return self._loop.run(self._async.purge_dead_letters(indices, error_type=error_type, stage=stage))

    def watch(self) -> Iterator[JobStatus]:
        """Follow the job's status until it ends.

        Yields:
            The present status, then each change; the final status is the last.
        """
        yield from self._loop.iterate(self._async.watch())

    def wait(self, timeout: float | None = None) -> Self:
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
        show = live_display("Job", self.id, self.latest)
        self._loop.run(wait_until_ended(self._async, show, timeout))
        return self

    def log(self, level: LogLevel | str = LogLevel.INFO) -> list[LogEntry]:
        """Read the job's log: errors, retries, lost workers, changes of state.

        Args:
            level: Minimum level: `"info"`, `"warning"` or `"error"`.

        Returns:
            The entries, oldest first. Of entries below "error", the last few hundred are kept.
        """
        return self._loop.run(self._async.log(level))

    def follow_log(self, level: LogLevel | str = LogLevel.INFO) -> Iterator[LogEntry]:
        """Follow the job's log until the job has ended.

        Args:
            level: Minimum level: `"info"`, `"warning"` or `"error"`.

        Yields:
            The existing entries, then new ones.
        """
        yield from self._loop.iterate(self._async.follow_log(level))

    def log_pages(self, level: LogLevel | str = LogLevel.INFO) -> Iterator[list[LogEntry]]:
        """Follow the job's log like `follow_log`, and show when nothing new has come.

        Args:
            level: Minimum level: `"info"`, `"warning"` or `"error"`.

        Yields:
            The existing entries, then those of each look at the log, one a second: an empty list if none are new.
        """
        yield from self._loop.iterate(self._async.log_pages(level))

    def results(
        self, *, follow: bool = True, on_damage: OnDamage | None = None, stage: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read the results in input order, while the job runs or afterwards.

        Args:
            follow: Whether to wait for more rows until the job has ended, which a job over a stream does when it is
                drained. False: only the rows that are there now.
            on_damage: Called with the error, `DamagedData` or `NotFound`, of each part that is damaged or missing; its
                rows are left out then. None: the error is raised.
            stage: Read the results of this stage, as far as they are there; see `keep` of `Stage`. None: the last one.

        Yields:
            One dict per result row. Those of a cancelled or expired job end with the last row that was kept.

        Raises:
            JobFailed: The job failed; raised after the rows that it has.
        """
        for table in self._loop.iterate(self._async.tables(follow=follow, on_damage=on_damage, stage=stage)):
            for rows in dicts(table):
                yield from rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the results in input order as Arrow record batches; otherwise like `results`.

        Yields:
            One `pyarrow.RecordBatch` at a time.

        Raises:
            JobFailed: The job failed; raised after the rows that it has.
        """
        yield from self._loop.iterate(self._async.batches())

    def to_table(self, *, on_damage: OnDamage | None = None, stage: str | None = None) -> pa.Table:
        """Wait for the job to end and return all results as one Arrow table.

        Args:
            on_damage: Called with the error, `DamagedData` or `NotFound`, of each part that is damaged or missing; its
                rows are left out then. None: the error is raised.
            stage: Read the results of this stage, as far as they are there; see `keep` of `Stage`. None: the last one.

        Returns:
            A `pyarrow.Table` in input order. Of a cancelled or expired job: the rows that were kept.

        Raises:
            JobFailed: The job failed.
        """
        return self._loop.run(self._async.to_table(on_damage=on_damage, stage=stage))

    def to_pandas(self) -> pd.DataFrame:
        """Wait for the job to end and return all results as a pandas data frame, in input order.

        Returns:
            A `pandas.DataFrame`.

        Raises:
            JobFailed: The job failed.
            MissingExtra: pandas is not installed.
        """
        frames.require("pandas")
        return frames.to_pandas(self.to_table())

    def to_polars(self) -> pl.DataFrame:
        """Wait for the job to end and return all results as a Polars data frame, in input order.

        Returns:
            A `polars.DataFrame`.

        Raises:
            JobFailed: The job failed.
            MissingExtra: Polars is not installed.
        """
        frames.require("polars")
        return frames.to_polars(self.to_table())

    def pages(
        self, content_type: Literal["arrow", "jsonl"], *, on_damage: OnDamage | None = None, stage: str | None = None
    ) -> Iterator[ResultPage]:
        """Read the results in the form in which the service sends them; otherwise like `results`.

        Args:
            content_type: `"arrow"` for Arrow streams, `"jsonl"` for JSON Lines.
            on_damage: Called with the error, `DamagedData` or `NotFound`, of each part that is damaged or missing; its
                rows are left out then. None: the error is raised.
            stage: Read the results of this stage, as far as they are there; see `keep` of `Stage`. None: the last one.

        Yields:
            One page at a time, in input order.

        Raises:
            JobFailed: The job failed; raised after the rows that it has.
        """
        yield from self._loop.iterate(self._async.pages(content_type, on_damage=on_damage, stage=stage))
