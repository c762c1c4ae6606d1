"""How fast operators were on types of devices, job by job, and whether that has changed."""

from __future__ import annotations

from batchmill.jobs.frozen import Frozen


class TrendPoint(Frozen):
    """What one job took of an operator on a type of device."""

    at: float
    """When it began there; seconds since the epoch."""
    units: float
    """What its rows cost, in the operator's units: tokens, pixels or rows."""
    unit_s: float
    """Time of devices a unit, padding included."""
    padding: float
    """Share of that time that padding took."""
    idle: float
    """Time in which the device waited, over that in which it worked."""
    facts: dict[str, str]
    """What ran it: the versions of operator and service, what computes, and the host."""


class TrendShift(Frozen):
    """A change of an operator's pace that noise does not explain."""

    at: float
    """When the first job after it began; seconds since the epoch."""
    before_s: float
    """Time of devices a unit before: a median."""
    after_s: float
    """The same of the last jobs."""
    changed: list[str] = []  # noqa: RUF012  # pydantic gives each value its own
    """What else changed at that time."""

    @property
    def ratio(self) -> float:
        """How many times as long a unit takes now."""
        return self.after_s / self.before_s


class Trend(Frozen):
    """The history of an operator with its parameters on a type of device."""

    operator: str
    params: str
    """The first digits of a digest of its parameters."""
    device_type: str
    jobs: int
    """Jobs in the history."""
    unit_s: float
    """Time of devices a unit: the median of the last jobs."""
    shift: TrendShift | None = None
    """The change of its pace that holds now; None: there is none."""
    points: list[TrendPoint] = []  # noqa: RUF012  # pydantic gives each value its own
    """The jobs, the oldest first; only where one operator was asked for."""

    @property
    def changed_names(self) -> str:
        """What changed with its pace, without values: `operator, host`; "" without a change."""
        return ", ".join(one.partition(":")[0] for one in self.shift.changed) if self.shift else ""


class TrendList(Frozen):
    """The histories of all operators, those with a change first."""

    trends: list[Trend]
