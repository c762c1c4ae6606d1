"""What the blocking client reads of plans and past jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.client.loop import LoopThread
    from batchmill.client.planning import PlanCalls
    from batchmill.plans import Plan
    from batchmill.trends import Trend


class BlockingPlans:
    """What a client reads of plans and past jobs. A part of `Client`."""

    _async: PlanCalls
    _loop: LoopThread

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
