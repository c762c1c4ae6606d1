"""What jobs cost, as metrics: the ledger's own totals, which never fall. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from batchmill.jobs.cost import NANO, PARTS, Spent
from batchmill_coordinator.metering import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    from prometheus_client import Metric

    from batchmill.jobs.cost import Parts, QuotaStatus, Totals
    from batchmill.ledger.formats.work import Work
    from batchmill.telemetry.metrics import Metric as Declared
    from batchmill.telemetry.metrics import Sample

Name = TypeVar("Name", str, tuple[str, str])

OF_WORK = (catalogue.DEVICE_TIME, catalogue.MONEY, catalogue.ROWS_CHARGED)
OF_TENANTS = (catalogue.TENANT_DEVICE_TIME, catalogue.TENANT_MONEY, catalogue.TENANT_ROWS_CHARGED)
MICRO = 1_000_000
MAX_NAMES = 200
"""Up to this many tenants, or pairs of pool and operator, are exported before they are charged; the ledger bounds those
that are."""


def cost_metrics(totals: Totals, work: Work, today: date, currency: str) -> Iterator[Metric]:
    """Yield the totals. work: of the jobs that have not ended; today: the ledger's day, UTC; currency: of costs."""
    operators = begun(
        totals.operators, {(pool, operator) for operator, pool, _ in (*work.jobs, *work.shards, *work.rows)}
    )
    yield from _charged(OF_WORK, {(operator, pool): spent for (pool, operator), spent in operators.items()})
    tenants = begun(totals.tenants, work.tenants)
    yield from _charged(OF_TENANTS, {(tenant,): spent for tenant, spent in tenants.items()})
    spent_today = totals.days.get(today, Spent())
    yield catalogue.DEVICE_TIME_TODAY.read(_parts({(): spent_today.us}, MICRO))
    yield catalogue.MONEY_TODAY.read(_parts({(): spent_today.nano}, NANO))
    yield catalogue.CURRENCY.read([((currency,), 1)])


def quota_metrics(quotas: Iterable[QuotaStatus]) -> Iterator[Metric]:
    """Yield the quotas of at most `MAX_NAMES` tenants, those that have used most of theirs."""
    most = sorted(quotas, key=lambda one: (-one.share, one.tenant))[:MAX_NAMES]
    yield catalogue.TENANT_QUOTA.read(((one.tenant,), one.limit_s) for one in most)
    yield catalogue.TENANT_QUOTA_USED.read(((one.tenant,), one.used_s) for one in most)


def begun(charged: Mapping[Name, Spent], expected: Iterable[Name]) -> dict[Name, Spent]:
    """Add zeros for those that will be charged soon: a rate sees only what is added to a number it has seen before."""
    free = max(MAX_NAMES - len(charged), 0)
    coming = sorted(set(expected) - charged.keys())[:free]
    return dict(charged) | {name: Spent() for name in coming}


def _charged(metrics: tuple[Declared, Declared, Declared], sums: Mapping[tuple[str, ...], Spent]) -> Iterator[Metric]:
    """metrics: of the time, the money and the rows. sums: by the values of their labels."""
    of_time, of_money, of_rows = metrics
    yield of_time.read(_parts({names: spent.us for names, spent in sums.items()}, MICRO))
    yield of_money.read(_parts({names: spent.nano for names, spent in sums.items()}, NANO))
    yield of_rows.read((names, spent.rows) for names, spent in sums.items())


def _parts(sums: Mapping[tuple[str, ...], Parts], unit: int) -> Iterator[Sample]:
    """Yield each part by itself; `unit`: how many of these make up one of the metric's."""
    for names, parts in sums.items():
        for name, amount in zip(PARTS, parts.amounts, strict=True):
            yield (*names, name), amount / unit
