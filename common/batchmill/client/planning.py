"""Plans of jobs: asked for, awaited, listed and submitted; and how fast past jobs were."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

from batchmill.errors import ServiceUnavailable, from_envelope
from batchmill.jobs.status import JobStatus
from batchmill.plans import Plan, PlanList, PlanState
from batchmill.trends import Trend, TrendList

if TYPE_CHECKING:
    from batchmill.client.connection.transport import Transport

LOOK_INTERVAL_S = 0.25


class PlanCalls:
    """What a client asks about plans and past jobs. A part of `AsyncClient`."""

    _transport: Transport

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

    async def post_plan(self, plan: Plan | str) -> JobStatus:
        """Submit the job of a plan: the first half of `submit_plan`.

        Args:
            plan: A plan that is ready, or its id.

        Returns:
            The status of the job.

        Raises:
            InvalidRequest: The plan says that the deadline cannot be held.
            Conflict: The plan is not ready.
        """
        path = f"/v1/plans/{quote(plan if isinstance(plan, str) else plan.id, safe='')}/submit"
        return self._transport.parse(JobStatus, await self._transport.json("POST", path))
