"""The lag of streams, for metrics: sums over the live jobs that read them. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from batchmill.telemetry.metrics import OTHER
from batchmill_coordinator.metering import catalogue
from batchmill_coordinator.status.status import stream_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric

    from batchmill.ledger import JobRecord


def stream_metrics(records: Iterable[JobRecord], names: Mapping[str, str], now_s: float) -> list[Metric]:
    """Sum up streams by pool. names: what each pool is called; those that are missing go under `OTHER`."""
    lag: Counter[str] = Counter()
    away: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    delay_s: dict[str, float] = {}
    for record in records:
        status = stream_status(record, now_s)
        if status is None:
            continue
        pool = names.get(record.spec.first.pool, OTHER)
        lag[pool] += status.lag or 0
        away[pool] += status.away is not None
        lost[pool] += status.rows_lost
        if status.watermark_at is not None:
            delay_s[pool] = max(delay_s.get(pool, 0.0), now_s - status.watermark_at)
    sums = (
        (catalogue.STREAM_LAG, lag),
        (catalogue.STREAM_DELAY, delay_s),
        (catalogue.STREAMS_AWAY, away),
        (catalogue.STREAM_ROWS_LOST, lost),
    )
    return [metric.read(((pool,), amount) for pool, amount in found.items()) for metric, found in sums]
