"""The results of a job of the asyncio client: as rows, tables, data frames or pages."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

from batchmill.client.outcome import raise_unless_completed
from batchmill.client.results import frames
from batchmill.client.results import pages as paging
from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from batchmill.client.connection.transport import Transport
    from batchmill.client.results.pages import OnDamage
    from batchmill.jobs.status import JobStatus


class AsyncJobResults(ABC):
    """What an `AsyncJob` has to read its results."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path

    @abstractmethod
    async def status(self) -> JobStatus:
        """Read the job's status."""

    async def results(
        self, *, follow: bool = True, on_damage: OnDamage | None = None, stage: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
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
        async with aclosing(self.tables(follow=follow, on_damage=on_damage, stage=stage)) as tables:
            async for table in tables:
                for rows in paging.dicts(table):
                    for row in rows:
                        yield row
                    await asyncio.sleep(0)  # lets the next page arrive while the caller is busy

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """Read the results in input order as Arrow record batches; otherwise like `results`.

        Yields:
            One `pyarrow.RecordBatch` at a time.

        Raises:
            JobFailed: The job failed; raised after the rows that it has.
        """
        async with aclosing(self.tables()) as tables:
            async for table in tables:
                for batch in table.to_batches():
                    yield batch

    async def to_table(self, *, on_damage: OnDamage | None = None, stage: str | None = None) -> pa.Table:
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
        async with aclosing(self.tables(on_damage=on_damage, stage=stage)) as tables:
            return paging.join([table async for table in tables])

    async def to_pandas(self) -> pd.DataFrame:
        """Wait for the job to end and return all results as a pandas data frame, in input order.

        Returns:
            A `pandas.DataFrame`.

        Raises:
            JobFailed: The job failed.
            MissingExtra: pandas is not installed.
        """
        frames.require("pandas")
        return frames.to_pandas(await self.to_table())

    async def to_polars(self) -> pl.DataFrame:
        """Wait for the job to end and return all results as a Polars data frame, in input order.

        Returns:
            A `polars.DataFrame`.

        Raises:
            JobFailed: The job failed.
            MissingExtra: Polars is not installed.
        """
        frames.require("polars")
        return frames.to_polars(await self.to_table())

    async def pages(
        self,
        content_type: Literal["arrow", "jsonl"],
        *,
        follow: bool = True,
        on_damage: OnDamage | None = None,
        stage: str | None = None,
    ) -> AsyncGenerator[paging.ResultPage, None]:
        """Read the results in the form in which the service sends them; otherwise like `results`.

        Args:
            content_type: `"arrow"` for Arrow streams, `"jsonl"` for JSON Lines.
            follow: Whether to wait for more rows until the job has ended. False: only the rows that are there now.
            on_damage: Called with the error, `DamagedData` or `NotFound`, of each part that is damaged or missing; its
                rows are left out then. None: the error is raised.
            stage: Read the results of this stage, as far as they are there; see `keep` of `Stage`. None: the last one.

        Yields:
            One page at a time, in input order.

        Raises:
            JobFailed: The job failed; raised after the rows that it has.
        """
        kind = paging.ARROW_STREAM if content_type == "arrow" else paging.JSON_LINES
        state: JobState | None = None
        found = paging.pages(self._transport, f"{self._path}/results", kind, on_damage, stage, follow=follow)
        async with aclosing(found) as all_pages:
            async for page in all_pages:
                state = page.state
                yield page
        if state is None or state is JobState.FAILED:
            status = await self.status()
            if status.state is JobState.FAILED:
                raise_unless_completed(status)

    async def tables(
        self, *, follow: bool = True, on_damage: OnDamage | None = None, stage: str | None = None
    ) -> AsyncGenerator[pa.Table, None]:
        """Read the results as Arrow tables, one per page, in input order; otherwise like `results`.

        Args:
            follow: Whether to wait for more rows until the job has ended. False: only the rows that are there now.
            on_damage: Called with the error, `DamagedData` or `NotFound`, of each part that is damaged or missing; its
                rows are left out then. None: the error is raised.
            stage: Read the results of this stage, as far as they are there; see `keep` of `Stage`. None: the last one.

        Yields:
            One `pyarrow.Table` at a time.

        Raises:
            JobFailed: The job failed; raised after the rows that it has.
        """
        async with aclosing(self.pages("arrow", follow=follow, on_damage=on_damage, stage=stage)) as all_pages:
            async for page in all_pages:
                if (table := page.table()).num_columns:
                    yield table
