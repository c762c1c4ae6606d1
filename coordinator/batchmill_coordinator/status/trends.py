"""Whether an operator has become slower or faster from one job to the next. Pure.

The median of the last `LAST` jobs is compared with that of up to `BEFORE` jobs before them. A difference counts when it
is above `MIN_SHIFT`, and above `DEVIATIONS` times the error that the spread of those jobs gives such a median. Medians
and their deviation (MAD) ignore single disturbed jobs; so a change shows after three or four jobs. After some `BEFORE`
jobs more it is what is usual.

Simulated with log-normal noise, 160 jobs and a shift of 10 % after 120: with noise of 0.5 % no false alarm and every
shift found, with 2 and 4 % a false alarm in 1 of 25 histories and 98 and 88 % found, with 10 % 1 of 7 found.
Rejected: CUSUM, which raises many alarms where noise is not stationary; the packages for change points, which need
twice as many jobs to find the same.
"""

from __future__ import annotations

import json
import math
import statistics
from typing import TYPE_CHECKING

from batchmill.insights.trends import Trend, TrendPoint, TrendShift
from batchmill.jobs.sink import RESERVED_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.ledger import Ledger
    from batchmill.ledger.workers.trends import StoredPoint, TrendName

LAST = 5
BEFORE = 60
MIN_BEFORE = 20
MIN_SHIFT = 0.03
DEVIATIONS = 4.0
MAD_TO_SIGMA = 1.4826  # of normal noise
MEDIAN_TO_MEAN = 1.2533  # the error of a median over that of a mean
PART_SHIFT = 0.05  # of a share, to be named


def shift_at(values: Sequence[float]) -> int | None:
    """Return at which value a shift begins that was found in the last `BEFORE` jobs and still holds; None without any.

    values: seconds a unit, the oldest first.
    """
    raised = None
    for now in range(max(MIN_BEFORE + LAST, len(values) - BEFORE), len(values) + 1):
        if _is_shifted(values[now - LAST : now], values[max(now - LAST - BEFORE, 0) : now - LAST]):
            raised = now if raised is None else raised
    if raised is None:
        return None
    place = _split(values[:raised])
    is_held = _is_shifted(values[-LAST:], values[max(place - BEFORE, 0) : place])
    return place if is_held else None


def _is_shifted(new: Sequence[float], old: Sequence[float]) -> bool:
    middle = statistics.median(old)
    deviation = MAD_TO_SIGMA * statistics.median(abs(value - middle) for value in old)
    allowed = max(MIN_SHIFT * middle, DEVIATIONS * MEDIAN_TO_MEAN * deviation / math.sqrt(LAST))
    return abs(statistics.median(new) - middle) > allowed


def _split(values: Sequence[float]) -> int:
    """Return where the last values begin that are on the other side, of those up to the alarm."""
    new, old = statistics.median(values[-LAST:]), statistics.median(values[:-LAST])
    limit = (new + old) / 2
    place = len(values)
    while place > len(values) - 2 * LAST and (values[place - 1] > limit) == (new > old):
        place -= 1
    return min(place, len(values) - 1)


def trend_of(name: TrendName, stored: Sequence[StoredPoint], *, with_points: bool) -> Trend | None:
    """Return the history of an operator as users see it; None without any job."""
    points = [_point(one) for one in stored if one.units > 0]
    if not points:
        return None
    values = [one.unit_s for one in points]
    place = shift_at(values)
    return Trend(
        operator=name.operator,
        params=name.params,
        device_type=name.device_type,
        jobs=len(points),
        unit_s=statistics.median(values[-LAST:]),
        shift=None if place is None else _shift(points, place),
        points=points if with_points else [],
    )


def read_trends(ledger: Ledger, operator: str | None = None) -> list[Trend]:
    """Read the histories of all operators, those that became slower first; of one operator with its jobs.

    Operators that only the service itself uses are left out, unless it is that one.
    """

    def is_shown(name: TrendName) -> bool:
        return not name.operator.startswith(RESERVED_OPERATORS) if operator is None else name.operator == operator

    return sorted_trends(
        trend
        for name, stored in ledger.trends.read()
        if is_shown(name) and (trend := trend_of(name, stored, with_points=operator is not None)) is not None
    )


def sorted_trends(trends: Iterable[Trend]) -> list[Trend]:
    """Sort histories: those that became slower first, then those that became faster, then the others."""
    return sorted(trends, key=lambda one: (-one.shift.ratio if one.shift else 0.0, one.operator, one.device_type))


def _point(one: StoredPoint) -> TrendPoint:
    busy_us = one.useful_us + one.padding_us
    return TrendPoint(
        at=one.at / 1000,
        units=one.units,
        unit_s=busy_us / 1e6 / one.units,
        padding=one.padding_us / busy_us if busy_us else 0.0,
        idle=one.idle_us / busy_us if busy_us else 0.0,
        facts=json.loads(one.facts),
    )


def _shift(points: Sequence[TrendPoint], place: int) -> TrendShift:
    old, new = points[max(place - BEFORE, 0) : place], points[place:]
    return TrendShift(
        at=points[place].at,
        before_s=statistics.median(one.unit_s for one in old),
        after_s=statistics.median(one.unit_s for one in new[-LAST:]),
        changed=[*_changed_facts(old[-1].facts, new[0].facts), *_changed_parts(old, new)],
    )


def _changed_facts(before: dict[str, str], after: dict[str, str]) -> list[str]:
    names = sorted(name for name in before | after if before.get(name) != after.get(name))
    return [f"{name}: {before.get(name, 'none')} → {after.get(name, 'none')}" for name in names]


def _changed_parts(old: Sequence[TrendPoint], new: Sequence[TrendPoint]) -> list[str]:
    found = []
    for part in ("padding", "idle"):
        before, after = (statistics.median(getattr(one, part) for one in those) for those in (old, new))
        if abs(after - before) > PART_SHIFT:
            found.append(f"{part}: {before:.0%} → {after:.0%}")
    sizes = [statistics.median(one.units for one in those) for those in (old, new)]
    if max(sizes) > 4 * min(sizes):
        found.append(f"units of a job: {sizes[0]:,.0f} → {sizes[1]:,.0f}")
    return found
