"""Waiting for the end of a job."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from batchmill.client.outcome import raise_unless_completed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from batchmill.jobs.status import JobStatus


class Watched(Protocol):
    """What is waited for: an `AsyncJob`."""

    id: str
    latest: JobStatus | None

    def watch(self) -> AsyncGenerator[JobStatus, None]:
        """Yield each status until the job has ended."""
        ...


async def wait_until_ended(
    job: Watched,
    show: Callable[[JobStatus], None],
    timeout: float | None,  # noqa: ASYNC109  # users give it
) -> None:
    """Wait until a job has ended; call `show` with each status, on the event loop.

    Raises the errors of `AsyncJob.wait`.
    """
    statuses = job.watch()
    try:
        async with asyncio.timeout(timeout) as limit, aclosing(statuses):
            async for status in statuses:
                show(status)
    except TimeoutError:
        if not limit.expired():
            raise
        state = f"is still {job.latest.state}" if job.latest else "has not ended"
        raise TimeoutError(f"{job.id} {state} after {timeout} s; it continues.") from None
    if job.latest is not None:
        raise_unless_completed(job.latest)
