"""Plans of jobs: asked for, awaited, listed and submitted; and how fast past jobs were."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel

from batchmill.client.submitting.options import with_job_options
from batchmill.errors import ServiceUnavailable, from_envelope
from batchmill.insights.plans import Plan, PlanList, PlanState
from batchmill.insights.trends import Trend, TrendList
from batchmill.insights.trials import Trial, TrialList
from batchmill.jobs.status import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.client.connection.transport import Transport
    from batchmill.client.job import AsyncJob
    from batchmill.client.submitting.options import JobOptions
    from batchmill.client.submitting.rows import UploadPart
    from batchmill.client.submitting.submission import JobSender

M = TypeVar("M", bound=BaseModel)
LOOK_INTERVAL_S = 0.25


class PlanCalls(ABC):
    """What a client asks about plans and past jobs. A part of `AsyncClient`."""

    _transport: Transport

    @abstractmethod
    def prepare(self, operator: str | None, rows: Any, options: JobOptions) -> tuple[JobSender, Iterator[UploadPart]]:
        """See `AsyncClient`."""

    @abstractmethod
    def job_of(self, status: JobStatus) -> AsyncJob:
        """See `AsyncClient`."""

    @with_job_options
    async def plan(self, operator: str | None = None, rows: Any = None, **options: Unpack[JobOptions]) -> Plan:
        """Plan a job: have workers run a sample of its rows, and say what all of them will take.

        Args:
            operator: As for `submit`.
            rows: As for `submit`.

        Returns:
            The plan, from which `submit_plan` submits the job.

        Raises:
            InvalidRequest: Something in the request is wrong, or the sample could not be run.
        """
        sender, parts = self.prepare(operator, rows, options)
        return await self.await_plan(await sender.send(parts, sender.plan))

    async def submit_plan(self, plan: Plan | str) -> AsyncJob:
        """Submit the job of a plan, once.

        Args:
            plan: A plan that is ready, or its id.

        Returns:
            The job; the same one when it was submitted before.

        Raises:
            InvalidRequest: The plan says that the deadline cannot be held.
            Conflict: The plan is not ready.
        """
        path = f"/v1/plans/{quote(plan if isinstance(plan, str) else plan.id, safe='')}/submit"
        return self.job_of(self._transport.parse(JobStatus, await self._transport.json("POST", path)))

    async def plans(self, limit: int = 20) -> list[Plan]:
        """List the plans of the tenant, the newest first, with what their jobs took.

        Args:
            limit: At most this many, 1 to 100.

        Returns:
            The plans.
        """
        answer = await self._transport.json("GET", "/v1/plans", query={"limit": str(limit)})
        return self._transport.parse(PlanList, answer).plans

    async def trends(self, operator: str | None = None) -> list[Trend]:
        """Read how fast operators were over the latest jobs, and what has changed.

        Args:
            operator: Only this one, with its jobs in `points`. None: all, without their jobs.

        Returns:
            The histories, those of operators that became slower first.
        """
        query = {} if operator is None else {"operator": operator}
        return self._transport.parse(TrendList, await self._transport.json("GET", "/v1/trends", query=query)).trends

    async def trials(self, operator: str | None = None) -> list[Trial]:
        """Read which batch sizes workers have tried on parts of jobs, and with which outcome.

        Args:
            operator: Only this one. None: all.

        Returns:
            The trials, the latest first.
        """
        query = {} if operator is None else {"operator": operator}
        return self._transport.parse(TrialList, await self._transport.json("GET", "/v1/trials", query=query)).trials

    async def find_plan(self, plan_id: str) -> Plan:
        """Read a plan.

        Args:
            plan_id: The plan's id.

        Returns:
            The plan as it is now.

        Raises:
            NotFound: There is no such plan.
        """
        path = f"/v1/plans/{quote(plan_id, safe='')}"
        return self._transport.parse(Plan, await self._transport.json("GET", path))

    async def await_plan(self, plan: Plan) -> Plan:
        """Wait until a plan is ready.

        Args:
            plan: A plan from the service.

        Returns:
            The plan as it is then.

        Raises:
            InvalidRequest: The sample could not be read or run; the message has the reason.
        """
        while not plan.is_final:
            await asyncio.sleep(LOOK_INTERVAL_S)
            plan = await self.find_plan(plan.id)
        if plan.state is PlanState.FAILED:
            if plan.error is None:
                raise ServiceUnavailable(f"the plan {plan.id} failed, and the service gave no reason.")
            raise from_envelope({"error": plan.error.model_dump(mode="json")}, 422)
        return plan
