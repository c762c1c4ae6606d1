"""`batchmill plans` and `batchmill trends`: what jobs will take, and what they took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.plans import Plan
    from batchmill.trends import Trend

BARS = "▁▂▃▄▅▆▇█"
SHOWN_POINTS = 40


@click.command()
@click.argument("plan_id", metavar="[PLAN]", required=False)
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most this many.")
@json_option
@service_options
def plans(client: Client, plan_id: str | None, limit: int, as_json: bool) -> None:
    """List the latest plans with what their jobs took, or show one PLAN.

    `batchmill submit --plan` makes a plan, `batchmill submit --from-plan` submits its job.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import ago, print_json, print_table
    from batchmill.cli.terminal.plan_view import show_plan
    from batchmill.cli.terminal.tables import Column

    found = client.plans(limit) if plan_id is None else [client.find_plan(plan_id)]
    if as_json:
        for one in found:
            print_json(one)
    elif plan_id is not None:
        show_plan(found[0])
    else:
        columns = (
            *("PLAN", "STATE", "ROWS", "DEVICE TIME", "TOOK", "OFF BY", "MADE"),
            *(Column("JOB"), Column("WHAT", is_text=True)),
        )
        rows = [
            (one.id, one.state, f"{one.rows:,}", *_compared(one), ago(one.created_at), one.job or "", one.title)
            for one in found
        ]
        print_table(columns, rows, empty="no job was planned yet")


def _compared(plan: Plan) -> tuple[str, str, str]:
    from batchmill.cli.terminal.plan_view import off_by
    from batchmill.wording import duration

    planned = "" if plan.work is None else duration(plan.work.value)
    if plan.outcome is None:
        return planned, "", ""
    return planned, duration(plan.outcome.device_s), off_by(plan.outcome)


@click.command()
@click.argument("operator", required=False)
@json_option
@service_options
def trends(client: Client, operator: str | None, as_json: bool) -> None:
    """Show how fast operators were over the latest jobs, on each type of device, and what has changed.

    A change is shown when noise does not explain it, with what else changed then. With OPERATOR, only this one is
    shown, with a bar for each job.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    found = client.trends(operator)
    if as_json:
        for one in found:
            print_json(one)
        return
    columns = (
        *("OPERATOR", "PARAMS", "DEVICE", "JOBS", "PER UNIT", "NOW", "SINCE"),
        *(Column("CHANGED", is_text=True), *([Column("JOBS, OLDEST FIRST")] if operator else ())),
    )
    rows = [(*_row(one), *([_bars(one)] if operator else ())) for one in found]
    print_table(columns, rows, empty="no job was measured yet")


def _row(one: Trend) -> tuple[str, ...]:
    from batchmill.cli.terminal.console import ago

    now, since, changed = "", "", ""
    if one.shift is not None:
        now, since = f"{one.shift.ratio - 1:+.0%}", ago(one.shift.at)
        changed = "; ".join(one.shift.changed) or "nothing that is known"
    return one.operator, one.params, one.device_type, str(one.jobs), _per_unit(one.unit_s), now, since, changed


def _per_unit(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _bars(one: Trend) -> str:
    values = [point.unit_s for point in one.points[-SHOWN_POINTS:]]
    low, high = min(values), max(values)
    if high <= low * 1.02:  # alike, as far as an eye can say
        return BARS[3] * len(values)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in values)
