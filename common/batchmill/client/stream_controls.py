"""What jobs over streams have besides, of both clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchmill.errors import Conflict

if TYPE_CHECKING:
    from batchmill.client.loop import LoopThread
    from batchmill.jobs.status import JobStatus
    from batchmill.jobs.streams.status import StreamStatus


class AsyncStreamControls(ABC):
    """The methods of an `AsyncJob` that reads a stream."""

    @abstractmethod
    async def status(self) -> JobStatus:
        """Read the status."""

    @abstractmethod
    async def drain(self) -> JobStatus:
        """Let the job end after the rows that are planned."""

    async def lag(self) -> int | None:
        """Read how many rows wait in the stream, not yet planned.

        Returns:
            The rows, as measured about every second; None while that is not known.

        Raises:
            Conflict: The job reads no stream.
        """
        return _stream(await self.status()).lag

    async def watermark(self) -> datetime | None:
        """Read up to which event time rows are planned: the minimum over the partitions that are not idle.

        Returns:
            The time, in UTC; None before the first row.

        Raises:
            Conflict: The job reads no stream.
        """
        return _moment(_stream(await self.status()).watermark_at)


class StreamControls:
    """The methods of a `Job` that reads a stream."""

    _loop: LoopThread
    _async: AsyncStreamControls

    def drain(self) -> JobStatus:
        """Let the job end after the rows that are planned; what comes later stays in the stream.

        A job that is submitted with the same stream and `start=` the id of this one begins there, also with other
        stages.

        Returns:
            The new status. `wait` waits for the end.

        Raises:
            Conflict: The job reads no stream, is stopping or has ended.
        """
        return self._loop.run(self._async.drain())

    def lag(self) -> int | None:
        """Read how many rows wait in the stream, not yet planned.

        Returns:
            The rows, as measured about every second; None while that is not known.

        Raises:
            Conflict: The job reads no stream.
        """
        return self._loop.run(self._async.lag())

    def watermark(self) -> datetime | None:
        """Read up to which event time rows are planned: the minimum over the partitions that are not idle.

        Returns:
            The time, in UTC; None before the first row.

        Raises:
            Conflict: The job reads no stream.
        """
        return self._loop.run(self._async.watermark())


def _stream(status: JobStatus) -> StreamStatus:
    if status.stream is None:
        raise Conflict(f"job {status.id} reads no stream.", job=status.id)
    return status.stream


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
