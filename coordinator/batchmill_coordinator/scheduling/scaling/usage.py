"""What the workers of a pool cost, and what would have been enough: sums by day, which the scaler adds to. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from batchmill.fleet import PoolUsage
from batchmill.jobs.frozen import Frozen
from batchmill.wording import count, hours

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DAYS = 14
MAX_STEP_S = 60.0
"""Nothing is known of longer times between two decisions: no coordinator led."""
SLACK = 1.25  # a number of worker hours that is this much larger is worth a remark


class DayUsage(Frozen):
    """The sums of one day, UTC. Seconds of workers."""

    day: date
    present_s: float = 0.0
    enough_s: float = 0.0  # the workers that were wanted, held as `autoscale` holds them
    busy_s: float = 0.0  # device time that was charged
    most_present: int = 0
    most_wanted: int = 0
    cost: float = 0.0  # of the workers that were there
    cost_enough: float = 0.0


def noted_usage(
    days: Sequence[DayUsage], now_s: float, passed_s: float, present: int, wanted: int, busy_s: float, price: float
) -> tuple[DayUsage, ...]:
    """Add the time since the last decision. present, wanted: workers; price: of one, an hour."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    earlier = [one for one in days if one.day != today]
    own = next((one for one in days if one.day == today), DayUsage(day=today))
    passed_s = min(max(passed_s, 0.0), MAX_STEP_S)
    added = DayUsage(
        day=today,
        present_s=own.present_s + present * passed_s,
        enough_s=own.enough_s + wanted * passed_s,
        busy_s=own.busy_s + max(busy_s, 0.0),
        most_present=max(own.most_present, present),
        most_wanted=max(own.most_wanted, wanted),
        cost=own.cost + present * passed_s * price / 3600,
        cost_enough=own.cost_enough + wanted * passed_s * price / 3600,
    )
    return (*earlier, added)[-MAX_DAYS:]


def usage_of(pool: str, days: Sequence[DayUsage], since: date, currency: str) -> PoolUsage:
    """Sum the days from `since` on up."""
    found = [one for one in days if one.day >= since]
    present_h, enough_h = sum(one.present_s for one in found) / 3600, sum(one.enough_s for one in found) / 3600
    most_present = max((one.most_present for one in found), default=0)
    most_wanted = max((one.most_wanted for one in found), default=0)
    cost, cost_enough = sum(one.cost for one in found), sum(one.cost_enough for one in found)
    return PoolUsage(
        pool=pool,
        since=since,
        worker_hours=round(present_h, 4),
        enough_hours=round(enough_h, 4),
        busy_hours=round(sum(one.busy_s for one in found) / 3600, 4),
        most_workers=most_present,
        most_wanted=most_wanted,
        currency=currency,
        cost=round(cost, 6),
        cost_enough=round(cost_enough, 6),
        advice=_advice(present_h, enough_h, most_present, most_wanted, f"{cost - cost_enough:.2f} {currency}"),
    )


def _advice(present_h: float, enough_h: float, most_present: int, most_wanted: int, saved: str) -> str:
    if most_wanted > most_present:
        were = "was" if most_present == 1 else "were"
        return f"at its peak the work needed {count(most_wanted, 'worker')}, and {most_present} {were} there"
    if present_h > SLACK * enough_h:
        money = "" if saved.startswith(("0.00 ", "-")) else f", {saved} less"
        return (
            f"{hours(enough_h)} worker hours would have been enough{money}: let the number of workers follow the work"
        )
    return "the number of workers followed the work"
