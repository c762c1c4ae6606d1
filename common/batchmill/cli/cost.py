"""`batchmill cost`, `plans`, `trends` and `trials`: what jobs cost, what they will take, took, and what was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.selection import find_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.client import Client
    from batchmill.insights.plans import Plan
    from batchmill.insights.trends import Trend
    from batchmill.insights.trials import Trial
    from batchmill.jobs.cost import CostTotals
    from batchmill.jobs.status import Cost, JobCost

BARS = "▁▂▃▄▅▆▇█"
NO_TRIALS = (
    "Nothing was tried. Workers try batch sizes only with BATCHMILL_TRIALS=true, and only in jobs of some 20 batches."
)
SHOWN_POINTS = 40
PARTS = ("useful", "padding", "retried", "preempted", "load", "idle")


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Without JOB: maximum number of lines per table.",
)
@json_option
@service_options
def cost(client: Client, job_id: str | None, limit: int, as_json: bool) -> None:
    """Show compute time and cost of jobs.

    Of JOB, by what it was used for; without JOB, of all jobs: by tenant, by pool and operator, and by day, and what
    tenants have used of their quotas. Time is the time of worker slots; cost is that time at the workers' prices
    (BATCHMILL_PRICE_PER_HOUR).
    """
    from batchmill.cli.terminal.console import print_json

    if job_id:
        job = find_job(client, job_id)
        of_job = job.cost()
        print_json(of_job) if as_json else _show_job(of_job, [stage.name for stage in job.status().stages])
    else:
        of_all = client.costs(limit)
        print_json(of_all) if as_json else _show_totals(of_all)


def _show_job(found: JobCost, stages: Sequence[str]) -> None:
    from batchmill.cli.terminal.console import print_table
    from batchmill.wording import count

    def line(name: str, seconds: float, amount: float) -> Sequence[str]:
        share = f"{seconds / found.total_s:.1%}" if found.total_s else ""
        return name, f"{seconds:.3f} s", share, money(amount, found.currency)

    spent = {part: (getattr(found.seconds, part), getattr(found.money, part)) for part in PARTS}
    lines = [line(part, *of_part) for part, of_part in spent.items() if any(of_part)]
    print_table(("PART", "TIME", "SHARE", "COST"), [*lines, line("total", found.total_s, found.total)], empty="")
    if len(found.stages) > 1:
        _show_sums("STAGE", [(stages[stage.stage], stage) for stage in found.stages], found.currency)
    if found.per_thousand_rows is not None:
        click.echo(f"{money(found.per_thousand_rows, found.currency)} per 1,000 rows ({count(found.rows)} so far)")
    if found.per_million_tokens is not None:
        click.echo(f"{money(found.per_million_tokens, found.currency)} per million tokens")
    if found.budget is not None:
        click.echo(f"{money(found.total, found.currency)} of a budget of {money(found.budget, found.currency)}")


def _show_totals(found: CostTotals) -> None:
    from batchmill.cli.terminal.console import print_table

    click.echo("By tenant")
    _show_sums("TENANT", [*((one.tenant, one) for one in found.tenants), ("all", found.all)], found.currency)
    click.echo("\nBy pool and operator")
    _show_sums("POOL, OPERATOR", [(f"{one.pool}, {one.operator}", one) for one in found.operators], found.currency)
    click.echo("\nBy day")
    _show_sums("DAY", [(one.day.isoformat(), one) for one in found.days], found.currency)
    if found.quotas:
        click.echo("\nQuotas of device time")
        print_table(
            ("TENANT", "USED", "OF", "SHARE", "PERIOD ENDS"),
            [
                (
                    *(one.tenant, f"{one.used_s:,.0f} s", f"{one.limit_s:,} s", f"{one.share:.0%}"),
                    f"{one.ends_at:%Y-%m-%d %H:%M} UTC",
                )
                for one in found.quotas
            ],
            empty="",
        )


def _show_sums(what: str, sums: Sequence[tuple[str, Cost]], currency: str) -> None:
    from batchmill.cli.terminal.console import print_table

    lines = [
        (
            name,
            f"{one.total_s:.3f} s",
            *(f"{getattr(one.seconds, part) / one.total_s:.1%}" if one.total_s else "" for part in PARTS),
            money(one.total, currency),
            "" if one.per_thousand_rows is None else money(one.per_thousand_rows, currency),
        )
        for name, one in sums
    ]
    print_table(
        (what, "TIME", *(part.upper() for part in PARTS), "COST", "PER 1,000 ROWS"),
        lines,
        empty="nothing yet",
    )


def money(amount: float, currency: str) -> str:
    """Format an amount: `12.30 USD`; small amounts get more digits, so that cheap rows do not show as 0.00."""
    digits = f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.3g}"
    return f"{digits} {currency}"


def in_short(found: JobCost) -> str | None:
    """`0.012 USD of 5.00 USD, 0.4 USD per 1,000 rows`; None without a price and a budget."""
    if not found.total and found.budget is None:
        return None
    limit = "" if found.budget is None else f" of {money(found.budget, found.currency)}"
    rate = found.per_thousand_rows
    per_rows = "" if rate is None else f", {money(rate, found.currency)} per 1,000 rows"
    return f"{money(found.total, found.currency)}{limit}{per_rows}"


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
        print_table(columns, rows, empty="No job was planned yet. `batchmill submit … --plan` makes a plan.")


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
    """Show how fast operators were, and what has changed.

    The latest jobs are compared, on each type of device. PARAMS is a digest of the parameters. PER UNIT is the time of
    a device for a unit of work: a token, a pixel or a row, as the operator counts. A change is shown when noise does
    not explain it: NOW is the change of that time, so +20% is slower, SINCE is when it began, and CHANGED is what else
    changed then. With OPERATOR, only this one is shown, with a bar for each job.

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
    print_table(
        columns,
        rows,
        empty=f"No job of the operator {operator!r} was measured yet." if operator else "No job was measured yet.",
    )


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


@click.command()
@click.argument("operator", required=False)
@json_option
@service_options
def trials(client: Client, operator: str | None, as_json: bool) -> None:
    """Show which batch sizes workers have tried, and with which outcome.

    Pairs of batches are compared on the same worker. TIME is that of a unit with the value that is tried, over that
    with the usual value, with the interval that holds in 95 of 100 trials. A value that won is used until it expires.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    found = client.trials(operator)
    if as_json:
        for one in found:
            print_json(one)
        return
    columns = (
        *("OPERATOR", "PARAMS", "DEVICE", "SETTING", "USUAL", "TRIED", "PAIRS", "TIME", "INTERVAL", "STATE", "UPDATED"),
        *("EXPIRES", Column("WHY", is_text=True)),
    )
    print_table(columns, [_trial_row(one) for one in found], empty=NO_TRIALS)


def _trial_row(one: Trial) -> tuple[str, ...]:
    from datetime import UTC, datetime

    from batchmill.cli.terminal.console import ago

    time, interval = "", ""
    if one.ratio is not None and one.low is not None and one.high is not None:
        time, interval = f"{one.ratio - 1:+.1%}", f"{one.low - 1:+.1%} to {one.high - 1:+.1%}"
    expires = "" if one.expires_at is None else datetime.fromtimestamp(one.expires_at, UTC).strftime("%Y-%m-%d %H:%M")
    what = one.operator, one.params, one.device_type, one.setting, f"{one.usual:g}", f"{one.candidate:g}"
    return *what, str(one.pairs), time, interval, one.state.value, ago(one.updated_at), expires, one.why
