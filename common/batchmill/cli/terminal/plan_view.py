"""A plan for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.terminal.console import fields
from batchmill.wording import byte_size, count, duration, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.insights.plans import Estimate, Plan, PlannedStage, PlanOutcome


def show_plan(plan: Plan) -> None:
    """Print a plan for people."""
    about = "" if plan.rows_are_exact else "about "
    lines = [
        ("plan", f"{plan.id}, {plan.state}"),
        ("job", plan.title),
        ("rows", f"{about}{plan.rows:,}, of which {plan.sampled_rows:,} were run"),
        ("device time", plan.work and _time(plan.work)),
        ("cost", _cost(plan)),
        *((count(one.workers, "worker"), _time(one.seconds)) for one in plan.times),
        *_stages(plan),
        ("failed", _errors(plan)),
        ("devices", ", ".join(f"{one.device_type} {one.relative_s:.1f}x" for one in plan.devices)),
        ("deadline", _deadline(plan)),
        ("past plans", _past(plan)),
        ("took", plan.outcome and _outcome(plan.outcome)),
        ("error", plan.error and plan.error.message),
    ]
    fields(lines)
    for note in plan.notes:
        click.echo(printable(note))
    if plan.work is not None and plan.job is None:
        click.echo(f"`batchmill submit --from-plan {plan.id}` submits the job.")


def _stages(plan: Plan) -> Iterator[tuple[str, str]]:
    if len(plan.stages) > 1:
        for stage in plan.stages:
            parts = [f"{stage.rows:,.0f} rows, {duration(stage.seconds)}", *_batches(stage)]
            yield f"stage {stage.name}", ", ".join(parts)
    else:
        yield from (("batches", ", ".join(_batches(stage))) for stage in plan.stages)
    failing = [stage.failing for stage in plan.stages]
    if plan.errors:
        low, value, high = (sum(getattr(one, end) for one in failing) for end in ("low", "value", "high"))
        yield "will fail", f"about {value:,.0f} rows ({low:,.0f} to {high:,.0f})"


def _batches(stage: PlannedStage) -> list[str]:
    found = []
    if stage.batch_rows is not None:
        found.append(f"batches of {count(stage.batch_rows)}")
    if stage.peak_bytes:
        found.append(f"up to {byte_size(stage.peak_bytes)} of device memory")
    return found


def _time(estimate: Estimate) -> str:
    return f"{duration(estimate.value)} ({duration(estimate.low)} to {duration(estimate.high)})"


def _cost(plan: Plan) -> str:
    """Show what a job will cost; nothing where workers have no prices."""
    return f"{_money(plan.cost)} {plan.currency}" if plan.cost is not None and plan.cost.high > 0 else ""


def _money(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _errors(plan: Plan) -> str:
    shown = ", ".join(f"{kind} {rows:,}" for kind, rows in plan.errors.items())
    return f"{shown} of the sample" if shown else ""


def _deadline(plan: Plan) -> str:
    if plan.deadline is None:
        return ""
    verdict = "can be held" if plan.deadline.is_possible else "cannot be held with the workers that run"
    enough = f"; {count(plan.deadline.workers, 'worker')} in each pool would do" if plan.deadline.workers else ""
    return f"in {duration(plan.deadline.left_s)}: {verdict}{'' if plan.deadline.is_possible else enough}"


def _past(plan: Plan) -> str:
    if plan.past is None:
        return ""
    return f"{plan.past.within} of {plan.past.plans} in their interval, off by {plan.past.median_error:.0%} (median)"


def _outcome(outcome: PlanOutcome) -> str:
    return (
        f"{duration(outcome.device_s)} of devices ({off_by(outcome)}), {duration(outcome.seconds)} in all "
        f"({outcome.seconds / max(outcome.planned_s.value, 1e-9) - 1:+.0%})"
    )


def off_by(outcome: PlanOutcome) -> str:
    """Return how far the time of devices was off that of the plan: `+4%`."""
    return f"{outcome.device_s / max(outcome.planned_device_s.value, 1e-9) - 1:+.0%}"
