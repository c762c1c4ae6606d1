"""`batchmill jobs`, `status`, `watch`, `pause`, `resume`, `cancel` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.selection import find_job, job_argument, jobs_argument

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.jobs.status import JobStatus, StageStatus


@click.command()
@click.option(
    "--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="Number of jobs to show."
)
@click.option("--all", "all_jobs", is_flag=True, help="Show all jobs of the service.")
@click.option(
    "--state",
    "states",
    metavar="STATE",
    multiple=True,
    help="Only jobs in this state; repeatable.",
)
@click.option("--name", metavar="PATTERN", help="Only jobs of this name; `*` and `?` are wildcards.")
@click.option("--operator", metavar="NAME", help="Only jobs of this operator.")
@click.option("--tenant", metavar="NAME", help="Only jobs of this tenant.")
@json_option
@service_options
def jobs(
    client: Client,
    limit: int,
    all_jobs: bool,
    states: tuple[str, ...],
    name: str | None,
    operator: str | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    A job that waits for something that you can change, such as workers of its pool, is shown as blocked, with the
    reason. With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import ago, print_json, print_table
    from batchmill.cli.terminal.tables import Column
    from batchmill.wording import pace, progress, state

    matching = client.jobs(
        None if all_jobs else limit, state=states or None, name=name, operator=operator, tenant=tenant
    )
    found = [job.latest for job in matching if job.latest is not None]
    if as_json:
        for status in found:
            print_json(status)
        return
    rows = [
        (
            one.id,
            state(one),
            one.title,
            one.name or "",
            progress(one),
            pace(one),
            ago(one.created_at),
            one.note or "",
        )
        for one in found
    ]
    is_filtered = bool(states or name or operator or tenant)
    print_table(
        (
            "JOB",
            "STATE",
            Column("OPERATOR", is_text=True),
            Column("NAME", is_text=True),
            "ROWS",
            "PACE",
            "CREATED",
            Column("BLOCKED", is_below=True),
        ),
        rows,
        empty="No job matches." if is_filtered else "No jobs yet. `batchmill submit --help` shows how to submit one.",
    )


@click.command()
@job_argument
@json_option
@service_options
def status(client: Client, job_id: str, as_json: bool) -> None:
    """Show a job's status.

    Exits with 0 whatever the job's state; the exit code of `batchmill watch` depends on how the job ended.
    """
    _show(find_job(client, job_id).status(), as_json)


@click.command()
@job_argument
@json_option
@service_options
def watch(client: Client, job_id: str, as_json: bool) -> None:
    """Follow a job until it ends.

    Exits with 1 if it failed, was cancelled or expired. Shows a progress bar on a terminal, and one line every few
    seconds when piped; with --json, each status as one JSON object per line. Ctrl-C stops watching; the job
    continues.
    """
    from batchmill.cli.terminal.progress import watch_to_the_end

    watch_to_the_end(find_job(client, job_id), as_json=as_json, each_as_json=as_json)


@click.command()
@job_argument
@json_option
@service_options
def pause(client: Client, job_id: str, as_json: bool) -> None:
    """Pause a job; `batchmill resume` resumes it.

    Its workers stop after the current batch, and no more of its shards are started. A deadline keeps running.
    """
    _print_change(find_job(client, job_id).pause(), "`batchmill resume {}` resumes it", as_json)


@click.command()
@job_argument
@click.option(
    "--budget",
    type=click.FloatRange(1e-6, 1e6),
    help="New budget: the total that the job may cost, what it has cost so far included.",
)
@click.option(
    "--any-version", is_flag=True, help="Continue with the versions of its operators that the workers have now."
)
@json_option
@service_options
def resume(client: Client, job_id: str, budget: float | None, any_version: bool, as_json: bool) -> None:
    """Resume a paused job.

    A job that has used up its budget needs a higher one.
    """
    _print_change(
        find_job(client, job_id).resume(budget=budget, any_version=any_version),
        "`batchmill watch {}` follows it",
        as_json,
    )


@click.command()
@job_argument
@json_option
@service_options
def drain(client: Client, job_id: str, as_json: bool) -> None:
    """End a job over a stream after the rows that are planned.

    Another job can begin where it ends: give its id as `start` of the source.
    """
    _print_change(find_job(client, job_id).drain(), "`batchmill watch {}` waits for its end", as_json)


def _print_change(changed: JobStatus, what_next: str, as_json: bool) -> None:
    from batchmill.cli.terminal.console import print_json
    from batchmill.wording import progress

    if as_json:
        print_json(changed)
    else:
        click.echo(f"{changed.id} {changed.state}: {progress(changed)}; {what_next.format(changed.id)}")


@click.command()
@jobs_argument
@json_option
@service_options
def cancel(client: Client, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Stop jobs and keep their finished rows.

    A job that has ended is not changed. With several jobs and --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import outcome, print_json

    for job in [find_job(client, job_id) for job_id in job_ids]:
        now = job.cancel()
        if as_json:
            print_json(now)
        elif now.is_final:
            click.echo(outcome(now))
        else:
            stops = "; its workers stop after the current batch" if now.shards_running else ""
            click.echo(f"{now.id} {now.state}{stops}")


@click.command()
@jobs_argument
@service_options
def delete(client: Client, job_ids: tuple[str, ...]) -> None:
    """Delete ended jobs: their records, rows and results.

    Output folders stay. Cancel a running job first.
    """
    for job in [find_job(client, job_id) for job_id in job_ids]:
        job.delete()
        click.echo(f"{job.id} deleted")


def _show(status: JobStatus, as_json: bool) -> None:
    from batchmill.cli.cost import in_short
    from batchmill.cli.terminal.console import ago, fields, moment, print_json
    from batchmill.jobs.job import DEFAULT_TENANT
    from batchmill.wording import dead, duration, pace, progress, requested, state, tokens

    if as_json:
        print_json(status)
        return
    ended = status.finished_at
    fields(
        [
            ("job", status.id),
            ("state", state(status)),
            ("operator", status.operator if len(status.stages) < 2 else None),
            ("name", status.name),
            ("pool", status.pool if len(status.stages) < 2 else None),
            ("priority", status.priority or None),
            ("deadline", moment(status.deadline_at) if status.deadline_at else None),
            ("rows", progress(status)),
            ("failed", dead(status)),
            ("tokens", tokens(status.tokens)),
            ("pace", pace(status)),
            ("shards", f"{status.shards_done:,} done, {status.shards_running:,} running"),
            ("tenant", status.tenant if status.tenant != DEFAULT_TENANT else None),
            ("cost", in_short(status.cost) if status.cost else None),
            ("created", ago(status.created_at)),
            ("took", duration(ended - (status.started_at or status.created_at)) if ended else None),
            *_stages(status),
            *requested(status),
            ("replay of", status.replay_of),
            ("resumed from", status.resumed_from),
            ("output", status.output),
            ("blocked", status.note),
            ("error", status.error.message if status.error else None),
        ]
    )


def _stages(status: JobStatus) -> list[tuple[str, str]]:
    """Describe the stages of a job of several."""
    if len(status.stages) < 2:
        return []
    return [(f"stage {stage.name}", _stage(stage)) for stage in status.stages]


def _stage(stage: StageStatus) -> str:
    from batchmill.jobs.job import DEFAULT_POOL
    from batchmill.wording import byte_size, duration, rows_per_second

    total = "?" if stage.rows_total is None else f"{stage.rows_total:,}"
    parts = [
        f"{stage.rows_done + stage.rows_dead:,} of {total} rows",
        f"{stage.rows_dead:,} failed" if stage.rows_dead else "",
        f"{stage.rows_filtered:,} without a result" if stage.rows_filtered else "",
        f"{stage.results:,} results" if stage.results is not None else "",
        f"{byte_size(stage.buffered_bytes)} wait for the next stage" if stage.buffered_bytes else "",
        rows_per_second(stage.rows_per_second) if stage.rows_per_second is not None else "",
        f"{duration(stage.eta_s)} left" if stage.eta_s else "",
        f"operator {stage.operator}" if stage.operator != stage.name else "",
        f"pool {stage.pool}" if stage.pool != DEFAULT_POOL else "",
        ""
        if not stage.why_fused
        else f"{'runs with the stage before' if stage.fused else 'runs apart'}: {stage.why_fused}",
    ]
    return ", ".join(part for part in parts if part)
