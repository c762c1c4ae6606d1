"""`batchmill cost`: compute time and cost of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.selection import find_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.client import Client
    from batchmill.jobs.cost import CostTotals
    from batchmill.jobs.status import Cost, JobCost

PARTS = ("useful", "padding", "retried", "load", "idle")


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

    Of JOB, by what it was used for; without JOB, of all jobs: by tenant, by pool and operator, and by day. Time is
    the time of worker slots; cost is that time at the workers' prices (BATCHMILL_PRICE_PER_HOUR).
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

    lines = [line(part, getattr(found.seconds, part), getattr(found.money, part)) for part in PARTS]
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
    click.echo("By tenant")
    _show_sums("TENANT", [*((one.tenant, one) for one in found.tenants), ("all", found.all)], found.currency)
    click.echo("\nBy pool and operator")
    _show_sums("POOL, OPERATOR", [(f"{one.pool}, {one.operator}", one) for one in found.operators], found.currency)
    click.echo("\nBy day")
    _show_sums("DAY", [(one.day.isoformat(), one) for one in found.days], found.currency)


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
        empty="",
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
