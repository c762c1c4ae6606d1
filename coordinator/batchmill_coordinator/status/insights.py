"""What past jobs have shown of operators, as users ask for it: trends and trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_coordinator.status.trends import read_trends

if TYPE_CHECKING:
    from batchmill.insights.trends import Trend
    from batchmill.insights.trials import Trial
    from batchmill.ledger import Ledger


class Insights:
    """Reads the ledger anew with each call."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def trends(self, operator: str | None) -> list[Trend]:
        """Return the histories of operators; of one with its jobs."""
        return read_trends(self._ledger, operator)

    def trials(self, operator: str | None) -> list[Trial]:
        """Return the trials of all operators or of one, the latest first."""
        return [one for one in self._ledger.trials.read() if operator in (None, one.operator)]
