"""A stage of a job of several, of both clients."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from batchmill.client.results.pages import ARROW_STREAM, dicts, one_page
from batchmill.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from batchmill.client.connection.transport import Transport
    from batchmill.client.loop import LoopThread
    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.jobs.status import JobStatus, StageStatus


class StagedJob(Protocol):
    """What a stage asks of its job, an `AsyncJob`."""

    id: str

    async def status(self) -> JobStatus:
        """Read the status."""
        ...

    async def dead_letters(self, *, stage: str) -> list[DeadLetter]:
        """Read the rows that failed in a stage."""
        ...


class AsyncJobStage:
    """A stage of an `AsyncJob`; `AsyncJob.stage` returns it.

    Attributes:
        name: The stage's name.
    """

    def __init__(self, transport: Transport, job: StagedJob, results_path: str, name: str) -> None:
        self.name = name
        self._results_path = results_path
        self._transport = transport
        self._job = job

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._job.id!r}, {self.name!r})"

    async def status(self) -> StageStatus:
        """Read how far the stage is.

        Returns:
            The status of the stage.

        Raises:
            NotFound: The job has no such stage.
        """
        stages = (await self._job.status()).stages
        if self.name not in [stage.name for stage in stages]:
            raise NotFound(f"job {self._job.id} has no stage {self.name!r}.", job=self._job.id)
        return stages[self.name]

    async def peek(self, rows: int = 5) -> list[dict[str, Any]]:
        """Read some of the stage's results, while the job runs or afterwards.

        Args:
            rows: At most this many.

        Returns:
            The first results that are there: those that the next stage has settled are gone, unless the stage was
            submitted with `keep=True`.

        Raises:
            InvalidRequest: The job has no such stage, or `rows` is below 1.
        """
        if rows < 1:
            raise InvalidRequest(f"rows: expected at least 1, got {rows}.", field="rows")
        found: list[dict[str, Any]] = []
        query = {"stage": self.name}
        while len(found) < rows:
            page = await one_page(self._transport, self._results_path, ARROW_STREAM, query)
            found += islice(chain.from_iterable(dicts(page.table())), rows - len(found))
            if page.is_last or not page.rows:
                break
            query["cursor"] = page.next_cursor
        return found

    async def dead_letters(self) -> list[DeadLetter]:
        """Read the rows that failed in the stage.

        Returns:
            One dead letter per failed row, in input order.

        Raises:
            InvalidRequest: The job has no such stage.
        """
        return await self._job.dead_letters(stage=self.name)


class JobStage:
    """A stage of a `Job`; `Job.stage` returns it.

    Attributes:
        name: The stage's name.
    """

    def __init__(self, loop: LoopThread, stage: AsyncJobStage) -> None:
        self.name = stage.name
        self._loop = loop
        self._async = stage

    def __repr__(self) -> str:
        return repr(self._async).removeprefix("Async")

    def status(self) -> StageStatus:
        """Read how far the stage is.

        Returns:
            The status of the stage.

        Raises:
            NotFound: The job has no such stage.
        """
        return self._loop.run(self._async.status())

    def peek(self, rows: int = 5) -> list[dict[str, Any]]:
        """Read some of the stage's results, while the job runs or afterwards.

        Args:
            rows: At most this many.

        Returns:
            The first results that are there: those that the next stage has settled are gone, unless the stage was
            submitted with `keep=True`.

        Raises:
            InvalidRequest: The job has no such stage, or `rows` is below 1.
        """
        return self._loop.run(self._async.peek(rows))

    def dead_letters(self) -> list[DeadLetter]:
        """Read the rows that failed in the stage.

        Returns:
            One dead letter per failed row, in input order.

        Raises:
            InvalidRequest: The job has no such stage.
        """
        return self._loop.run(self._async.dead_letters())
