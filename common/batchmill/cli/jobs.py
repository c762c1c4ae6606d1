"""`batchmill jobs`, `status`, `watch`, `pause`, `resume`, `cancel` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.job import JobStatus


@click.command()
@click.option(
    "--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="Number of jobs to show."
)
@click.option("--all", "all_jobs", is_flag=True, help="Show all jobs of the service.")
@json_option
@service_options
def jobs(client: Client, limit: int, all_jobs: bool, as_json: bool) -> None:
    """List jobs, newest first.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.console import ago, print_json, print_table
    from batchmill.wording import pace, progress

    found = [job.latest for job in client.jobs(None if all_jobs else limit) if job.latest is not None]
    if as_json:
        for status in found:
            print_json(status)
        return
    rows = [
        (one.id, str(one.state), one.operator, one.name or "", progress(one), pace(one), ago(one.created_at))
        for one in found
    ]
    columns = ("JOB", "STATE", "OPERATOR", "NAME", "ROWS", "PACE", "CREATED")
    print_table(columns, rows, empty="No jobs yet. `batchmill submit --help` shows how to submit one.")


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def status(client: Client, job_id: str, as_json: bool) -> None:
    """Show a job's status.

    Exits with 0 whatever the job's state; the exit code of `batchmill watch` depends on how the job ended.
    """
    _show(client.job(job_id).status(), as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def watch(client: Client, job_id: str, as_json: bool) -> None:
    """Follow a job until it ends; exits with 1 if it failed, was cancelled or expired.

    Shows a progress bar on a terminal, and one line every few seconds when piped; with --json, each status as one JSON
    object per line. Ctrl-C stops watching; the job continues.
    """
    from batchmill.cli.progress import watch_to_the_end

    watch_to_the_end(client.job(job_id), as_json=as_json, each_as_json=as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def pause(client: Client, job_id: str, as_json: bool) -> None:
    """Pause a job; `batchmill resume` resumes it.

    Its workers stop after the current batch, and no more of its shards are started. A deadline keeps running.
    """
    _print_change(client.job(job_id).pause(), f"`batchmill resume {job_id}` resumes it", as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
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
        client.job(job_id).resume(budget=budget, any_version=any_version),
        f"`batchmill watch {job_id}` follows it",
        as_json,
    )


def _print_change(changed: JobStatus, what_next: str, as_json: bool) -> None:
    from batchmill.cli.console import print_json
    from batchmill.wording import progress

    if as_json:
        print_json(changed)
    else:
        click.echo(f"{changed.id} {changed.state}: {progress(changed)}; {what_next}")


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def cancel(client: Client, job_id: str, as_json: bool) -> None:
    """Stop a job and keep its finished rows.

    A job that has ended is not changed.
    """
    from batchmill.cli.console import outcome, print_json

    now = client.job(job_id).cancel()
    if as_json:
        print_json(now)
    elif now.is_final:
        click.echo(outcome(now))
    else:
        stops = "; its workers stop after the current batch" if now.shards_running else ""
        click.echo(f"{now.id} {now.state}{stops}")


@click.command()
@click.argument("job_id", metavar="JOB")
@service_options
def delete(client: Client, job_id: str) -> None:
    """Delete an ended job: its record, its rows and its results.

    The output folder stays. Cancel a running job first.
    """
    client.job(job_id).delete()
    click.echo(f"{job_id} deleted")


def _show(status: JobStatus, as_json: bool) -> None:
    from batchmill.cli.console import ago, fields, moment, print_json
    from batchmill.cli.cost import in_short
    from batchmill.job import DEFAULT_TENANT
    from batchmill.wording import dead, duration, pace, progress

    if as_json:
        print_json(status)
        return
    ended = status.finished_at
    fields(
        [
            ("job", status.id),
            ("state", status.state.value),
            ("operator", status.operator),
            ("name", status.name),
            ("pool", status.pool),
            ("priority", status.priority or None),
            ("deadline", moment(status.deadline_at) if status.deadline_at else None),
            ("rows", progress(status)),
            ("failed", dead(status)),
            ("pace", pace(status)),
            ("shards", f"{status.shards_done:,} done, {status.shards_running:,} running"),
            ("tenant", status.tenant if status.tenant != DEFAULT_TENANT else None),
            ("cost", in_short(status.cost) if status.cost else None),
            ("created", ago(status.created_at)),
            ("took", duration(ended - (status.started_at or status.created_at)) if ended else None),
            ("output", status.output),
            ("blocked", status.note),
            ("error", status.error.message if status.error else None),
        ]
    )
