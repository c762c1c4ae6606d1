"""What the time of devices went into, and what it cost: kept in whole numbers, so that parts add up exactly.

Time is counted in microseconds, money in billionths of the currency's unit ("nano"). An attempt is charged
once, when it ends; the same charge goes into its job's sums and into those of its tenant, of its pool and operator, and
of its day.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from batchmill.job import Cost, CostParts, Frozen, JobCost, StageCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

C = TypeVar("C", bound=Cost)

NANO = 1_000_000_000
HOUR_US = 3_600_000_000
PARTS = tuple(CostParts.model_fields)
OTHER = "other"
"""Under this name is counted what the bounded totals have no room for."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A sum of microseconds, or of billionths of the currency's unit, in its parts; see `batchmill.job.CostParts`."""

    useful: int = 0
    padding: int = 0
    retried: int = 0
    load: int = 0
    idle: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self))

    def in_vain(self) -> Parts:
        """The same time of an attempt whose rows are not kept."""
        return Parts(0, 0, self.useful + self.padding + self.retried, self.load, self.idle)

    def priced(self, price_nano: int) -> Parts:
        """What this time costs, each part rounded by itself, at a price in billionths an hour."""
        return Parts(*(math.floor(us * float(price_nano) / HOUR_US + 0.5) for us in astuple(self)))

    def __add__(self, other: Parts) -> Parts:
        return Parts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def scaled(self, unit: int) -> CostParts:
        """The parts in a unit of so many of these: seconds, or the currency's."""
        return CostParts(**{name: part / unit for name, part in zip(PARTS, astuple(self), strict=True)})


@dataclass(frozen=True, slots=True)
class Spent:
    """What some attempts used, in time and money, and how many rows they brought to an end."""

    us: Parts = Parts()
    nano: Parts = Parts()
    rows: int = 0

    @classmethod
    def of(cls, us: Parts, price_nano: int, rows: int = 0) -> Self:
        """One attempt's time at a price in billionths an hour."""
        return cls(us, us.priced(price_nano), rows)

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.us + other.us, self.nano + other.nano, self.rows + other.rows)

    def told(self) -> dict[str, Any]:
        """The fields of a `Cost`."""
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
    """By name, what the fields of a hash of sums say: "NAME useful_us", "NAME useful_nano", …, "NAME rows"."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for field, amount in fields.items():
        name, _, what = field.rpartition(" ")
        found[name][what] = int(amount)
    return {name: _spent(amounts) for name, amounts in found.items()}


def _spent(amounts: Mapping[str, int]) -> Spent:
    us, nano = (Parts(*(amounts.get(f"{part}_{unit}", 0) for part in PARTS)) for unit in ("us", "nano"))
    return Spent(us, nano, amounts.get("rows", 0))


def added(sums: Iterable[Spent]) -> Spent:
    """All of these together."""
    return sum(sums, Spent())


def job_cost(stages: Mapping[int, Spent], budget_nano: int | None, currency: str) -> JobCost:
    """A job's cost as a user is told."""
    return JobCost(
        **added(stages.values()).told(),
        currency=currency,
        budget=None if budget_nano is None else budget_nano / NANO,
        stages=[StageCost(**spent.told(), stage=stage) for stage, spent in sorted(stages.items())],
    )


class TenantCost(Cost):
    """What a tenant's jobs cost."""

    tenant: str


class OperatorCost(Cost):
    """What an operator cost in a pool."""

    pool: str
    operator: str


class DayCost(Cost):
    """What was charged on one day, by UTC."""

    day: date


class CostTotals(Frozen):
    """What all jobs cost, deleted ones too."""

    currency: str
    all: Cost
    tenants: list[TenantCost]  # the dearest first
    operators: list[OperatorCost]  # the dearest first
    days: list[DayCost]  # the latest first, days without any cost left out


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums over all jobs: by tenant, by "pool operator", and by day since the epoch."""

    tenants: Mapping[str, Spent]
    operators: Mapping[tuple[str, str], Spent]
    days: Mapping[date, Spent]

    @classmethod
    def parse(cls, tenants: Mapping[str, str], pools: Mapping[str, str], days: Mapping[str, str]) -> Self:
        """The totals from the fields of their three hashes."""
        return cls(
            sums(tenants),
            {parse_pool_operator(name): spent for name, spent in sums(pools).items()},
            {date(1970, 1, 1) + timedelta(days=int(day)): spent for day, spent in sums(days).items()},
        )

    def told(self, currency: str, limit: int, tenant: str | None = None) -> CostTotals:
        """As a user sees them, at most `limit` of each kind; of one tenant only its own sum, if one is given."""
        if tenant is not None:
            own = self.tenants.get(tenant, Spent())
            return Totals({tenant: own}, {}, {}).told(currency, limit)
        tenants = [TenantCost(**spent.told(), tenant=tenant) for tenant, spent in self.tenants.items()]
        operators = [
            OperatorCost(**spent.told(), pool=pool, operator=operator)
            for (pool, operator), spent in self.operators.items()
        ]
        latest = sorted(self.days, reverse=True)[:limit]
        return CostTotals(
            currency=currency,
            all=Cost(**added(self.tenants.values()).told()),
            tenants=_dearest(tenants, limit),
            operators=_dearest(operators, limit),
            days=[DayCost(**self.days[day].told(), day=day) for day in latest],
        )


def write_pool_operator(pool: str, operator: str) -> str:
    """The name of an operator in a pool, in the totals."""
    return f"{pool} {operator}"


def parse_pool_operator(name: str) -> tuple[str, str]:
    """Pool and operator of a name in the totals; the operator is `OTHER` in the one without."""
    pool, _, operator = name.partition(" ")
    return pool, operator or OTHER


def _dearest(costs: list[C], limit: int) -> list[C]:
    return sorted(costs, key=lambda cost: (cost.total, cost.total_s), reverse=True)[:limit]
