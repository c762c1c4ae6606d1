"""The metrics that are read when they are asked for: whether the ledger answers, who leads, and what there is to do.

Only the leader exports the last. A reading serves everybody who asks within a second.
"""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from batchmill.caches import Fresh
from batchmill.errors import ServiceUnavailable
from batchmill.insights.trials import TrialState
from batchmill_coordinator.fleet.backlog import pool_loads, read_heads
from batchmill_coordinator.fleet.pools import view_pools
from batchmill_coordinator.metering import catalogue
from batchmill_coordinator.metering.costs import cost_metrics, quota_metrics
from batchmill_coordinator.metering.counts import MAX_POOLS
from batchmill_coordinator.metering.streams import stream_metrics
from batchmill_coordinator.metering.work import names_of, work_sums
from batchmill_coordinator.status.insights import Insights

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from batchmill.clock import Clock
    from batchmill.fleet import PoolScale
    from batchmill.insights.trials import Trial
    from batchmill.jobs.cost import QuotaStatus
    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.metering.work import WorkSums

READING_TTL_S = 1.0
INSIGHTS_TTL_S = 60.0  # a change shows after some jobs
MAX_STREAMS = 1000  # jobs over streams that are summed up: the oldest
MAX_DEADLINES = 200  # jobs whose deadline is checked for whether it can be met: those with the nearest
READING_TIMEOUT_S = 5.0
"""How long a caller waits for a reading that another one has begun."""


class LedgerCollector(Collector):
    """Reads the ledger. Thread-safe.

    epoch: under which this coordinator leads, as `Leadership.epoch`. unreadable: how many live jobs have a record that
    cannot be read. folders: whose disks are to be watched. currency: what costs are in. quotas: of tenants, with what
    is used of them.
    """

    def __init__(
        self,
        ledger: Ledger,
        epoch: Callable[[], int],
        unreadable: Callable[[], int],
        clock: Clock,
        folders: Sequence[str],
        currency: str,
        quotas: Callable[[], Collection[QuotaStatus]],
    ) -> None:
        self._ledger = ledger
        self._epoch = epoch
        self._unreadable = unreadable
        self._clock = clock
        self._folders = folders
        self._currency = currency
        self._quotas = quotas
        insights = Insights(ledger)
        self._trends = Fresh(lambda: insights.trends(None), INSIGHTS_TTL_S, clock)
        self._trials = Fresh(lambda: insights.trials(None), INSIGHTS_TTL_S, clock)
        self._latest = Fresh(lambda: list(self._read()), READING_TTL_S, clock)

    def collect(self) -> Iterable[Metric]:
        """Return a reading of the last second. Raises `ServiceUnavailable` if another caller's does not end."""
        try:
            return self._latest.get(READING_TIMEOUT_S)
        except TimeoutError:
            raise ServiceUnavailable("the metrics are being read, which does not end.", hint="Try again.") from None

    def _read(self) -> Iterator[Metric]:
        epoch = self._epoch()
        yield catalogue.LEADER.read([((), int(epoch > 0))])
        yield catalogue.EPOCH.read([((), epoch)])
        asked_at = self._clock.monotonic()
        try:
            self._ledger.ping()
            answered_at = self._clock.monotonic()
            of_leader = self._of_leader() if epoch else []
        except ServiceUnavailable:
            yield catalogue.LEDGER_UP.read([((), 0)])
            return
        yield catalogue.LEDGER_UP.read([((), 1)])
        yield catalogue.LEDGER_PING.read([((), answered_at - asked_at)])
        yield from of_leader

    def _of_leader(self) -> list[Metric]:
        ledger, survey = self._ledger, self._ledger.survey.take()
        pools, found = view_pools(ledger.fleet.workers(survey.now_ms)), ledger.overview.work()
        heads = read_heads(ledger, found, pools)
        loads = pool_loads(found, heads, survey.now_ms)
        names = names_of(pools, heads, MAX_POOLS)
        with_deadlines = ledger.jobs.read_many(ledger.index.with_deadlines(MAX_DEADLINES))
        work = work_sums(found, loads, with_deadlines, names, survey.now_ms / 1000)
        reading_streams = ledger.jobs.read_many(ledger.streams.live_jobs()[:MAX_STREAMS])
        memory, today = survey.memory_bytes, datetime.fromtimestamp(survey.now_ms / 1000, UTC).date()
        return [
            *_of_work(work),
            *_of_pools(work, pools),
            *_of_scale(ledger.scale.decisions(), names),
            *stream_metrics(reading_streams, names, survey.now_ms / 1000),
            catalogue.UNREADABLE.read([((), self._unreadable())]),
            catalogue.JOBS_KEPT.read([((), survey.jobs_kept)]),
            catalogue.LEASES.read([((), survey.leases)]),
            catalogue.LEASES_EXPIRED.read([((), survey.leases_expired)]),
            catalogue.LEDGER_MEMORY.read([] if memory is None else [((), memory)]),
            *self._of_disks(),
            catalogue.TREND.read(
                ((one.operator, one.params, one.device_type, one.changed_names), one.shift.ratio if one.shift else 1.0)
                for one in self._trends.get(READING_TIMEOUT_S)
            ),
            *_of_trials(self._trials.get(READING_TIMEOUT_S), self._clock.wall()),
            *cost_metrics(ledger.costs.totals(), found, today, self._currency),
            *quota_metrics(self._quotas()),
        ]

    def _of_disks(self) -> Iterator[Metric]:
        spaces = {}
        for folder in self._folders:
            try:
                spaces[folder] = shutil.disk_usage(folder)
            except OSError:  # it does not exist yet
                continue
        yield catalogue.DISK_FREE.read(((folder,), space.free) for folder, space in spaces.items())
        yield catalogue.DISK_SIZE.read(((folder,), space.total) for folder, space in spaces.items())


def _of_work(work: WorkSums) -> Iterator[Metric]:
    yield catalogue.JOBS.read(work.jobs.items())
    yield catalogue.SHARDS.read(work.shards.items())
    yield catalogue.ROWS.read(work.rows.items())


def _of_trials(trials: Sequence[Trial], now: float) -> Iterator[Metric]:
    states = Counter(one.state for one in trials)
    yield catalogue.TRIALS.read(((state.value,), states[state]) for state in TrialState)
    winners = {
        (one.operator, one.params, one.device_type, one.setting, f"{one.candidate:g}"): one.ratio
        for one in reversed(trials)  # the latest last
        if one.state is TrialState.WON and one.ratio is not None and (one.expires_at or 0) > now
    }
    yield catalogue.TRIAL_RATIO.read(winners.items())


def _of_scale(scales: Mapping[str, PoolScale], names: Mapping[str, str]) -> Iterator[Metric]:
    named = [scale for pool, scale in scales.items() if names.get(pool) == pool]
    yield catalogue.WORKERS_WANTED.read(((one.pool,), one.workers_wanted) for one in named)
    yield catalogue.HELD.read(((one.pool,), one.held_s) for one in named)
    yield catalogue.DRAIN.read(((one.pool,), one.drain_s) for one in named if one.drain_s is not None)


def _of_pools(work: WorkSums, pools: dict[str, PoolView]) -> Iterator[Metric]:
    names = list(work.depth_shards)
    for metric, sums in (
        (catalogue.DEPTH_SHARDS, work.depth_shards),
        (catalogue.DEPTH_ROWS, work.depth_rows),
        (catalogue.AT_RISK, work.at_risk),
        (catalogue.OVER_BUDGET, work.over_budget),
        (catalogue.OLDEST, work.oldest_s),
    ):
        yield metric.read(((name,), sums[name]) for name in names)
    yield catalogue.REVISIONS.read(
        ((name, operator), len(revisions))
        for name in names
        if name in pools
        for operator, revisions in pools[name].mixed.items()
    )
    yield catalogue.WORKERS.read(((name,), pools[name].workers if name in pools else 0) for name in names)
    yield catalogue.CAPACITY.read(((name,), pools[name].capacity if name in pools else 0) for name in names)
