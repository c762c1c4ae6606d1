"""What the blocking client asks about plans and past jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from batchmill.client.submitting.options import with_job_options

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from batchmill.client.asynchronous import AsyncClient
    from batchmill.client.blocking_job import Job
    from batchmill.client.job import AsyncJob
    from batchmill.client.loop import LoopThread
    from batchmill.client.submitting.options import JobOptions
    from batchmill.client.submitting.rows import UploadPart
    from batchmill.client.submitting.submission import JobSender
    from batchmill.insights.plans import Plan
    from batchmill.insights.trends import Trend
    from batchmill.insights.trials import Trial


T = TypeVar("T")


class BlockingPlans(ABC):
    """What a client asks about plans and past jobs. A part of `Client`."""

    _async: AsyncClient
    _loop: LoopThread

    def _sent(self, sender: JobSender, parts: Iterator[UploadPart], finish: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Send the rows of a prepared job, then finish; after an error, delete what was sent."""
        try:
            for part in parts:
                if not sender.hold(part):
                    self._loop.run(sender.put(part))
            return self._loop.run(finish())
        except BaseException:
            self._loop.run(sender.abort())
            raise

    @abstractmethod
    def _wrap(self, job: AsyncJob) -> Job:
        """Return the job as this client gives it."""

    @with_job_options
    def plan(self, operator: str | None = None, rows: Any = None, **options: Unpack[JobOptions]) -> Plan:
        """Plan a job: have workers run a sample of its rows, and say what all of them will take.

        Args:
            operator: As for `submit`.
            rows: As for `submit`.

        Returns:
            The plan, from which `submit_plan` submits the job.

        Raises:
            InvalidRequest: Something in the request is wrong, or the sample could not be run.
        """
        sender, parts = self._async.prepare(operator, rows, options)
        return self._loop.run(self._async.await_plan(self._sent(sender, parts, sender.plan)))

    def submit_plan(self, plan: Plan | str) -> Job:
        """Submit the job of a plan, once.

        Args:
            plan: A plan that is ready, or its id.

        Returns:
            The job; the same one when it was submitted before.

        Raises:
            InvalidRequest: The plan says that the deadline cannot be held.
            Conflict: The plan is not ready.
        """
        return self._wrap(self._loop.run(self._async.submit_plan(plan)))

    def plans(self, limit: int = 20) -> list[Plan]:
        """List the plans of the tenant, the newest first, with what their jobs took.

        Args:
            limit: At most this many, 1 to 100.

        Returns:
            The plans.
        """
        return self._loop.run(self._async.plans(limit))

    def trends(self, operator: str | None = None) -> list[Trend]:
        """Read how fast operators were over the latest jobs, and what has changed.

        Args:
            operator: Only this one, with its jobs in `points`. None: all, without their jobs.

        Returns:
            The histories, those of operators that became slower first.
        """
        return self._loop.run(self._async.trends(operator))

    def trials(self, operator: str | None = None) -> list[Trial]:
        """Read which batch sizes workers have tried on parts of jobs, and with which outcome.

        Args:
            operator: Only this one. None: all.

        Returns:
            The trials, the latest first.
        """
        return self._loop.run(self._async.trials(operator))

    def find_plan(self, plan_id: str) -> Plan:
        """Read a plan.

        Args:
            plan_id: The plan's id.

        Returns:
            The plan as it is now.

        Raises:
            NotFound: There is no such plan.
        """
        return self._loop.run(self._async.find_plan(plan_id))
