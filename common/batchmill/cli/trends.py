"""`batchmill trends`: whether operators have become slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.trends import Trend

BARS = "▁▂▃▄▅▆▇█"
SHOWN_POINTS = 40


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
