"""All metrics of a coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector
from prometheus_client.registry import Collector

from batchmill.telemetry.metrics import LedgerMeter, exposition, new_registry
from batchmill_coordinator.metering import catalogue
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.metering.lane import LaneMetrics
from batchmill_coordinator.metering.ledger_view import LedgerCollector
from batchmill_coordinator.status.notices import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from prometheus_client import Metric

    from batchmill.clock import Clock
    from batchmill.jobs.cost import QuotaStatus
    from batchmill.ledger import Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill_coordinator.status.notices import Notices


class NoticeCollector(Collector):
    """Export which kinds of notice are in force."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    def collect(self) -> Iterable[Metric]:
        """Return one value for each kind."""
        reported = self._notices.texts()
        yield catalogue.NOTICES.read(((notice.value,), int(notice in reported)) for notice in Notice)


class CoordinatorMetrics:
    """Counts what the roles do, as `roles`, and the `lane`, and gives everything as a page. Thread-safe.

    epoch: under which this coordinator leads; 0 while it does not. quotas: as in `LedgerCollector`.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: CoordinatorSettings,
        epoch: Callable[[], int],
        clock: Clock,
        notices: Notices,
        quotas: Callable[[], Collection[QuotaStatus]],
    ) -> None:
        of_ledger = LedgerCollector(
            ledger, epoch, lambda: self.roles.unreadable, clock, local_folders(settings), settings.currency, quotas
        )
        self._registry = new_registry(of_ledger)
        self._registry.register(NoticeCollector(notices))
        self.roles = RoleMetrics(self._registry)
        self.lane = LaneMetrics(self._registry)
        ledger.observe_calls(LedgerMeter(self._registry))
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return exposition(self._registry)


def local_folders(settings: CoordinatorSettings) -> list[str]:
    """Return the folders of the settings that are on a local disk, which may fill up."""
    named = (settings.blob_root, *settings.roots)
    return list(dict.fromkeys(place for place in named if place and "://" not in place))
