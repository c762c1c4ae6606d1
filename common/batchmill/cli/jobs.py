"""`batchmill jobs`, `status`, `watch`, `pause`, `resume`, `cancel` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.job import JobStatus


@click.command()
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="How many to show.")
@click.option("--all", "all_jobs", is_flag=True, help="Show every job the service knows.")
@json_option
@service_options
def jobs(client: Client, limit: int, all_jobs: bool, as_json: bool) -> None:
    """List jobs, newest first.

    With --json each job is one JSON object on a line.
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
    print_table(columns, rows, empty="No jobs yet. `batchmill submit --help` tells how to submit one.")


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def status(client: Client, job_id: str, as_json: bool) -> None:
    """Show how a job stands.

    Exits with 0 whatever the job's state; `batchmill watch` tells by its exit code how a job ended.
    """
    _show(client.job(job_id).status(), as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def watch(client: Client, job_id: str, as_json: bool) -> None:
    """Follow a job until it ends; exits with 1 if it failed, was cancelled or expired.

    A progress bar on a terminal, a line every few seconds in a pipe, and with --json each status as a JSON object on
    a line. Ctrl-C stops watching; the job goes on.
    """
    from batchmill.cli.progress import watch_to_the_end

    watch_to_the_end(client.job(job_id), as_json=as_json, each_as_json=as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def pause(client: Client, job_id: str, as_json: bool) -> None:
    """Hold a job; `batchmill resume` lets it go on.

    Its workers let go at the end of their batches, and nothing more of it is begun. A deadline goes on counting.
    """
    _steered(client.job(job_id).pause(), f"`batchmill resume {job_id}` lets it go on", as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--budget", type=click.FloatRange(1e-6, 1e6), help="What the job may cost from now on, in all.")
@json_option
@service_options
def resume(client: Client, job_id: str, budget: float | None, as_json: bool) -> None:
    """Let a paused job go on where it stood.

    One that has cost its budget goes on with a higher one only.
    """
    _steered(client.job(job_id).resume(budget=budget), f"`batchmill watch {job_id}` follows it", as_json)


def _steered(now: JobStatus, what_next: str, as_json: bool) -> None:
    from batchmill.cli.console import print_json
    from batchmill.wording import progress

    if as_json:
        print_json(now)
    else:
        click.echo(f"{now.id} {now.state}: {progress(now)}; {what_next}")


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@service_options
def cancel(client: Client, job_id: str, as_json: bool) -> None:
    """Stop a job; the results it has are kept.

    A job that has ended stays as it is.
    """
    from batchmill.cli.console import outcome, print_json

    now = client.job(job_id).cancel()
    if as_json:
        print_json(now)
    elif now.is_final:
        click.echo(outcome(now))
    else:
        click.echo(f"{now.id} {now.state}: its workers let go at the end of their batches")


@click.command()
@click.argument("job_id", metavar="JOB")
@service_options
def delete(client: Client, job_id: str) -> None:
    """Delete an ended job: its record, its rows and its results.

    The folder of its --output stays. A job that still runs is to be cancelled first.
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
            ("dead", dead(status)),
            ("pace", pace(status)),
            ("shards", f"{status.shards_done:,} done, {status.shards_running:,} running"),
            ("tenant", status.tenant if status.tenant != DEFAULT_TENANT else None),
            ("cost", in_short(status.cost) if status.cost else None),
            ("created", ago(status.created_at)),
            ("took", duration(ended - (status.started_at or status.created_at)) if ended else None),
            ("output", status.output),
            ("waits for", status.note),
            ("error", status.error.message if status.error else None),
        ]
    )
