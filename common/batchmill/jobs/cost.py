"""Device time and cost by purpose, in integers, so that parts add up exactly.

Time is in microseconds, money in billionths of the currency's unit ("nano"). An attempt is charged once, when it ends;
the same charge is added to the sums of its job, its tenant, its pool and operator, and its day.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.status import Cost, CostParts, JobCost, StageCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

C = TypeVar("C", bound=Cost)

NANO = 1_000_000_000
HOUR_US = 3_600_000_000
PARTS = tuple(CostParts.model_fields)
OTHER = "other"
"""Collects the tenants and operators beyond the bounded number of totals."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A sum of microseconds, or of billionths of the currency's unit, by purpose; see `CostParts` of `status.py`."""

    useful: int = 0
    padding: int = 0
    retried: int = 0
    load: int = 0
    idle: int = 0
    preempted: int = 0

    @property
    def amounts(self) -> tuple[int, int, int, int, int, int]:
        """The parts in their order. `dataclasses.astuple` copies deeply, which takes ten times as long."""
        return self.useful, self.padding, self.retried, self.load, self.idle, self.preempted

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self.amounts)

    def as_wasted(self, *, by_preemption: bool = False) -> Parts:
        """Return the same time for an attempt whose results are discarded. by_preemption: since it made room."""
        lost = self.useful + self.padding
        if by_preemption:
            return Parts(0, 0, self.retried, self.load, self.idle, self.preempted + lost)
        return Parts(0, 0, self.retried + lost, self.load, self.idle, self.preempted)

    def priced(self, price_nano: int) -> Parts:
        """Return the cost of this time, each part rounded, at a price in billionths per hour."""
        return Parts(*(math.floor(us * float(price_nano) / HOUR_US + 0.5) for us in self.amounts))

    def __add__(self, other: Parts) -> Parts:
        return Parts(*(mine + its for mine, its in zip(self.amounts, other.amounts, strict=True)))

    def __sub__(self, other: Parts) -> Parts:
        return Parts(*(mine - its for mine, its in zip(self.amounts, other.amounts, strict=True)))

    def scaled(self, unit: int) -> CostParts:
        """Return the parts divided by `unit`: in seconds, or in units of the currency."""
        return CostParts(**{name: part / unit for name, part in zip(PARTS, self.amounts, strict=True)})


@dataclass(frozen=True, slots=True)
class Spent:
    """Time and money of some attempts, and the number of rows that they settled."""

    us: Parts = Parts()
    nano: Parts = Parts()
    rows: int = 0

    @classmethod
    def of(cls, us: Parts, price_nano: int, rows: int = 0) -> Self:
        """Return the charge for one attempt at a price in billionths per hour."""
        return cls(us, us.priced(price_nano), rows)

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.us + other.us, self.nano + other.nano, self.rows + other.rows)

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of a `Cost`."""
        cost = self.nano.total / NANO
        return {
            "seconds": self.us.scaled(1_000_000),
            "money": self.nano.scaled(NANO),
            "total_s": self.us.total / 1_000_000,
            "total": cost,
            "rows": self.rows,
            "per_thousand_rows": cost * 1000 / self.rows if self.rows else None,
        }


def sums(fields: Mapping[str, str]) -> dict[str, Spent]:
    """Parse the fields of a hash of sums, by name: "NAME useful_us", "NAME useful_nano", …, "NAME rows"."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for field, amount in fields.items():
        name, _, what = field.rpartition(" ")
        found[name][what] = int(amount)
    return {name: _spent(amounts) for name, amounts in found.items()}


def _spent(amounts: Mapping[str, int]) -> Spent:
    us, nano = (Parts(*(amounts.get(f"{part}_{unit}", 0) for part in PARTS)) for unit in ("us", "nano"))
    return Spent(us, nano, amounts.get("rows", 0))


def total_of(sums: Iterable[Spent]) -> Spent:
    """Return the total."""
    return sum(sums, Spent())


def job_cost(stages: Mapping[int, Spent], budget_nano: int | None, currency: str, tokens: int = 0) -> JobCost:
    """Return a job's cost as users see it. tokens: of prompts and answers."""
    total = total_of(stages.values())
    return JobCost(
        **total.as_fields(),
        per_million_tokens=total.nano.total / NANO * 1e6 / tokens if tokens else None,
        currency=currency,
        budget=None if budget_nano is None else budget_nano / NANO,
        stages=[StageCost(**spent.as_fields(), stage=stage) for stage, spent in sorted(stages.items())],
    )


class TenantCost(Cost):
    """The cost of a tenant's jobs."""

    tenant: str


class OperatorCost(Cost):
    """The cost of an operator in a pool."""

    pool: str
    operator: str


class DayCost(Cost):
    """The charges of one day, in UTC."""

    day: date


class QuotaStatus(Frozen):
    """What a tenant was charged in this period, of what it may be. ends_at: of the period."""

    tenant: str
    used_s: float
    limit_s: int
    ends_at: datetime

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more of the tenant is queued in this period."""
        return self.used_s >= self.limit_s

    @property
    def share(self) -> float:
        """What is used, of what may be."""
        return self.used_s / self.limit_s if self.limit_s else 1.0


class CostTotals(Frozen):
    """The cost of all jobs, deleted ones included."""

    currency: str
    all: Cost
    tenants: list[TenantCost]  # most expensive first
    operators: list[OperatorCost]  # most expensive first
    days: list[DayCost]  # latest first, without days that cost nothing
    quotas: tuple[QuotaStatus, ...] = ()  # those that have used most of theirs first; of tenants with a quota


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums over all jobs: by tenant, by "pool operator", and by day since the epoch."""

    tenants: Mapping[str, Spent]
    operators: Mapping[tuple[str, str], Spent]
    days: Mapping[date, Spent]

    @classmethod
    def parse(cls, tenants: Mapping[str, str], pools: Mapping[str, str], days: Mapping[str, str]) -> Self:
        """Parse the fields of the three hashes."""
        return cls(
            sums(tenants),
            {parse_pool_operator(name): spent for name, spent in sums(pools).items()},
            {date(1970, 1, 1) + timedelta(days=int(day)): spent for day, spent in sums(days).items()},
        )

    def report(
        self, currency: str, limit: int, tenant: str | None = None, quotas: Sequence[QuotaStatus] = ()
    ) -> CostTotals:
        """Return the totals as users see them, at most `limit` of each kind; only the sum of `tenant`, if given."""
        if tenant is not None:
            own = self.tenants.get(tenant, Spent())
            return Totals({tenant: own}, {}, {}).report(
                currency, limit, quotas=[one for one in quotas if one.tenant == tenant]
            )
        tenants = [TenantCost(**spent.as_fields(), tenant=tenant) for tenant, spent in self.tenants.items()]
        operators = [
            OperatorCost(**spent.as_fields(), pool=pool, operator=operator)
            for (pool, operator), spent in self.operators.items()
        ]
        latest = sorted(self.days, reverse=True)[:limit]
        return CostTotals(
            currency=currency,
            all=Cost(**total_of(self.tenants.values()).as_fields()),
            tenants=_most_expensive(tenants, limit),
            operators=_most_expensive(operators, limit),
            days=[DayCost(**self.days[day].as_fields(), day=day) for day in latest],
            quotas=tuple(sorted(quotas, key=lambda one: (-one.share, one.tenant))[:limit]),
        )


def write_pool_operator(pool: str, operator: str) -> str:
    """The name of an operator in a pool, in the totals."""
    return f"{pool} {operator}"


def parse_pool_operator(name: str) -> tuple[str, str]:
    """Pool and operator of a name in the totals; the operator is `OTHER` in the one without."""
    pool, _, operator = name.partition(" ")
    return pool, operator or OTHER


def _most_expensive(costs: list[C], limit: int) -> list[C]:
    return sorted(costs, key=lambda cost: (cost.total, cost.total_s), reverse=True)[:limit]
