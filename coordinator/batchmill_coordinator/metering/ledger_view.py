"""The metrics that are read when they are asked for: whether the ledger answers, who leads, and what there is to do.

The last is told by the leader alone. A reading serves everybody who asks within a second.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from batchmill.caches import Fresh
from batchmill.errors import ServiceUnavailable
from batchmill_coordinator.fleet.pools import view_pools
from batchmill_coordinator.metering import catalogue
from batchmill_coordinator.metering.backlog import backlog_of, names_of
from batchmill_coordinator.metering.costs import cost_metrics
from batchmill_coordinator.metering.counts import MAX_POOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client import Metric

    from batchmill.clock import Clock
    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.backlog import Backlog

FRESH_S = 1.0
PATIENCE_S = 5.0
"""How long one who asks waits for a reading that somebody else has begun."""


class LedgerMetrics(Collector):
    """Reads the ledger. Thread-safe.

    epoch: under which this coordinator leads, as `Leadership.epoch`. folders: whose disks are to be watched.
    currency: what costs are in.
    """

    def __init__(
        self, ledger: Ledger, epoch: Callable[[], int], clock: Clock, folders: Sequence[str], currency: str
    ) -> None:
        self._ledger = ledger
        self._epoch = epoch
        self._clock = clock
        self._folders = folders
        self._currency = currency
        self._latest = Fresh(lambda: list(self._read()), FRESH_S, clock)

    def collect(self) -> Iterable[Metric]:
        """A reading of the last second. Raises `ServiceUnavailable` if somebody else's does not come to an end."""
        try:
            return self._latest.get(PATIENCE_S)
        except TimeoutError:
            raise ServiceUnavailable(
                "the metrics are being read, which does not come to an end.", hint="Try again."
            ) from None

    def _read(self) -> Iterator[Metric]:
        epoch = self._epoch()
        yield catalogue.LEADER.read([((), int(epoch > 0))])
        yield catalogue.EPOCH.read([((), epoch)])
        asked_at = self._clock.monotonic()
        try:
            self._ledger.ping()
            answered_at = self._clock.monotonic()
            told = self._of_leader() if epoch else []
        except ServiceUnavailable:
            yield catalogue.LEDGER_UP.read([((), 0)])
            return
        yield catalogue.LEDGER_UP.read([((), 1)])
        yield catalogue.LEDGER_PING.read([((), answered_at - asked_at)])
        yield from told

    def _of_leader(self) -> list[Metric]:
        records = self._ledger.jobs.live()
        pools = view_pools(self._ledger.fleet.workers(self._ledger.now_ms()))
        with_work = {record.spec.pool for record in records}
        survey = self._ledger.survey.take([record.id for record in records], with_work | pools.keys())
        backlog = backlog_of(records, survey, names_of(pools, with_work, MAX_POOLS))
        memory, today = survey.memory_bytes, datetime.fromtimestamp(survey.now_ms / 1000, UTC).date()
        return [
            *_of_work(backlog),
            *_of_pools(backlog, pools),
            catalogue.JOBS_KEPT.read([((), survey.jobs_kept)]),
            catalogue.LEASES.read([((), survey.leases)]),
            catalogue.LEASES_EXPIRED.read([((), survey.leases_expired)]),
            catalogue.LEDGER_MEMORY.read([] if memory is None else [((), memory)]),
            *self._of_disks(),
            *cost_metrics(self._ledger.costs.totals(), records, today, self._currency),
        ]

    def _of_disks(self) -> Iterator[Metric]:
        spaces = {}
        for folder in self._folders:
            try:
                spaces[folder] = shutil.disk_usage(folder)
            except OSError:  # it is not there yet
                continue
        yield catalogue.DISK_FREE.read(((folder,), space.free) for folder, space in spaces.items())
        yield catalogue.DISK_SIZE.read(((folder,), space.total) for folder, space in spaces.items())


def _of_work(backlog: Backlog) -> Iterator[Metric]:
    yield catalogue.JOBS.read(backlog.jobs.items())
    yield catalogue.SHARDS.read(backlog.shards.items())
    yield catalogue.ROWS.read(backlog.rows.items())


def _of_pools(backlog: Backlog, pools: dict[str, PoolView]) -> Iterator[Metric]:
    names = list(backlog.depth_shards)
    for metric, sums in (
        (catalogue.DEPTH_SHARDS, backlog.depth_shards),
        (catalogue.DEPTH_ROWS, backlog.depth_rows),
        (catalogue.AT_RISK, backlog.at_risk),
        (catalogue.OVER_BUDGET, backlog.over_budget),
        (catalogue.OLDEST, backlog.oldest_s),
    ):
        yield metric.read(((name,), sums[name]) for name in names)
    yield catalogue.WORKERS.read(((name,), pools[name].workers if name in pools else 0) for name in names)
    yield catalogue.CAPACITY.read(((name,), pools[name].capacity if name in pools else 0) for name in names)
